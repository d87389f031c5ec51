"""The connections that all scorers of the process share."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Self
from urllib.parse import quote, urlsplit
from weakref import WeakSet

from pydantic import SecretBytes, SecretStr

from qwen_rerank.scorers.http.connection import (
    Connection,
    Origin,
    StaleConnectionError,
    open_connection,
)
from qwen_rerank.scorers.http.http11 import HTTPResponse
from qwen_rerank.scorers.http.proxies import Proxy, proxy_for

__all__ = ["ConnectionPool", "Endpoint", "Headers"]

Headers = Mapping[str, SecretStr | str]

_KEEP_ALIVE = 15.0
_MAX_CONNECTIONS = 100


class Endpoint(NamedTuple):
    """Where requests are sent.

    Attributes:
        origin: The server.
        target: The path, as it is sent.
    """

    origin: Origin
    target: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Read an http or https URL.

        Raises:
            ValueError: The host is not a valid host name.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
        return cls(Origin(parts.scheme, host, port), target)


class ConnectionPool:
    """HTTP connections by server. For a single event loop, so that it needs no lock.

    Args:
        keep_alive: Seconds after which a connection that is not used is closed.
        max_connections: How many connections to one server may be open at the same time. Further
            requests wait for one, in the order in which they come.
    """

    def __init__(
        self, *, keep_alive: float = _KEEP_ALIVE, max_connections: int = _MAX_CONNECTIONS
    ) -> None:
        self._keep_alive = keep_alive
        self._max_connections = max_connections
        self._slots: dict[Origin, asyncio.Semaphore] = {}
        self._idle: defaultdict[Origin, list[tuple[float, Connection]]] = defaultdict(list)
        self._open: WeakSet[Connection] = WeakSet()
        self._holders: WeakSet[object] = WeakSet()
        self._expiry: asyncio.TimerHandle | None = None

    def hold(self, holder: object) -> None:
        """Keep idle connections open until the holder lets go."""
        self._holders.add(holder)

    def let_go(self, holder: object) -> None:
        """Close idle connections if nobody else holds them."""
        self._holders.discard(holder)
        if not self._holders:
            self._close_idle()

    def slot(self, origin: Origin) -> AbstractAsyncContextManager[object]:
        """A place among the server's connections. Entering it waits until there is one."""
        slot = self._slots.get(origin)
        if slot is None:
            slot = self._slots[origin] = asyncio.Semaphore(self._max_connections)
        return slot

    async def post(
        self, endpoint: Endpoint, headers: Headers, body: Sequence[bytes]
    ) -> HTTPResponse:
        """Send a POST request.

        Args:
            endpoint: Where to send it.
            headers: The headers, besides Host and Content-Length.
            body: The body, in pieces.

        Raises:
            OSError: The server or the proxy could not be reached, or its certificate is not
                trusted.
            ProxyError: The proxy refused to connect to the server.
            ConnectionLostError: The connection was closed before the response was complete.
            InvalidResponseError, ResponseTooLargeError: See `ResponseParser`.
            InvalidInputError: See `proxy_for`.
        """
        origin, proxy = endpoint.origin, proxy_for(*endpoint.origin)
        head = _head(endpoint, proxy, headers, sum(map(len, body)))
        while True:
            connection = self._take_idle(origin, proxy)
            if connection is None:
                connection = await open_connection(origin, proxy)
                self._open.add(connection)
            try:
                response = await connection.exchange(head, body)
            except StaleConnectionError:
                continue
            self._give_back(origin, connection)
            return response

    async def close(self) -> None:
        """Close all connections, also those in use."""
        self._close_idle()
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)  # their sockets are closed by callbacks

    def _take_idle(self, origin: Origin, proxy: Proxy | None) -> Connection | None:
        idle = self._idle[origin]
        while idle:
            _, connection = idle.pop()
            if connection.is_reusable and connection.proxy == proxy:
                return connection
            connection.close()
        return None

    def _give_back(self, origin: Origin, connection: Connection) -> None:
        if not connection.is_reusable or not self._holders:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle[origin].append((loop.time() + self._keep_alive, connection))
        if self._expiry is None:
            self._expiry = loop.call_later(self._keep_alive, self._close_expired)

    def _close_expired(self) -> None:
        loop = asyncio.get_running_loop()
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0][0] <= loop.time() or not idle[0][1].is_reusable):
                idle.pop(0)[1].close()
            if not idle:
                del self._idle[origin]
        ends = [idle[0][0] for idle in self._idle.values()]
        self._expiry = loop.call_at(min(ends), self._close_expired) if ends else None

    def _close_idle(self) -> None:
        for idle in self._idle.values():
            for _, connection in idle:
                connection.close()
        self._idle.clear()


def _head(endpoint: Endpoint, proxy: Proxy | None, headers: Headers, length: int) -> SecretBytes:
    """The request line and the headers."""
    origin, target = endpoint
    all_headers: dict[str, SecretStr | str] = {"Host": origin.host_header, **headers}
    if proxy is not None and origin.scheme == "http":
        target = f"http://{origin.host_header}{target}"
        all_headers |= proxy.headers
    lines = [f"{name}: {_plain(value)}\r\n" for name, value in all_headers.items()]
    text = f"POST {target} HTTP/1.1\r\n{''.join(lines)}Content-Length: {length}\r\n\r\n"
    return SecretBytes(text.encode("latin-1"))


def _plain(value: SecretStr | str) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value

"""One HTTP/1.1 connection on the I/O loop: opening it, and exchanging requests for responses."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, cast

import certifi
from pydantic import SecretBytes

from qwen_rerank.scorers.http.http11 import (
    HTTPResponse,
    InvalidResponseError,
    ResponseParser,
    ResponseTooLargeError,
)
from qwen_rerank.scorers.http.proxies import Proxy

__all__ = [
    "Connection",
    "ConnectionLostError",
    "Origin",
    "ProxyError",
    "StaleConnectionError",
    "open_connection",
    "ssl_context",
]

_HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds before another address of the host is tried too (RFC 8305, section 5)."""


class Origin(NamedTuple):
    """A server: `"http"` or `"https"`, the host, and the port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The host and the port, such as `"127.0.0.1:8000"` or `"[::1]:8000"`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The same without the scheme's usual port."""
        suffix = ":443" if self.scheme == "https" else ":80"
        return self.authority.removesuffix(suffix)


class ConnectionLostError(Exception):
    """The connection was closed before the response was complete."""


class StaleConnectionError(Exception):
    """Bytes that do not belong to the request arrived on a connection that was used before."""


class ProxyError(Exception):
    """The proxy refused to connect to the server."""


class Connection(asyncio.Protocol):
    """A connection that is used for one request at a time.

    Attributes:
        proxy: The proxy that it goes through, if any.
    """

    proxy: Proxy | None = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._response: asyncio.Future[HTTPResponse] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._is_written = True
        self._exchanges = 0
        self.is_reusable = False

    async def exchange(
        self, head: SecretBytes, body: Sequence[bytes] = (), *, to_connect: bool = False
    ) -> HTTPResponse:
        """Send a request and return the response. Closes the connection if that fails.

        Args:
            head: The request line and the headers, among which is the key.
            body: The body, in pieces. Other tasks of the loop run between two of them.
            to_connect: Whether the request is a CONNECT.

        Raises:
            ConnectionLostError: The connection was closed before the response was complete.
            StaleConnectionError: Bytes that can't be the response arrived first. Only on a
                connection that was used before.
            InvalidResponseError, ResponseTooLargeError: See `ResponseParser`.
        """
        self.is_reusable = False
        self._parser = ResponseParser(to_connect=to_connect)
        self._response = self._loop.create_future()
        try:
            await self._write(head, body)
            response = await self._response
        except BaseException:
            self._response.cancel()
            self.close()
            raise
        finally:
            self._parser = None
            self._exchanges += 1
        self.is_reusable = response.keeps_alive and self._is_written and not self._is_closing()
        return response

    async def start_tls(self, host: str) -> None:
        """Encrypt a connection that a proxy has opened to the host."""
        assert self._transport is not None
        transport = await self._loop.start_tls(
            self._transport, self, ssl_context(), server_hostname=host
        )
        self._transport = transport

    def close(self) -> None:
        """Close the connection at once."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self._is_stale(parser):
            self._fail(StaleConnectionError())
            self.close()
            return
        try:
            response = parser.feed(data)
        except (InvalidResponseError, ResponseTooLargeError) as error:
            self._fail(error)
            self.close()
        else:
            self._complete(response)

    def eof_received(self) -> None:
        if self._parser is not None:
            self._complete(self._parser.feed_eof())

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        started = self._parser is not None and self._parser.has_started
        when = "in the middle of the response" if started else "before the response"
        lost = ConnectionLostError(f"The connection was closed {when}.")
        lost.__cause__ = error
        self._fail(lost)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._resumed = self._loop.create_future()

    def resume_writing(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    async def _write(self, head: SecretBytes, body: Sequence[bytes]) -> None:
        """Write the request, or as much of it as the server wants to read before it responds."""
        assert self._transport is not None
        assert self._response is not None
        self._is_written = False
        first, *others = body or (b"",)
        self._transport.write(head.get_secret_value() + first)
        for piece in others:
            await (self._resumed or asyncio.sleep(0))
            if self._response.done():
                return
            self._transport.write(piece)
        self._is_written = True

    def _is_stale(self, parser: ResponseParser) -> bool:
        """Whether the response would begin before the request was sent."""
        assert self._transport is not None
        is_sent = self._is_written and not self._transport.get_write_buffer_size()
        return self._exchanges > 0 and not is_sent and not parser.has_started

    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _complete(self, response: HTTPResponse | None) -> None:
        if response is not None and self._response is not None and not self._response.done():
            self._response.set_result(response)
            self.resume_writing()

    def _fail(self, error: Exception) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(error)
            self.resume_writing()


async def open_connection(origin: Origin, proxy: Proxy | None) -> Connection:
    """Open a connection to a server, through the proxy if there is one.

    Raises:
        OSError: The server or the proxy could not be reached, or its certificate is not trusted.
        ProxyError: The proxy refused to connect to the server.
    """
    first = origin if proxy is None else Origin(proxy.scheme, proxy.host, proxy.port)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection,
        first.host,
        first.port,
        ssl=ssl_context() if first.scheme == "https" else None,
        happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY,
    )
    connection.proxy = proxy
    if proxy is not None and origin.scheme == "https":
        await _open_tunnel(connection, origin, proxy)
    return connection


async def _open_tunnel(connection: Connection, origin: Origin, proxy: Proxy) -> None:
    response = await connection.exchange(_connect_head(origin, proxy), to_connect=True)
    if response.status >= 300:
        connection.close()
        raise ProxyError(f"The proxy {proxy} answered CONNECT with status {response.status}.")
    await connection.start_tls(origin.host)


def _connect_head(origin: Origin, proxy: Proxy) -> SecretBytes:
    lines = [f"CONNECT {origin.authority} HTTP/1.1", f"Host: {origin.authority}"]
    lines += [f"{name}: {value.get_secret_value()}" for name, value in proxy.headers.items()]
    return SecretBytes("\r\n".join([*lines, "", ""]).encode("latin-1"))


@cache
def ssl_context() -> ssl.SSLContext:
    """Trusts the system's authorities, and certifi's: slim containers have none of their own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context

"""The HTTP connections that all scorers of the process share: an aiohttp session."""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self
from weakref import WeakSet

import aiohttp
import certifi
from pydantic import SecretStr
from yarl import URL

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.http.auth import Headers
from qwen_rerank.scorers.http.proxies import proxy_for
from qwen_rerank.scorers.http.route import Route

__all__ = [
    "ConnectionLostError",
    "ConnectionPool",
    "Endpoint",
    "HTTPResponse",
    "InvalidResponseError",
    "ResponseTooLargeError",
    "UnreachableError",
    "max_response_bytes",
    "ssl_context",
]

_MAX_RESPONSE_BYTES = 16 * 2**20
"""The largest response that is read to a small request. Scores take about 60 bytes per document."""

_MAX_HEADER_BYTES = 64 * 2**10
"""The longest header of a response. Gateways add cookies that exceed the 8 KiB of aiohttp."""

_KEEP_ALIVE = 15.0

_USUAL = Route()


def _default_max_connections() -> int:
    """Return 100, or half of the files that the process may open if that is less."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 100
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100 if soft == resource.RLIM_INFINITY else min(100, max(1, soft // 2))


class UnreachableError(Exception):
    """The server or the proxy could not be reached, or is not trusted."""


class ConnectionLostError(Exception):
    """The connection was closed before the response was complete."""


class InvalidResponseError(Exception):
    """What the server sent is not a valid HTTP response."""


class ResponseTooLargeError(Exception):
    """The response is larger than `max_response_bytes`."""


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A complete response.

    Attributes:
        status: The status, such as 200.
        headers: The headers, by their names in any case.
        body: The body as it was sent, which can be compressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Endpoint(NamedTuple):
    """Where requests are sent.

    Attributes:
        url: The parsed URL.
        authority: The host and the port, such as `"127.0.0.1:8000"` or `"[::1]:8000"`.
    """

    url: URL
    authority: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Read an http or https URL.

        Raises:
            ValueError: The host is not a valid host name.
        """
        parsed = URL(url)
        return cls(parsed, f"{parsed.host_subcomponent}:{parsed.port}")


class ConnectionPool:
    """HTTP connections by server. For a single event loop, so that it needs no lock.

    Args:
        keep_alive: Seconds after which a connection that is not used is closed.
        max_connections: How many requests to one server may be under way at the same time. Further
            requests wait, in the order in which they come. None for 100, or half of the files that
            the process may open if that is less.
    """

    def __init__(
        self, *, keep_alive: float = _KEEP_ALIVE, max_connections: int | None = None
    ) -> None:
        self._keep_alive = keep_alive
        self._max_connections = max_connections or _default_max_connections()
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._holders: WeakSet[object] = WeakSet()
        self._under_way = 0
        self._is_let_go = False
        self._session: aiohttp.ClientSession | None = None

    def hold(self, holder: object) -> None:
        """Keep idle connections open until the holder lets go."""
        self._holders.add(holder)
        self._is_let_go = False

    async def let_go(self, holder: object) -> None:
        """Close the connections if nobody else holds them, after the requests under way."""
        self._holders.discard(holder)
        self._is_let_go = not self._holders
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_let_go and not self._under_way:
            await self.close()

    def slot(self, endpoint: Endpoint) -> AbstractAsyncContextManager[object]:
        """A slot for a request to a server. Entering it waits until one is free."""
        slot = self._slots.get(endpoint.authority)
        if slot is None:
            slot = asyncio.Semaphore(self._max_connections)
            self._slots[endpoint.authority] = slot
        return slot

    async def post(
        self, endpoint: Endpoint, headers: Headers, body: Sequence[bytes], route: Route = _USUAL
    ) -> HTTPResponse:
        """Send a POST request.

        Args:
            endpoint: Where to send it.
            headers: The headers, besides Host and Content-Length.
            body: The body, in pieces. Other tasks of the loop run between two of them.
            route: Through which proxy to send it, and whom to trust. Requests on different routes
                do not share connections.

        Raises:
            UnreachableError: The server or the proxy could not be reached, or its certificate is
                not trusted.
            ConnectionLostError: The connection was closed before the response was complete.
            InvalidResponseError: The response is not HTTP.
            ResponseTooLargeError: The response is larger than `max_response_bytes`.
            InvalidInputError: See `proxy_for` and `Route.context`.
        """
        failure: Exception
        self._under_way += 1
        try:
            return await self._post(endpoint, headers, body, route)
        except (ResponseTooLargeError, InvalidInputError):
            raise
        except aiohttp.ClientError as error:
            failure = _failure_of(error)
        except (OSError, ValueError) as error:
            failure = UnreachableError(str(error) or type(error).__name__)
        finally:
            self._under_way -= 1
            await self._close_if_unused()
        raise failure  # out here: the frames and the context of aiohttp's error hold the key

    async def _post(
        self, endpoint: Endpoint, headers: Headers, body: Sequence[bytes], route: Route
    ) -> HTTPResponse:
        upload, context = _Upload(body), route.context
        for _ in range(2):
            async with self._open().post(
                endpoint.url,
                data=upload.data(),
                allow_redirects=False,
                ssl=True if context is None else context,  # True: the session's
                **_headers_and_proxy(endpoint.url, headers, upload.size, route),  # no local of it
            ) as response:
                if response.status >= 300 or upload.is_sent:
                    return HTTPResponse(
                        response.status, response.headers, await _read(response, upload.size)
                    )
                response.close()  # the response to an earlier request: send this one again
        raise ConnectionLostError("the response came before the request was sent")

    async def close(self) -> None:
        """Close all connections, also those in use."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def disown(self) -> None:
        """Forget the session without closing it, in a child made by fork: it is the parent's."""
        if self._session is not None:
            self._session.detach()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=0, ssl=ssl_context(), keepalive_timeout=self._keep_alive
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # callers with different keys share it
                timeout=aiohttp.ClientTimeout(),  # none: the caller limits each attempt
                auto_decompress=False,  # a large body is decompressed off the loop
                max_field_size=_MAX_HEADER_BYTES,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """A connector that reuses no connection on which bytes arrived while it was idle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[asyncio.Protocol] = WeakSet()

    async def connect(self, *args: Any, **options: Any) -> Any:
        while True:
            connection = await super().connect(*args, **options)
            protocol = connection.protocol
            if protocol is None:
                return connection
            is_used = protocol in self._used
            # What a new connection can be read for may be TLS's own.
            if not protocol.should_close and not (is_used and _is_readable(protocol.transport)):
                self._used.add(protocol)
                return connection
            connection.close()
            if not is_used:
                raise aiohttp.ClientConnectionError("the server sent something before the request")

    def __del__(self, _warnings: object = None) -> None:
        # aiohttp's closes its connections. In a child made by fork that would take them out of the
        # epoll set that the child shares with its parent, who would never hear of a response again.
        pass


def _is_readable(transport: asyncio.BaseTransport | None) -> bool:
    """Whether bytes have arrived that the event loop has not read yet, or the end has."""
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return False
    if not hasattr(select, "poll"):  # Windows, where select has no limit of 1,024 descriptors
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


class _Upload:
    """The body of a request, and whether all of it was sent."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.size = sum(map(len, pieces))
        self.is_sent = True

    def data(self) -> bytes | AsyncIterator[bytes]:
        """What aiohttp sends: bytes at once, or pieces, between which other tasks run."""
        return self._pieces[0] if len(self._pieces) == 1 else self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        self.is_sent = False
        for piece in self._pieces:
            yield piece
            await asyncio.sleep(0)
        self.is_sent = True


def max_response_bytes(sent: int) -> int:
    """The largest response that is read to a request of `sent` bytes.

    Some servers send the texts back, in which escapes can double the length.
    """
    return _MAX_RESPONSE_BYTES + 2 * sent


async def _read(response: aiohttp.ClientResponse, sent: int) -> bytes:
    chunks: list[bytes] = []
    size, most = 0, max_response_bytes(sent)
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise ResponseTooLargeError
    return b"".join(chunks)


def _failure_of(error: aiohttp.ClientError) -> Exception:
    """What one of aiohttp's errors means, without the error: it holds the request's headers."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return UnreachableError(f"the proxy responded with status {error.status}")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
        return UnreachableError(_message_of(error))
    if isinstance(error, aiohttp.ClientResponseError):
        return InvalidResponseError(error.message.partition("\n")[0])
    return ConnectionLostError(_message_of(error))


def _message_of(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before the response"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was closed in the middle of the response"
    return str(error) or type(error).__name__


def _headers_and_proxy(url: URL, headers: Headers, length: int, route: Route) -> dict[str, Any]:
    """What aiohttp needs to send the headers, and through a proxy if there is one."""
    # Its errors pass no plain key.
    proxy = route.proxy or proxy_for(url.scheme, url.host or "", url.port or 0)
    plain = {**_plain(headers), "Content-Length": str(length)}
    if proxy is None:
        return {"headers": plain}
    if url.scheme == "https":  # the proxy's headers do not reach the server
        return {"headers": plain, "proxy": str(proxy), "proxy_headers": _plain(proxy.headers)}
    return {"headers": {**plain, **_plain(proxy.headers)}, "proxy": str(proxy)}


def _plain(headers: Headers) -> dict[str, str]:
    """The headers with the secrets in them."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in headers.items()
    }


@cache
def ssl_context() -> ssl.SSLContext:
    """Trusts the system's authorities, and certifi's: slim containers have none of their own."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(certifi.where())
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or error
        where = f"{certifi.where()!r} of the package certifi"
        raise OSError(f"could not read the certificates in {where}: {reason}") from error
    return context

"""What can stand between a client and a service: delays, redirects, TLS, proxies, raw bytes."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from qwen_rerank.testing.loopback import Fault, LoopbackDashScope, ranking
from qwen_rerank.testing.threads import Threaded

__all__ = [
    "ConnectProxy",
    "Handler",
    "RawServer",
    "TLSFront",
    "http_response",
    "ranking_of",
    "read_request",
    "redirects_by",
    "responds_with_any_key",
]


async def responds_with_any_key(request: web.Request, body: dict[str, Any]) -> web.Response:
    """Responds normally, whatever the key."""
    return web.json_response(ranking(body))


def redirects_by(status: int, location: str) -> Fault:
    """Redirects the client with any of the statuses that HTTP has for it."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=status, headers={"Location": location})

    return fault


# --- Raw bytes

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer(Threaded):
    """A TCP server that handles each connection as a test says.

    Attributes:
        handlers: One for each connection, in the order in which clients connect; the last one also
            handles all further connections.
        connections: How many connections there were.
    """

    handlers: Sequence[Handler]
    connections: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self._tasks: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        handler = self.handlers[min(self.connections, len(self.handlers) - 1)]
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self._tasks.discard(task)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read a request and return its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    assert length, "the client says how long the body is"
    return await reader.readexactly(int(length[1]))


def http_response(body: bytes) -> bytes:
    """A successful response."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def ranking_of(scores: Sequence[float]) -> bytes:
    """The body of DashScope's response with these scores."""
    results = [{"index": at, "relevance_score": score} for at, score in enumerate(scores)]
    return json.dumps({"output": {"results": results}}).encode()


# --- TLS and proxies


@dataclass
class _Relay(Threaded):
    """Passes what clients send on to another port. Ends all connections when it stops."""

    @asynccontextmanager
    async def _relaying(self, context: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        self._tasks: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.carry(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self._tasks.discard(task)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        raise NotImplementedError


@dataclass
class TLSFront(_Relay):
    """Ends TLS in front of a loopback service.

    Attributes:
        server: The service.
        context: The certificate.
        carried: The number of connections on which a client sent something after the handshake.
    """

    server: LoopbackDashScope
    context: ssl.SSLContext
    carried: int = 0

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with self._relaying(self.context):
            yield

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if not first:
            return
        self.carried += 1
        inner, outer = await asyncio.open_connection("127.0.0.1", self.server.port)
        outer.write(first)
        await _exchange(reader, writer, inner, outer)


@dataclass
class ConnectProxy(_Relay):
    """A proxy that connects all clients to one port of this machine.

    Attributes:
        target: The port.
        requests: The heads of the CONNECT requests.
    """

    target: int
    requests: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with self._relaying():
            yield

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        inner, outer = await asyncio.open_connection("127.0.0.1", self.target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _exchange(reader, writer, inner, outer)


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inner: asyncio.StreamReader,
    outer: asyncio.StreamWriter,
) -> None:
    """Pass everything on, in both directions, until both sides have closed."""
    responses = asyncio.create_task(_pour(inner, writer))
    try:
        await _pour(reader, outer)
        await responses
    finally:
        responses.cancel()
        outer.close()
        with suppress(OSError):
            await outer.wait_closed()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
    writer.close()

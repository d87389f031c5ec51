"""What can stand between a client and the loopback service: delays, redirects, TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.loopback import Fault, LoopbackDashScope, ranking

__all__ = ["TLSFront", "answers_after", "redirects_by"]


def answers_after(seconds: float = 0) -> Fault:
    """Answers normally, whatever the key, after a while; ends when the client goes away."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(seconds)
        return web.json_response(ranking(body))

    return fault


def redirects_by(status: int, location: str) -> Fault:
    """Sends the client elsewhere, by any of the ways that HTTP has."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=status, headers={"Location": location})

    return fault


@dataclass
class TLSFront:
    """Ends TLS before a loopback service, in a thread of its own; use as a context manager.

    `carried` counts the bytes that clients have sent through it, once they had agreed on a key.
    """

    server: LoopbackDashScope
    context: ssl.SSLContext
    carried: int = 0

    def __enter__(self) -> TLSFront:
        started: threading.Event = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api/v1"

    def _serve(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run(started))

    async def _run(self, started: threading.Event) -> None:
        self._stopping = asyncio.Event()
        front = await asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self.context)
        self.port = front.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        front.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self.server.port)
        answers = asyncio.create_task(_pour(inner, writer))
        with suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                self.carried += len(chunk)
                outer.write(chunk)
        outer.close()
        await answers


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
    writer.close()

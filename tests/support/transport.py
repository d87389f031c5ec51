"""What can stand between a client and the loopback service: delays, redirects, TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.loopback import Fault, LoopbackDashScope, ranking
from tests.support.threads import Threaded

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
class TLSFront(Threaded):
    """Ends TLS before a loopback service.

    `carried` counts the bytes that clients have sent through it, once they had agreed on a key.
    """

    server: LoopbackDashScope
    context: ssl.SSLContext
    carried: int = 0

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api/v1"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        front = await asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self.context)
        self.port = front.sockets[0].getsockname()[1]
        yield
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

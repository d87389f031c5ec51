"""Faults for `Loopback` servers: each says what the server does instead of responding normally."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.testing.loopback import SERVER, Fault

__all__ = [
    "babbles",
    "breaks_off",
    "closes_afterwards",
    "drops",
    "edits",
    "hangs",
    "packs",
    "redirects",
    "refuses",
    "rewrites",
    "says",
    "streams",
]


def refuses(status: int, code: str, message: str = "Refused.", retry_after: str = "0") -> Fault:
    """Responds with an error in the server's own form.

    Args:
        status: The HTTP status, such as 429.
        code: The service's own code, such as `"Throttling.RateQuota"`.
        message: What it says.
        retry_after: The seconds after which it asks the client to try again.
    """

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        refusal = request.app[SERVER].error(status, code, message)
        refusal.headers["Retry-After"] = retry_after
        return refusal

    return fault


def says(text: str | bytes, status: int = 200, content_type: str = "application/json") -> Fault:
    """Responds with this text."""
    if not isinstance(text, str | bytes):
        raise InvalidInputError(f"text must be a string or bytes, got {type(text).__name__}.")
    said = text if isinstance(text, bytes) else text.encode()

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(body=said, status=status, content_type=content_type, charset="utf-8")

    return fault


def packs(text: bytes) -> Fault:
    """Responds with this text, compressed."""
    packed = gzip.compress(text)

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        return web.Response(body=packed, headers=headers)

    return fault


def edits(edit: Callable[[list[Any]], object]) -> Fault:
    """Responds normally, but with the results edited in place."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        server = request.app[SERVER]
        response = server.ranking(body)
        edit(server.results(response))
        return web.json_response(response)

    return fault


def rewrites(edit: Callable[[bytes], bytes]) -> Fault:
    """Responds normally, but with the text edited."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        text = json.dumps(request.app[SERVER].ranking(body)).encode()
        return web.Response(body=edit(text), content_type="application/json")

    return fault


async def drops(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Closes the connection without a response."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def babbles(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Sends something that is not HTTP, then closes the connection."""
    assert isinstance(request.transport, asyncio.WriteTransport)
    request.transport.write(b"HTTP/1.1 nonsense\r\n\r\n")
    request.transport.close()
    return web.Response()


async def breaks_off(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Promises more than it sends, then closes the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = 1_000
    await response.prepare(request)
    await response.write(b'{"output": {"results": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def closes_afterwards(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Responds normally, then closes the connection without having announced it."""
    response = web.json_response(request.app[SERVER].ranking(body))
    await response.prepare(request)
    await response.write_eof()
    assert request.transport is not None
    request.transport.close()
    return response


def redirects(to: str) -> Fault:
    """Redirects the client to another address, with the same method and body."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=307, headers={"Location": to})

    return fault


def streams(piece: bytes, *, pause: float = 0.0, most: int = 1 << 26) -> Fault:
    """Responds with the piece again and again, every `pause` seconds, up to `most` bytes."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(most // len(piece)):
            await response.write(piece)
            await asyncio.sleep(pause)
        return response

    return fault


async def hangs(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Never responds; ends when the client disconnects."""
    await asyncio.Event().wait()
    raise AssertionError

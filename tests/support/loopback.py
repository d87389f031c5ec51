"""A DashScope on this machine: real HTTP with keep-alive, enforced limits, faults on demand.

`Loopback` is what other servers share with it; those are in `servers.py`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self

from aiohttp import web
from dashscope import get_tokenizer

from tests.support.threads import Threaded

PATH = "/api/v1/services/rerank/text-rerank/text-rerank"
KEY = "sk-loopback"
INSTRUCTED = ("qwen3-rerank", "qwen3-vl-rerank")

Fault = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    body: dict[str, Any]
    query: Any
    documents: Any
    headers: Mapping[str, str]  # its keys are case-insensitive
    connection: tuple[str, int]
    raw: bytes

    @property
    def model(self) -> str:
        return self.body["model"]

    @property
    def parameters(self) -> dict[str, Any]:
        return self.body["parameters"]


@dataclass
class Loopback(Threaded):
    """A rerank server on this machine.

    The first requests meet `faults`, one each; later requests get normal responses. `arrived` is
    set when a request has arrived, `disconnected` when the client has disconnected from
    `disconnects_awaited` requests before their response. `port` 0 is any free port.
    """

    paths: ClassVar[tuple[str, ...]]

    texts: ClassVar[str] = "documents"
    """The name of the documents in a request."""

    score: ClassVar[str] = "relevance_score"
    """The name of a score in a response."""

    key: str | None = None
    received: list[Received] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    most_in_flight: int = 0
    disconnects_awaited: int = 1
    port: int = 0

    @abstractmethod
    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        """Return the error for a request that the server refuses; None if it accepts it."""

    @abstractmethod
    def ranking(self, body: dict[str, Any]) -> Any:
        """Return the response, best first."""

    @abstractmethod
    def error(self, status: int, code: str, message: str) -> web.Response:
        """Return an error in the server's own form."""

    @abstractmethod
    def unauthorized(self) -> web.Response:
        """Return the error for a wrong key."""

    def inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a request that has the query and the documents."""
        return body

    def results(self, response: Any) -> list[Any]:
        """Return the part of a response that has the scores."""
        return response["results"]

    def not_found(self) -> web.StreamResponse:
        """Return the error for an unknown path."""
        return web.json_response({"detail": "Not Found"}, status=404)

    def __enter__(self) -> Self:
        self._in_flight = 0
        self._disconnects = 0
        self._awaited = 1
        self.arrived = threading.Event()
        self.disconnected = threading.Event()
        self._changed = asyncio.Condition()
        return super().__enter__()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections the client has used."""
        return len({request.connection for request in self.received})

    def answer_only_when(self, in_flight: int) -> None:
        """Hold responses back until this many requests have been in flight at the same time."""
        self._awaited = in_flight

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(client_max_size=1 << 30)
        app[SERVER] = self
        app.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        yield
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.received.append(self._received(request, body, await request.read()))
        self._in_flight += 1
        self.arrived.set()
        try:
            await self._rendezvous()
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self._disconnects += 1
            if self._disconnects >= self.disconnects_awaited:
                self.disconnected.set()
            raise
        finally:
            self._in_flight -= 1

    def _received(self, request: web.Request, body: dict[str, Any], raw: bytes) -> Received:
        assert request.transport is not None
        inputs = self.inputs(body)
        peer = request.transport.get_extra_info("peername")
        query, documents = inputs.get("query"), inputs.get(self.texts)
        return Received(body, query, documents, request.headers, peer, raw)

    async def _rendezvous(self) -> None:
        async with self._changed:
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self.most_in_flight >= self._awaited)

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.faults:
            return await self.faults.popleft()(request, body)
        if request.path not in self.paths:
            return self.not_found()
        if not self._is_keyed(request):
            return self.unauthorized()
        return self.refusal(body) or web.json_response(self.ranking(body))

    def _is_keyed(self, request: web.Request) -> bool:
        """Whether the request has the right key, or needs none."""
        return self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}"


SERVER = web.AppKey("SERVER", Loopback)
"""Where a fault finds its server, in the request's application."""


@dataclass
class LoopbackDashScope(Loopback):
    """DashScope's TextReRank, with its limits.

    A document's score is the number after "score=" in its text or in the address of its image or
    video, else the share of the query's words that its text has.
    """

    paths = (PATH,)

    documents_limit: int = 500
    item_tokens: int = 4_000
    request_tokens: int = 30_000
    cuts_before_counting: bool = True
    key: str = KEY

    @property
    def base_url(self) -> str:
        return f"{self.root}/api/v1"

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if "input" not in body:
            return self.error(400, "InvalidParameter", "Required input parameter missing.")
        query, documents = body["input"]["query"], body["input"]["documents"]
        vision = body["model"].startswith("qwen3-vl")
        if any(isinstance(item, dict) is not vision for item in (query, *documents)):
            return self.error(400, "InvalidParameter", "query or documents have the wrong type.")
        if "instruct" in body["parameters"] and body["model"] not in INSTRUCTED:
            return self.error(400, "InvalidParameter", "instruct is not supported.")
        if any(len(kind) > most for kind, most in self._limited(documents)):
            return self.error(400, "InvalidParameter", f"{len(documents)} documents are too many.")
        counts = [self._counted(item) for item in (query, *documents)]
        if counts[0] * len(documents) + sum(counts[1:]) > self.request_tokens:
            return self.error(400, "InvalidParameter", "The request has too many tokens.")
        return None

    def ranking(self, body: dict[str, Any]) -> Any:
        return ranking(body)

    def error(self, status: int, code: str, message: str) -> web.Response:
        body = {"code": code, "message": message, "request_id": "loopback-refusal"}
        return web.json_response(body, status=status)

    def unauthorized(self) -> web.Response:
        return self.error(401, "InvalidApiKey", "Invalid API-key provided.")

    def inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        return body.get("input", body)

    def results(self, response: Any) -> list[Any]:
        return response["output"]["results"]

    def _limited(self, documents: list[Any]) -> list[tuple[list[Any], int]]:
        """Return the documents of each kind, and how many of them there may be."""
        if not documents or isinstance(documents[0], str):
            return [(documents, self.documents_limit)]
        return [([each for each in documents if kind in each], most) for kind, most in VISION]

    def _counted(self, item: Any) -> int:
        tokens = token_count(text_of(item))
        return min(tokens, self.item_tokens) if self.cuts_before_counting else tokens


@dataclass
class FlatDashScope(LoopbackDashScope):
    """A DashScope that expects query and documents at the top level of the body."""

    refused: str = "Required input parameter missing from request."
    """What it says about other bodies."""

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        if "input" in body or "parameters" in body:
            return self.error(400, "BadRequest.EmptyInput", self.refused)
        return super().refusal(_nested(body))

    def ranking(self, body: dict[str, Any]) -> Any:
        response = ranking(_nested(body))
        return {"results": response["output"]["results"], "usage": response["usage"], "id": "flat"}

    def results(self, response: Any) -> list[Any]:
        return response["results"]


def _nested(body: dict[str, Any]) -> dict[str, Any]:
    """Return a flat body in the nested form."""
    inputs = {"query": body["query"], "documents": body["documents"]}
    parameters = {name: body[name] for name in ("top_n", "instruct") if name in body}
    assert body.keys() == {"model", *inputs, *parameters}
    return {"model": body["model"], "input": inputs, "parameters": parameters}


VISION = (("text", 100), ("image", 40), ("video", 4))
"""Documents per request, by what they hold."""


def ranking(body: dict[str, Any]) -> dict[str, Any]:
    """Return the response to a request as the service would send it, best first."""
    query = text_of(body["input"]["query"])
    documents = body["input"]["documents"]
    texts = [text_of(document) for document in documents]
    results = [
        {"index": index, "relevance_score": score_of(query, document)}
        for index, document in enumerate(documents)
    ]
    results.sort(key=lambda result: -result["relevance_score"])
    tokens = token_count(query) * len(texts) + sum(map(token_count, texts))
    return {
        "output": {"results": results[: body["parameters"].get("top_n")]},
        "usage": {"total_tokens": tokens},
        "request_id": "loopback-request",
    }


def score_of(query: str, document: Any) -> float:
    """Return the score that the loopback service gives, for tests to expect."""
    text = " ".join(document.values()) if isinstance(document, dict) else document
    if number := re.search(r"score=(-?[\d.]+)", text):
        return float(number[1])
    words = set(query.lower().split())
    return len(words & set(text.lower().split())) / max(1, len(words))


def text_of(item: Any) -> str:
    return item.get("text", "") if isinstance(item, dict) else item


@cache
def _tokenizer() -> Any:
    return get_tokenizer("qwen-7b-chat")


@cache
def token_count(text: str) -> int:
    return len(_tokenizer().encode(text, allowed_special=set(), disallowed_special=()))


def refuses(status: int, code: str, message: str = "Refused.", retry_after: str = "0") -> Fault:
    """Responds with an error in the server's own form."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.Response:
        refusal = request.app[SERVER].error(status, code, message)
        refusal.headers["Retry-After"] = retry_after
        return refusal

    return fault


def says(text: str | bytes, status: int = 200, content_type: str = "application/json") -> Fault:
    """Responds with this text."""
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

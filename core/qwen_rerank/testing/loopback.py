"""A DashScope on this machine: real HTTP with keep-alive, enforced limits, faults on demand."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, ClassVar, Self, TypeAlias

from aiohttp import web

from qwen_rerank.scorers.catalog import Limits, catalog_entry, published_limits
from qwen_rerank.testing.fake import score_of
from qwen_rerank.testing.threads import Threaded

__all__ = [
    "KEY",
    "PATH",
    "SERVER",
    "Fault",
    "Loopback",
    "LoopbackDashScope",
    "Received",
    "ranking",
    "token_count",
]

PATH = "/api/v1/services/rerank/text-rerank/text-rerank"
KEY = "sk-loopback"

Fault: TypeAlias = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
"""What a server does instead of responding: it gets the request and its JSON."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived.

    Attributes:
        body: The JSON.
        query: The query: a text, or an object for models that take images.
        documents: The documents, as the query.
        headers: The headers; their names are case-insensitive.
        connection: The client's address and port.
        raw: The body before it was parsed.
    """

    body: dict[str, Any]
    query: Any
    documents: list[Any]
    headers: Mapping[str, str]
    connection: tuple[str, int]
    raw: bytes

    @property
    def model(self) -> str:
        """The name of the model."""
        return str(self.body["model"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters, such as top_n."""
        parameters: dict[str, Any] = self.body["parameters"]
        return parameters


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
        results: list[Any] = response["results"]
        return results

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
        """The address of the server, without a path."""
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
        """Listen while the context is open."""
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
        query, documents = inputs.get("query"), inputs.get(self.texts, [])
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
    """A DashScope on this machine, in a thread of its own. Use it in a `with` block.

    It speaks HTTP, asks for its key, and refuses what the service refuses: requests that are over
    the published limits of their model, an instruction that the model does not take, texts where
    the model takes objects. `score_of` gives the scores.

    Attributes:
        region: The region whose limits apply; None for Beijing's.
        limits: The limits of all models; None for the published ones.
        cuts_before_counting: Whether a text that is over its limit is cut before the tokens of the
            request are counted.
        refuses_long: Whether a request with a text that is over its limit is refused, as the
            documentation of November 2026 says, instead of cutting it, as that of June says.
        key: The only API key that it accepts.
        faults: What it does instead of responding, one for each of the next requests.
        received: The requests that arrived, in order.

    Example:
        >>> with LoopbackDashScope() as server:
        ...     server.faults.append(refuses(503, "ServiceUnavailable"))
        ...     scorer = DashScopeScorer(api_key=server.key, base_url=server.base_url)
        ...     scorer.score("a query", ["a text"]).usage.retries
        1
    """

    paths = (PATH,)

    region: str | None = None
    limits: Limits | None = None
    cuts_before_counting: bool = True
    refuses_long: bool = False
    key: str = KEY

    @property
    def base_url(self) -> str:
        """The address for `base_url` and for DASHSCOPE_BASE_URL."""
        return f"{self.root}/api/v1"

    def limits_of(self, model: str) -> Limits:
        """Return the limits that apply to the requests of a model."""
        return self.limits or published_limits(model, self.region)

    def refusal(self, body: dict[str, Any]) -> web.Response | None:
        """Return the error for a request that the service refuses; None if it accepts it."""
        if "input" not in body:
            return self.error(400, "InvalidParameter", "Required input parameter missing.")
        query, documents = body["input"]["query"], body["input"]["documents"]
        entry, limits = catalog_entry(body["model"]), self.limits_of(body["model"])
        if any(isinstance(item, dict) is not entry.takes_objects for item in (query, *documents)):
            return self.error(400, "InvalidParameter", "query or documents have the wrong type.")
        if "instruct" in body["parameters"] and not entry.takes_instruct:
            return self.error(400, "InvalidParameter", "instruct is not supported.")
        if not _fits(documents, limits):
            return self.error(400, "InvalidParameter", f"{len(documents)} documents are too many.")
        if self.refuses_long and _longest(query, documents) > limits.item_tokens:
            return self.error(400, "InvalidParameter", "An item has too many tokens.")
        if self._tokens(query, documents, limits) > limits.request_tokens:
            return self.error(400, "InvalidParameter", "The request has too many tokens.")
        return None

    def ranking(self, body: dict[str, Any]) -> Any:
        """Return the response to a request, best first."""
        return ranking(body)

    def error(self, status: int, code: str, message: str) -> web.Response:
        """Return an error in the service's form."""
        body = {"code": code, "message": message, "request_id": "loopback-refusal"}
        return web.json_response(body, status=status)

    def unauthorized(self) -> web.Response:
        """Return the error for a wrong key."""
        return self.error(401, "InvalidApiKey", "Invalid API-key provided.")

    def inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the part of a request that has the query and the documents."""
        inputs: dict[str, Any] = body.get("input", body)
        return inputs

    def results(self, response: Any) -> list[Any]:
        """Return the part of a response that has the scores."""
        results: list[Any] = response["output"]["results"]
        return results

    def _tokens(self, query: Any, documents: list[Any], limits: Limits) -> int:
        counts = [token_count(text_of(item)) for item in (query, *documents)]
        if self.cuts_before_counting:
            counts = [min(count, limits.item_tokens) for count in counts]
        return counts[0] * len(documents) + sum(counts[1:])


def _longest(query: Any, documents: list[Any]) -> int:
    """Return the number of tokens of the longest item of a request."""
    return max(token_count(text_of(item)) for item in (query, *documents))


def _fits(documents: list[Any], limits: Limits) -> bool:
    """Whether there are not too many documents, by what they hold if they are objects."""
    if not documents or isinstance(documents[0], str):
        return len(documents) <= limits.documents
    most = {"text": limits.documents, "image": limits.images, "video": limits.videos}
    return all(sum(kind in each for each in documents) <= limit for kind, limit in most.items())


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


def text_of(item: Any) -> str:
    """Return the text of a query or document, which may be an object; "" if it has none."""
    return str(item.get("text", "")) if isinstance(item, dict) else item


@cache
def _tokenizer() -> Any:
    from dashscope import get_tokenizer  # half a second

    return get_tokenizer("qwen-7b-chat")


@lru_cache(maxsize=10_000)
def token_count(text: str) -> int:
    """Count the tokens of a text as the service does."""
    return len(_tokenizer().encode(text, allowed_special=set(), disallowed_special=()))

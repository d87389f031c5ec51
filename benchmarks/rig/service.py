"""A rerank service that is faster than its clients, with the limits of gte-rerank-v2."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rig import workload

__all__ = ["Seen", "Service"]

DOCUMENTS = 500
REQUEST_TOKENS = 30_000

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Seen(NamedTuple):
    """What the service has received since the last call of `respond_after`.

    Attributes:
        requests: How many requests.
        refused: How many of them were too large.
        billed: How many documents the others had.
        connections: How many connections the requests came on.
        most_in_flight: How many requests were in flight at most.
    """

    requests: int
    refused: int
    billed: int
    connections: int
    most_in_flight: int


class Service:
    """The service in its own process; use it as a context manager."""

    def __enter__(self) -> Service:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        self.base_url = f"http://127.0.0.1:{self._pipe.recv()}/api/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def respond_after(self, seconds: float = 0.0, per_document: float = 0.0) -> None:
        """Delay each response from now on, and start counting again."""
        self._pipe.send((seconds, per_document))
        self._pipe.recv()

    def seen(self) -> Seen:
        """What the service has received."""
        self._pipe.send("seen")
        return Seen(*self._pipe.recv())


def _serve(pipe: Connection) -> None:
    asyncio.run(_State(pipe).serve())


class _State:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._stopping = asyncio.Event()
        self.seconds, self.per_document = 0.0, 0.0
        self.forget()

    def forget(self) -> None:
        self.requests, self.refused, self.billed, self.most_in_flight = 0, 0, 0, 0
        self.in_flight: set[_Exchange] = set()
        self.connections: set[_Exchange] = set()

    async def serve(self) -> None:
        for text in workload.everything():
            _tokens(text)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Exchange(self), "127.0.0.1", 0)
        loop.add_reader(self._pipe.fileno(), self._command)
        self._pipe.send(server.sockets[0].getsockname()[1])
        await self._stopping.wait()

    def response(self, query: Any, documents: list[Any], top_n: int | None) -> bytes:
        """A ranking, or an error response where the request is too large."""
        self.requests += 1
        tokens = 0 if isinstance(query, dict) else _total_tokens(query, documents)
        if len(documents) > DOCUMENTS or tokens > REQUEST_TOKENS:
            self.refused += 1
            return TOO_LARGE
        self.billed += len(documents)
        return _ranking(list(map(_score, documents)), top_n, tokens)

    def _command(self) -> None:
        command = self._pipe.recv()
        if command is None:
            self._stopping.set()
        elif command == "seen":
            counts = (self.requests, self.refused, self.billed)
            self._pipe.send((*counts, len(self.connections), self.most_in_flight))
        else:
            self.seconds, self.per_document = command
            self.forget()
            self._pipe.send("done")


class _Exchange(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._wanted: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self._state.in_flight.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._wanted is None and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            assert length, "every client here sends the length"
            self._wanted = end + 4 + int(length[1])
            self._body_at = end + 4
        if self._wanted is not None and len(self._received) >= self._wanted:
            self._receive(json.loads(self._received[self._body_at : self._wanted]))

    def _receive(self, body: dict[str, Any]) -> None:
        arrived, state = self._loop.time(), self._state
        self._received, self._wanted = bytearray(), None
        documents = body["input"]["documents"]
        state.connections.add(self)
        state.in_flight.add(self)
        state.most_in_flight = max(state.most_in_flight, len(state.in_flight))
        query, top_n = body["input"]["query"], body["parameters"].get("top_n")
        response = state.response(query, documents, top_n)
        due = arrived + state.seconds + state.per_document * len(documents)
        if due > self._loop.time():
            self._loop.call_at(due, self._send, response)
        else:
            self._send(response)

    def _send(self, response: bytes) -> None:
        self._state.in_flight.discard(self)
        self._transport.write(response)


def _ranking(scores: list[float], top_n: int | None, tokens: int) -> bytes:
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_n]
    results = ",".join(f'{{"index":{i},"relevance_score":{scores[i]!r}}}' for i in order)
    usage = f'"usage":{{"total_tokens":{tokens}}},"request_id":"benchmark"'
    return _http(b"200 OK", f'{{"output":{{"results":[{results}]}},{usage}}}')


def _http(status: bytes, body: str) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body.encode()


TOO_LARGE = _http(
    b"400 Bad Request",
    '{"code":"InvalidParameter","message":"The request is too large.","request_id":"benchmark"}',
)

_score_of_text = cache(workload.score_of)


def _score(document: str | dict[str, str]) -> float:
    if isinstance(document, str):
        return _score_of_text(document)
    return workload.score_of(document["image"])


def _total_tokens(query: str, documents: Sequence[str]) -> int:
    return _tokens(query) * len(documents) + sum(map(_tokens, documents))


@cache
def _tokens(text: str) -> int:
    return len(_tokenizer().encode(text, allowed_special=set(), disallowed_special=()))


@cache
def _tokenizer() -> Any:
    from dashscope import get_tokenizer

    return get_tokenizer("qwen-7b-chat")

"""Connections: no request gets the response to another one, and no error holds the key."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pytest

from qwen_rerank import Content, DashScopeScorer, InvalidInputError, QwenRerankError
from qwen_rerank.scorers.http.pool import ConnectionPool, Endpoint
from qwen_rerank.testing.faults import babbles, breaks_off, drops, hangs, refuses, says, streams
from qwen_rerank.testing.loopback import Fault, LoopbackDashScope
from tests.support.interpreter import python
from tests.support.transport import RawServer, http_response, ranking_of, read_request

KEY = "sk-0123456789abcdef0123456789abcdef"


class Server:
    """An HTTP/1.1 server that can send more than it was asked for.

    Attributes:
        connections: How many connections were opened.
        surplus: Whether a response that nobody asked for follows the first one: at once, or
            when `send_surplus` is called.
    """

    def __init__(self, surplus: str) -> None:
        self.surplus = surplus
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: list[asyncio.StreamWriter] = []

    def __enter__(self) -> Server:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/api/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send_surplus(self) -> None:
        """Send the response that nobody asked for, on the first connection."""
        self._call(self._send(self._writers[0], 0.1))

    async def _close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*handlers, return_exceptions=True)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        while head := await _read_head(reader):
            await reader.readexactly(int(head["content-length"]))
            response = _response(0.9)
            if self.surplus == "at once" and self.connections == 1:
                response += _response(0.1)
            writer.write(response)
            await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, score: float) -> None:
        writer.write(_response(score))
        await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> dict[str, str]:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:-1]
    except (asyncio.IncompleteReadError, ConnectionError):
        return {}
    fields = (line.partition(":") for line in lines)
    return {name.lower(): value.strip() for name, _, value in fields}


def _response(score: float) -> bytes:
    body = json.dumps({"output": {"results": [{"index": 0, "relevance_score": score}]}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.fixture(params=["at once", "later"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as running:
        yield running


def test_a_response_that_nobody_asked_for_is_not_the_next_ones(
    server: Server, dashscope: LoopbackDashScope
) -> None:
    with DashScopeScorer(api_key=KEY, base_url=server.url) as scorer:
        assert scorer.score("first", ["text"]).values == [0.9]
        if server.surplus == "later":
            server.send_surplus()
            DashScopeScorer().score("query", ["so that the I/O loop reads what has arrived"])
        assert scorer.score("second", ["text"]).values == [0.9]
        assert server.connections == 2
        assert scorer.score("third", ["text"]).values == [0.9]
        assert server.connections == 2


async def test_a_response_that_has_arrived_but_was_not_read_is_not_the_next_ones() -> None:
    with Server("on demand") as server:
        pool, endpoint = ConnectionPool(), Endpoint.of(server.url)
        first = await pool.post(endpoint, {}, [b"{}"])
        server.send_surplus()  # blocks this loop, which so does not read it
        second = await pool.post(endpoint, {}, [b"{}"])
        assert first.body == second.body
        assert server.connections == 2
        await pool.close()


def test_a_response_before_a_large_request_is_sent_is_not_its_response() -> None:
    async def responds_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http_response(ranking_of([0.9])))
        await reader.readexactly(1)  # the next request begins
        writer.write(http_response(ranking_of([0.1])))
        await reader.read()

    async def responds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(http_response(ranking_of([0.8])))

    large = Content(image=f"data:image/png;base64,{'QUJD' * 2**21}")  # 8 MiB
    with RawServer([responds_early, responds]) as server:
        scorer = DashScopeScorer("qwen3-vl-rerank", KEY, base_url=server.base_url)
        assert scorer.score("first", ["small"]).values == [0.9]
        assert scorer.score("second", [large]).values == [0.8]
    assert server.connections == 2


async def test_requests_above_the_limit_wait_their_turn() -> None:
    async def responds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            in_flight.append(in_flight[-1] + 1)
            await asyncio.sleep(0)
            in_flight.append(in_flight[-1] - 1)
            writer.write(http_response(b"{}"))

    async def post(number: int) -> None:
        async with pool.slot(endpoint):
            started.append(number)
            assert (await pool.post(endpoint, {}, [b"{}"])).body == b"{}"

    in_flight, started = [0], list[int]()
    pool = ConnectionPool(max_connections=3)
    with RawServer([responds]) as server:
        endpoint = Endpoint.of(server.base_url)
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(post(number))
        await pool.close()
    assert max(in_flight) <= 3
    assert server.connections <= 3
    assert started == [*range(12)]


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of open files")
def test_many_calls_with_few_descriptors_wait_for_each_other(
    dashscope: LoopbackDashScope,
) -> None:
    code = (
        "import asyncio, resource, qwen_rerank\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n"
        "scorer = qwen_rerank.DashScopeScorer(max_retries=0)\n"
        "async def main():\n"
        "    calls = (scorer.ascore('q', ['score=0.5']) for _ in range(200))\n"
        "    print({scores.values[0] for scores in await asyncio.gather(*calls)})\n"
        "asyncio.run(main())\n"
    )
    assert python(code) == ("{0.5}\n", "")
    assert dashscope.connections <= 64


def _tracebacks(error: BaseException | None) -> Iterator[TracebackType]:
    """The frames of an error, and of those behind it."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            yield traceback
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__


FAILURES: dict[str, tuple[Fault | None, dict[str, Any]]] = {
    "refused": (refuses(400, "InvalidParameter"), {}),
    "throttled": (refuses(429, "Throttling"), {}),
    "lost": (drops, {}),
    "broken off": (breaks_off, {}),
    "not HTTP": (babbles, {}),
    "too late": (hangs, {"timeout": 0.2}),
    "past the deadline": (hangs, {"deadline": 0.2}),
    "not JSON": (says("<html>"), {}),
    "too large": (streams(b" " * (1 << 18)), {}),
    "unreachable": (None, {"base_url": "http://127.0.0.1:9/api/v1"}),
}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize(("fault", "options"), FAILURES.values(), ids=FAILURES)
def test_no_frame_of_an_error_has_the_key_in_its_locals(
    dashscope: LoopbackDashScope, fault: Fault | None, options: dict[str, Any], way: str
) -> None:
    dashscope.key = KEY
    if fault is not None:
        dashscope.faults.append(fault)
    scorer = DashScopeScorer(api_key=KEY, max_retries=0, **options)
    call = scorer.score if way == "sync" else lambda *each: asyncio.run(scorer.ascore(*each))
    with pytest.raises(QwenRerankError) as failure:
        call("q", ["a"])
    frames = [each.tb_frame for each in _tracebacks(failure.value)][1:]
    assert len(frames) > 3
    assert [frame.f_code.co_qualname for frame in frames if KEY in repr(frame.f_locals)] == []


def test_no_frame_of_an_error_about_the_proxy_has_the_key_in_its_locals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:mine@p:port")
    scorer = DashScopeScorer(api_key=KEY, base_url="https://api.example/api/v1")
    with pytest.raises(InvalidInputError, match="https_proxy") as failure:
        scorer.score("q", ["a"])
    frames = [each.tb_frame for each in _tracebacks(failure.value)][1:]
    assert not [frame for frame in frames if "mine" in repr(frame.f_locals)]
    assert not [frame for frame in frames if KEY in repr(frame.f_locals)]

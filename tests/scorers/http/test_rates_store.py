"""Rate limits that processes share, through a file or a Redis server."""

from __future__ import annotations

import asyncio
import logging
import pickle
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import (
    DashScopeScorer,
    InvalidInputError,
    MissingDependencyError,
    RateLimitError,
    RequestTimeoutError,
)
from qwen_rerank.scorers.http.rate_limiter import MINUTE, RateLimiter, RateLimits
from qwen_rerank.scorers.http.rates_store import FileStore, RatesStore, RedisStore
from qwen_rerank.scorers.http.shared_rate_limiter import SharedRateLimiter, StoreThread
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.interpreter import python
from tests.support.transport import RawServer


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server on this machine."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    path = tmp_path_factory.mktemp("redis") / "socket"
    command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--loglevel"]
    server = subprocess.Popen([*command, "warning"], stdout=subprocess.DEVNULL)
    with redis.Redis(unix_socket_path=str(path)) as client:
        for _ in range(500):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.01)
    yield f"unix://{path}"
    server.terminate()
    server.wait()


@pytest.fixture(params=["file", "redis"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store can be."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return str(tmp_path / "rates")


# Runs in a process of its own: waits for some turns, and prints when each of them came.
TURNS = """
import asyncio, sys, time
import redis
from qwen_rerank.scorers.http.rate_limiter import RateLimiter, RateLimits
from qwen_rerank.scorers.http.rates_store import FileStore, RedisStore
from qwen_rerank.scorers.http.shared_rate_limiter import SharedRateLimiter, StoreThread

where, window = sys.argv[1], float(sys.argv[2])
limits = RateLimits(requests=10, tokens=1_000)

def open_store():
    if "://" in where:
        return RedisStore(redis.Redis.from_url(where), window=window)
    return FileStore(where, window=window)

async def main():
    clock = time.monotonic
    own = RateLimiter(limits)
    thread = StoreThread(open_store, clock)
    account = ("host:443", sys.argv[3])
    limiter = SharedRateLimiter(account, limits, thread, own, clock=clock, sleep=asyncio.sleep)
    async def turn():
        await limiter.wait_for_turn(50, None)
        print(time.time())
    await asyncio.gather(*(turn() for _ in range(8)))

asyncio.run(main())
"""


def test_processes_share_a_limit(where: str, request: pytest.FixtureRequest) -> None:
    started, window, name = time.time(), 0.4, request.node.name
    command = [sys.executable, "-c", TURNS, where, str(window), name]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    turns = sorted(float(line) for output in outputs for line in output.split())
    assert len(turns) == 24
    for number, turn in enumerate(turns):  # none of them is early; a busy machine can be late
        assert turn >= started + window * (number // 10)


def test_scorers_of_two_processes_share_a_limit(dashscope: LoopbackDashScope, where: str) -> None:
    code = (
        "import sys, qwen_rerank\n"
        f"scorer = qwen_rerank.DashScopeScorer(requests_per_minute=1, deadline=30,\n"
        f"    rates_store={where!r})\n"
        "try: print(scorer.score('q', ['score=0.5']).values)\n"
        "except qwen_rerank.RateLimitError as error: print(error)\n"
    )
    assert python(code) == ("[0.5]\n", "")
    out, _ = python(code)
    assert "With requests_per_minute=1, the next request can be sent in" in out
    assert len(dashscope.received) == 1
    if "://" not in where:
        assert KEY.encode() not in Path(where).read_bytes()


@settings(max_examples=20)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 50), st.floats(0, 30, allow_subnormal=False)), max_size=30
    ),
    limit=st.integers(1, 5),
)
def test_no_window_holds_more_than_the_limits(
    requests: list[tuple[int, float]], limit: int
) -> None:
    now, turns = 1e6, []
    store = FileStore(":memory:", clock=lambda: now)
    for tokens, pause in requests:
        turns.append((now + store.reserve("me", (limit, 100), tokens, None).wait, tokens))
        now += pause
    store.close()
    assert [turn for turn, _ in turns] == sorted(turn for turn, _ in turns)
    for first, (turn, _) in enumerate(turns):
        within = [tokens for later, tokens in turns[first:] if later < turn + MINUTE - 1e-6]
        assert len(within) <= limit
        assert sum(within) <= 100


def opened(where: str) -> RatesStore:
    return RedisStore(redis.Redis.from_url(where)) if "://" in where else FileStore(where)


def test_a_turn_that_is_given_back_can_be_had_again(where: str) -> None:
    store, account = opened(where), f"back-{time.time()}"
    assert store.reserve(account, (None, 100), 60, None).wait == 0
    wait, ticket = store.reserve(account, (None, 100), 60, None)
    assert 59 < wait <= 60
    assert store.reserve(account, (None, 100), 10, 30).ticket is None
    assert ticket is not None
    store.release(account, ticket)
    assert 59 < store.reserve(account, (None, 100), 100, None).wait <= 60
    assert store.reserve(account, (None, 100), 1, None).wait > 100


def test_a_clock_that_is_set_back_holds_nobody_up(tmp_path: Path) -> None:
    now = 1e9
    store = FileStore(str(tmp_path / "rates"), clock=lambda: now)
    store.reserve("me", (1, None), 0, None)
    now -= 3600
    assert store.reserve("me", (1, None), 0, None).wait == 0
    assert store.reserve("me", (1, None), 0, None).wait == 60
    store.close()


async def test_a_wait_that_is_cancelled_gives_its_turn_back(tmp_path: Path) -> None:
    limits, asleep = RateLimits(requests=1), asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    thread = StoreThread(lambda: FileStore(str(tmp_path / "rates")), time.monotonic)
    own = RateLimiter(limits)
    limiter = SharedRateLimiter(
        ("host", "key"), limits, thread, own, clock=time.monotonic, sleep=sleep
    )
    await limiter.wait_for_turn(0, None)
    waiting = asyncio.create_task(limiter.wait_for_turn(0, None))
    await asleep.wait()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    with pytest.raises(RateLimitError, match=r"sent in (59|60)\.\d s"):
        await limiter.wait_for_turn(0, time.monotonic() + 1)
    assert thread.submit(lambda store: store.close()).result() is None  # type: ignore[attr-defined]


# --- Stores that fail


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_store_that_is_down_is_logged_and_each_process_limits_itself(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"redis://me:hush@127.0.0.1:{free_port()}"
    scorer = DashScopeScorer(requests_per_minute=1, deadline=20, rates_store=url)
    with caplog.at_level(logging.WARNING, "qwen_rerank"):
        assert scorer.score("q", ["score=0.5"]).values == [0.5]
        with pytest.raises(RateLimitError):
            scorer.score("q", ["score=0.5"])
    assert caplog.messages == [
        "The rates_store failed (ConnectionError). For 30 s, this process has rate limits of its "
        "own."
    ]


def test_a_store_that_hangs_holds_a_call_up_to_its_deadline(dashscope: LoopbackDashScope) -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with RawServer([hangs]) as server:
        url = f"redis://127.0.0.1:{server.port}"
        scorer = DashScopeScorer(requests_per_minute=1, deadline=0.3, rates_store=url)
        with pytest.raises(RequestTimeoutError, match="before a request was sent"):
            scorer.score("q", ["a"])
    assert dashscope.received == []


def test_a_store_that_cannot_be_used_is_refused_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_a_store = tmp_path / "text"
    not_a_store.write_text("This is a text, and no database at all. " * 100)
    cases: list[tuple[Any, str]] = [
        (tmp_path / "missing" / "rates", "cannot be used: unable to open"),
        (tmp_path, "cannot be used: unable to open"),
        (not_a_store, "cannot be used: file is not a database"),
        ("redis://me:hush@host:port", "redis://user:password@host:6379/0"),
        ("memcached://me:hush@host", "redis://user:password@host:6379/0"),
        (redis.asyncio.Redis(), "path, a redis:// URL or a redis.Redis, got Redis"),
        (42, "got int"),
    ]
    for where, naming in cases:
        for make in (DashScopeScorer, QwenRerank):
            with pytest.raises(InvalidInputError, match=naming) as failure:
                make(api_key=KEY, requests_per_minute=1, rates_store=where)
            assert "hush" not in str(failure.value)
    with pytest.raises(InvalidInputError, match="no effect without a limit"):
        DashScopeScorer(api_key=KEY, rates_store=tmp_path / "rates")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingDependencyError, match=r"qwen-rerank\[rates\]"):
        DashScopeScorer(api_key=KEY, requests_per_minute=1, rates_store="redis://host")


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hush@127.0.0.1:9/0",
        "redis://127.0.0.1:9/0?password=hush",
        "redis://127.0.0.1:9/0?username=me&password=hush",
    ],
)
def test_the_password_of_a_store_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    scorer = DashScopeScorer(rates_store=url, requests_per_minute=1)
    plugin = QwenRerank(rates_store=url, requests_per_minute=1)
    pickles = [pickle.dumps(scorer), pickle.dumps(plugin)]
    assert "hush" not in f"{scorer!r} {plugin!r} {pickles} {plugin.model_dump_json()}"
    with pytest.raises(InvalidInputError, match=r"password are missing.*Pass rates_store="):
        pickle.loads(pickles[0]).score("q", ["a"])
    with pytest.raises(InvalidInputError, match=r"password are missing.*Pass rates_store="):
        QwenRerank(**plugin.model_dump())
    plugin.rates_store = redis.Redis()
    assert plugin.model_dump()["rates_store"] == {"not_saved": "Redis"}
    with pytest.raises(InvalidInputError, match="cannot be pickled"):
        pickle.dumps(plugin)

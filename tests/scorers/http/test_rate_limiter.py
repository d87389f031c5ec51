"""Requests and tokens per minute: who waits for whom, how long, and when that is refused.

Nobody waits for a minute here: either the clock is a fake one, or a request that would have to wait
is refused because of its deadline.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import thread_time
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank import (
    Content,
    DashScopeScorer,
    InvalidInputError,
    Limits,
    RateLimitError,
    Scores,
    ServerScorer,
    ServiceError,
)
from qwen_rerank.scorers.http.io_loop import IOLoop
from qwen_rerank.scorers.http.rate_limiter import (
    MINUTE,
    RateLimiter,
    RateLimits,
)
from qwen_rerank.scorers.http.rate_limiters import RateLimiters
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope, token_count
from tests.support.clients import CLIENTS, arank, rank
from tests.support.interpreter import python
from tests.support.media import PNG
from tests.support.servers import VLLM

Score = Callable[[DashScopeScorer, Any, list[Any]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Both ways of scoring."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


@pytest.fixture(autouse=True)
def _key_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test shares a limiter with another, whose port it may have got."""
    if "dashscope" in request.fixturenames:
        key = f"sk-{uuid4()}"
        request.getfixturevalue("dashscope").key = key
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)


def one_a_minute(**options: Any) -> DashScopeScorer:
    return DashScopeScorer(**{"requests_per_minute": 1, "deadline": 30, **options})


# --- The limiter alone, on a clock of its own

requests = st.lists(st.tuples(st.integers(0, 120), st.integers(1, 10)), min_size=1, max_size=60)
"""For each request, the seconds since the one before it, and its tokens."""


class FakeTime:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def limiters(self) -> RateLimiters:
        return RateLimiters(clock=self.clock, sleep=self.sleep)

    def limiter(self, **limits: int) -> RateLimiter:
        return RateLimiter(RateLimits(**limits), clock=self.clock, sleep=self.sleep)


@settings(max_examples=50)
@given(st.integers(10, 30), requests)
def test_no_minute_holds_more_than_the_limit_and_nothing_waits_longer_than_needed(
    limit: int, requests: list[tuple[int, int]]
) -> None:
    async def send_all() -> None:
        for gap, tokens in requests:
            time.now += gap
            asked = time.now
            await limiter.wait_for_turn(tokens, None)
            assert sent_in_minute_to(time.now) + tokens <= limit
            assert time.now == asked or sent_in_minute_to(time.now - 0.5) + tokens > limit
            sent.append((time.now, tokens))

    def sent_in_minute_to(end: float) -> int:
        return sum(tokens for at, tokens in sent if end - MINUTE < at <= end)

    time, sent = FakeTime(), list[tuple[float, int]]()
    limiter = time.limiter(tokens=limit)
    asyncio.run(send_all())


async def test_requests_go_in_the_order_in_which_they_ask() -> None:
    async def send(number: int, tokens: int) -> None:
        await limiter.wait_for_turn(tokens, None)
        sent.append((number, time.now))

    time, sent = FakeTime(), list[tuple[int, float]]()
    limiter = time.limiter(tokens=10)
    async with asyncio.TaskGroup() as group:
        for number, tokens in enumerate([8, 9, 1, 2, 10]):  # the 1 and the 2 would fit at once
            group.create_task(send(number, tokens))
    assert sent == [(0, 0), (1, 60), (2, 60), (3, 120), (4, 180)]


async def test_both_limits_hold() -> None:
    time = FakeTime()
    limiter = time.limiter(requests=2, tokens=10)
    times = []
    for tokens in (9, 1, 1, 9):
        await limiter.wait_for_turn(tokens, None)
        times.append(time.now)
    assert times == [0, 0, 60, 60]


async def test_a_turn_after_the_deadline_is_refused_and_takes_no_room() -> None:
    time = FakeTime()
    limiter = time.limiter(requests=1)
    await limiter.wait_for_turn(0, None)
    for deadline in (60.0, 30.0):
        with pytest.raises(
            RateLimitError, match=r"requests_per_minute=1, .* in 60\.0 s"
        ) as failure:
            await limiter.wait_for_turn(0, deadline)
        assert failure.value.retry_after == 60
    await limiter.wait_for_turn(0, 60.5)
    assert time.now == 60


class Held(FakeTime):
    """Time that stands still for those who wait, until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.released.wait()
        await super().sleep(seconds)


async def waiting(limiter: RateLimiter, count: int) -> list[asyncio.Task[None]]:
    """So many requests that wait for their turn."""
    tasks = [asyncio.create_task(limiter.wait_for_turn(1, None)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    assert await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() for task in tasks)


async def test_those_behind_a_cancelled_wait_move_up() -> None:
    time = Held()
    limiter = time.limiter(requests=1)
    await limiter.wait_for_turn(1, None)
    first, second, last = await waiting(limiter, 3)
    await cancel([first, second])
    with pytest.raises(RateLimitError, match=r"in 120\.0 s"):
        await limiter.wait_for_turn(1, 100)
    time.released.set()
    await last
    assert time.now == 60


async def cpu_seconds_to_cancel(count: int) -> float:
    limiter = Held().limiter(tokens=10)
    await limiter.wait_for_turn(10, None)
    tasks = await waiting(limiter, count)
    started = thread_time()
    await cancel(tasks)
    return thread_time() - started


async def test_cancelling_many_waits_takes_time_in_proportion_to_them() -> None:
    few = min([await cpu_seconds_to_cancel(500) for _ in range(3)])
    many = min([await cpu_seconds_to_cancel(4_000) for _ in range(3)])
    assert many < 8 * 3 * few  # if it were quadratic: 64 times as long


@pytest.mark.parametrize("unused", ["nothing was sent", "a minute has passed"])
async def test_a_limiter_that_is_idle_is_dropped(unused: str) -> None:
    time = FakeTime()
    limiters = time.limiters()
    limits = RateLimits(requests=1)
    old = limiters.limiter("old", limits)
    if unused == "a minute has passed":
        await old.wait_for_turn(0, None)
        assert limiters.limiter("other", limits)
        assert limiters.limiter("old", limits) is old
        time.now = 60
    limiters.limiter("new", limits)
    assert limiters.limiter("old", limits) is not old


# --- Requests


class OnFakeTime(DashScopeScorer):
    """A scorer with an I/O loop and rate limiters of its own, which wait on a fake clock."""

    time = FakeTime()
    _io_loop = IOLoop(
        lambda: RateLimiters(clock=OnFakeTime.time.clock, sleep=OnFakeTime.time.sleep)
    )


def test_requests_wait_until_a_minute_has_room(dashscope: LoopbackDashScope, score: Score) -> None:
    scorer = OnFakeTime(requests_per_minute=2)
    times = []
    for _ in range(5):
        score(scorer, "q", ["a"])
        times.append(scorer.time.now - times[0] if times else scorer.time.now)
    assert times[1:] == [0, 60, 60, 120]
    assert len(dashscope.received) == 5


def test_a_turn_after_the_deadline_is_refused_at_once_and_named(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    scorer = one_a_minute()
    score(scorer, "q", ["a"])
    with pytest.raises(RateLimitError, match=r"requests_per_minute=1, .* deadline") as failure:
        score(scorer, "q", ["a"])
    assert failure.value.retry_after == pytest.approx(60, abs=30)
    assert len(dashscope.received) == 1


def test_each_request_of_a_call_takes_a_turn(dashscope: LoopbackDashScope, score: Score) -> None:
    scorer = one_a_minute(requests_per_minute=3, limits=Limits(documents=1), max_concurrency=1)
    score(scorer, "q", ["a"])
    with pytest.raises(RateLimitError):
        score(scorer, "q", ["a", "b", "c"])
    assert len(dashscope.received) == 3


def test_a_retry_takes_a_turn_too(dashscope: LoopbackDashScope, score: Score) -> None:
    dashscope.faults.extend([refuses(503, "ServiceUnavailable")] * 2)
    with pytest.raises(RateLimitError):
        score(one_a_minute(requests_per_minute=2, backoff=0), "q", ["a"])
    assert len(dashscope.received) == 2


def test_a_failure_keeps_the_turn_that_it_took(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError):
        one_a_minute(max_retries=0).score("q", ["a"])
    with pytest.raises(RateLimitError):
        one_a_minute().score("q", ["a"])


def test_waiting_for_a_turn_is_not_part_of_the_timeout(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(FakeTime):
        async def sleep(self, seconds: float) -> None:
            """Wait a minute by the event loop's own clock, on which timeouts run."""
            loop, before = asyncio.get_running_loop(), asyncio.get_running_loop().time
            monkeypatch.setattr(loop, "time", lambda: before() + seconds)
            await asyncio.sleep(0.001)  # all timeouts that are over fire
            await super().sleep(seconds)

    later = Later()

    class Waiting(DashScopeScorer):
        _io_loop = IOLoop(later.limiters)

    scorer = Waiting(requests_per_minute=1, timeout=30, max_retries=0)
    for _ in range(2):
        assert scorer.score("q", ["score=0.5"]).values == [0.5]
    assert later.now == 60


def test_scorers_with_one_key_share_its_limit_in_all_threads(
    dashscope: LoopbackDashScope,
) -> None:
    def is_sent(_: int) -> bool:
        try:
            return bool(one_a_minute(requests_per_minute=3).score("q", ["a"]))
        except RateLimitError:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(is_sent, range(8))) == 3
    assert len(dashscope.received) == 3


@pytest.mark.parametrize(
    "other", [{"api_key": "sk-other"}, {"requests_per_minute": 2}, {"requests_per_minute": None}]
)
def test_another_key_or_limit_is_counted_apart(
    dashscope: LoopbackDashScope, other: dict[str, Any]
) -> None:
    one_a_minute().score("q", ["a"])
    with pytest.raises(RateLimitError):
        one_a_minute().score("q", ["a"])
    dashscope.key = other.get("api_key", dashscope.key)
    assert one_a_minute(**other).score("q", ["score=0.5"]).values == [0.5]


def test_servers_at_other_addresses_are_counted_apart() -> None:
    def scorer(server: VLLM) -> ServerScorer:
        return ServerScorer(server.root, dialect="vllm", requests_per_minute=1, deadline=30)

    with VLLM() as one, VLLM() as other:
        scorer(one).score("q", ["a"])
        with pytest.raises(RateLimitError):
            scorer(one).score("q", ["a"])
        scorer(other).score("q", ["a"])


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
async def test_every_face_takes_the_limits(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make(requests_per_minute=1, deadline=30)
    assert rank(client, ["score=0.5"]) == [("score=0.5", 0.5)]
    with pytest.raises(RateLimitError):
        rank(client, ["score=0.5"])
    with pytest.raises(RateLimitError):
        await arank(client, ["score=0.5"])


async def test_a_call_that_is_cancelled_while_it_waits_takes_no_turn(
    dashscope: LoopbackDashScope,
) -> None:
    class Stopped(FakeTime):
        async def sleep(self, seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

    stopped, waiting = Stopped(), threading.Event()

    class Waiting(DashScopeScorer):
        _io_loop = IOLoop(stopped.limiters)

    scorer = Waiting(requests_per_minute=1)
    await scorer.ascore("q", ["a"])
    call = asyncio.create_task(scorer.ascore("q", ["a"]))
    assert await asyncio.to_thread(waiting.wait, 100)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    stopped.now += 60
    await scorer.ascore("q", ["a"])
    assert len(dashscope.received) == 2


# --- Tokens


def test_the_tokens_of_a_request_are_counted_with_the_query_for_each_text(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    query, texts = "which one of them?", ["one", "two 企鹅"]
    tokens = token_count(query) * 2 + sum(map(token_count, texts))
    scorer = DashScopeScorer(tokens_per_minute=3 * tokens - 1, deadline=30)
    assert score(scorer, query, texts).usage.tokens == tokens
    score(scorer, query, texts)
    with pytest.raises(RateLimitError, match="tokens_per_minute"):
        score(scorer, query, texts)


def test_requests_and_tokens_are_limited_together(dashscope: LoopbackDashScope) -> None:
    tokens = 2 * token_count("q") + 2 * token_count("word")

    def sent_before_refusal(**limits: int) -> int:
        before = len(dashscope.received)
        with pytest.raises(RateLimitError):
            _ = [one_a_minute(**limits).score("q", ["word", "word"]) for _ in range(9)]
        return len(dashscope.received) - before

    assert sent_before_refusal(requests_per_minute=3, tokens_per_minute=5 * tokens) == 3
    assert sent_before_refusal(requests_per_minute=8, tokens_per_minute=6 * tokens) == 6


def test_no_request_is_larger_than_the_tokens_of_a_minute(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    values = [index / 20 for index in range(20)]
    texts = [f"score={value} {'word ' * 100}" for value in values]
    scorer = OnFakeTime(tokens_per_minute=1_500)
    assert score(scorer, "q", texts).values == values
    sizes = [sum(map(token_count, each.documents)) for each in dashscope.received]
    assert len(sizes) > 1
    assert max(sizes) <= 1_500


def test_images_count_no_tokens_but_their_requests_count(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    image = Content(image=PNG)
    scorer = one_a_minute(model="qwen3-vl-rerank", tokens_per_minute=1)
    score(scorer, image, [image])
    with pytest.raises(RateLimitError):
        score(scorer, image, [image])


def test_a_request_that_was_estimated_too_small_for_a_minute_is_split(
    dashscope: LoopbackDashScope,
) -> None:
    words, digits = "word " * 60, "0123456789" * 30  # 60 tokens and 300
    texts = [words if index % 25 == 0 else f"{index} {digits}" for index in range(50)]
    scorer = OnFakeTime(tokens_per_minute=10_000, max_concurrency=1)
    assert len(scorer.score("q", texts).values) == 50
    assert all(sum(map(token_count, each.documents)) <= 10_000 for each in dashscope.received)


def test_a_text_with_more_tokens_than_the_limit_is_refused(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    with pytest.raises(InvalidInputError, match=r"1002 tokens .* tokens_per_minute=1000"):
        score(DashScopeScorer(tokens_per_minute=1_000), "q", ["word " * 1_000])
    assert dashscope.received == []


# --- Options, processes, copies


@pytest.mark.parametrize("option", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "60"])
def test_an_invalid_limit_is_refused_and_named(option: str, limit: Any) -> None:
    with pytest.raises(InvalidInputError, match=option):
        DashScopeScorer(api_key="sk-any", **{option: limit})


def test_a_pickled_scorer_keeps_its_limits(dashscope: LoopbackDashScope) -> None:
    scorer = one_a_minute()
    pickle.loads(pickle.dumps(scorer)).score("q", ["a"])
    with pytest.raises(RateLimitError):
        scorer.score("q", ["a"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_made_by_fork_counts_apart(dashscope: LoopbackDashScope) -> None:
    code = (
        "import os, qwen_rerank\n"
        "scorer = qwen_rerank.DashScopeScorer(requests_per_minute=2, deadline=30)\n"
        "scorer.score('q', ['a'])\n"
        "child = os.fork()\n"
        "scorer.score('q', ['a'])\n"
        "try: scorer.score('q', ['a'])\n"
        "except qwen_rerank.RateLimitError: os.write(1, b'refused\\n')\n"
        "else: os.write(1, b'sent\\n')\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    out, err = python(code, "-W", "ignore::DeprecationWarning")
    assert (sorted(out.split()), err) == (["refused", "sent"], "")
    assert len(dashscope.received) == 4

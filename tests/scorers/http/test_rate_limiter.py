"""Requests and tokens a minute: who waits for whom, how long, and when that is refused.

A minute is a real one here, and nobody waits for it: what may go out does so at once, and what has
to wait is refused by its deadline. Where waiting itself is tested, a minute is short.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

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
from qwen_rerank.scorers.http import scorer as service
from qwen_rerank.scorers.http.rate_limiter import Meter
from tests.support.clients import CLIENTS, arank, rank
from tests.support.interpreter import python
from tests.support.loopback import LoopbackDashScope, refuses, token_count
from tests.support.media import PNG
from tests.support.servers import VLLM

MINUTE = 60_000  # milliseconds
SHORT = 0.3  # seconds

Score = Callable[[DashScopeScorer, Any, list[Any]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Either way of scoring."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


@pytest.fixture(autouse=True)
def _key_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test finds the rates of another, whose port it may have got."""
    if "dashscope" in request.fixturenames:
        key = f"sk-{uuid4()}"
        request.getfixturevalue("dashscope").key = key
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)


@pytest.fixture
def short_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_rerank.scorers.http.rate_limiter._MINUTE", int(SHORT * 1_000))


def one_a_minute(**options: Any) -> DashScopeScorer:
    return DashScopeScorer(**{"requests_per_minute": 1, "deadline": 30, **options})


# --- A meter

amounts = st.lists(
    st.tuples(st.integers(0, 2 * MINUTE), st.integers(1, 10)), min_size=1, max_size=60
)
"""How long after the one before each asks, and for how much."""


def asked(gaps_and_amounts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    now = 0
    for gap, amount in gaps_and_amounts:
        now += gap
        yield now, amount


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 30), amounts)
def test_no_minute_lets_out_more_than_the_limit_and_nothing_waits_without_need(
    limit: int, gaps_and_amounts: list[tuple[int, int]]
) -> None:
    meter = Meter(limit)
    out: list[tuple[int, int]] = []
    for now, amount in asked(gaps_and_amounts):
        at = meter.book(amount, now, now).timestamp
        assert used(out, at) + amount <= limit
        earliest = max(now, out[-1][0] if out else 0)
        assert at == earliest or used(out, at - 1) + amount > limit
        out.append((at, amount))
    assert [at for at, _ in out] == sorted(at for at, _ in out)


def used(out: list[tuple[int, int]], at: int) -> int:
    """How much went out in the minute that ends then."""
    return sum(amount for time, amount in out if at - MINUTE <= time)


@settings(max_examples=50, deadline=None)
@given(st.integers(10**5, 10**10), st.lists(st.integers(1, 10**5), min_size=1, max_size=50))
def test_a_large_limit_is_kept_to_a_hundred_thousandth_a_request(
    limit: int, sizes: list[int]
) -> None:
    meter = Meter(limit)
    booked = [meter.book(size, 0, 0).timestamp for size in sizes]
    first = sum(size for size, at in zip(sizes, booked, strict=True) if at == 0)
    assert first <= limit
    unused = limit * (len(sizes) + 1) / 100_000
    assert first == sum(sizes) or first + max(sizes) > limit - unused


@settings(max_examples=50, deadline=None)
@given(amounts, st.data())
def test_what_is_cancelled_is_there_for_others(
    gaps_and_amounts: list[tuple[int, int]], data: st.DataObject
) -> None:
    meter = Meter(10)
    booked = [meter.book(amount, 0, 0) for _, amount in gaps_and_amounts]
    for item in data.draw(st.permutations(booked)):
        meter.cancel(item)
    assert meter.book(10, 0, 0).timestamp == 0
    assert meter.is_used(0)
    assert not meter.is_used(MINUTE + 1)


# --- Requests


def test_requests_wait_until_a_minute_has_room(
    dashscope: LoopbackDashScope, short_minute: None, score: Score
) -> None:
    scorer = DashScopeScorer(requests_per_minute=2, api_key=dashscope.key)
    started = time.monotonic()
    for _ in range(2):
        score(scorer, "q", ["a"])
    score(scorer, "q", ["score=0.5"])
    assert time.monotonic() - started >= SHORT
    assert len(dashscope.received) == 3


def test_a_turn_after_the_deadline_is_refused_at_once_and_by_name(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    scorer = one_a_minute()
    score(scorer, "q", ["a"])
    started = time.monotonic()
    with pytest.raises(RateLimitError, match=r"requests_per_minute=1 .* deadline") as failure:
        score(scorer, "q", ["a"])
    assert time.monotonic() - started < 15  # of the 30 that there were
    assert failure.value.retry_after == pytest.approx(60, abs=15)
    assert len(dashscope.received) == 1


def test_each_request_of_a_call_takes_a_turn(dashscope: LoopbackDashScope, score: Score) -> None:
    scorer = one_a_minute(requests_per_minute=3, limits=Limits(documents=1), max_concurrency=1)
    score(scorer, "q", ["a"])
    with pytest.raises(RateLimitError):
        score(scorer, "q", ["a", "b", "c"])
    assert len(dashscope.received) == 3


def test_a_retry_takes_a_turn_too(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, score: Score
) -> None:
    monkeypatch.setattr("qwen_rerank.scorers.http.retry._backoff", wait_none())
    dashscope.faults.extend([refuses(503, "ServiceUnavailable")] * 2)
    with pytest.raises(RateLimitError):
        score(one_a_minute(requests_per_minute=2), "q", ["a"])
    assert len(dashscope.received) == 2


def test_a_failure_keeps_the_turn_that_it_took(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError):
        one_a_minute(max_retries=0).score("q", ["a"])
    with pytest.raises(RateLimitError):
        one_a_minute().score("q", ["a"])


def test_waiting_for_a_turn_is_not_part_of_an_attempts_timeout(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_rerank.scorers.http.rate_limiter._MINUTE", 3_000)
    scorer = DashScopeScorer(requests_per_minute=1, timeout=2, max_retries=0)
    for _ in range(2):
        assert scorer.score("q", ["score=0.5"]).values == [0.5]


def test_scorers_with_one_key_share_its_rate_whatever_thread_they_are_in(
    dashscope: LoopbackDashScope,
) -> None:
    def tried(_: int) -> bool:
        try:
            return bool(one_a_minute(requests_per_minute=3).score("q", ["a"]))
        except RateLimitError:
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(tried, range(8))) == 3
    assert len(dashscope.received) == 3


@pytest.mark.parametrize(
    "other", [{"api_key": "sk-other"}, {"requests_per_minute": 2}, {"requests_per_minute": None}]
)
def test_another_key_or_limit_is_a_rate_of_its_own(
    dashscope: LoopbackDashScope, other: dict[str, Any]
) -> None:
    one_a_minute().score("q", ["a"])
    with pytest.raises(RateLimitError):
        one_a_minute().score("q", ["a"])
    dashscope.key = other.get("api_key", dashscope.key)
    assert one_a_minute(**other).score("q", ["score=0.5"]).values == [0.5]


def test_servers_have_rates_by_their_address() -> None:
    def scorer(server: VLLM) -> ServerScorer:
        return ServerScorer(server.root, dialect="vllm", requests_per_minute=1, deadline=30)

    with VLLM() as one, VLLM() as other:
        scorer(one).score("q", ["a"])
        with pytest.raises(RateLimitError):
            scorer(one).score("q", ["a"])
        scorer(other).score("q", ["a"])


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
async def test_every_face_takes_the_rates(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make(requests_per_minute=1, deadline=30)
    assert rank(client, ["score=0.5"]) == [("score=0.5", 0.5)]
    with pytest.raises(RateLimitError):
        rank(client, ["score=0.5"])
    with pytest.raises(RateLimitError):
        await arank(client, ["score=0.5"])


class Waiting(logging.Handler):
    """Tells when a request begins to wait for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)


@pytest.fixture
async def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    logger = logging.getLogger("qwen_rerank.scorers.http.rate_limiter")
    handler = Waiting()
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    return handler


async def test_a_call_that_is_cancelled_while_it_waits_gives_its_turn_back(
    dashscope: LoopbackDashScope, waiting: Waiting
) -> None:
    await one_a_minute().ascore("q", ["a"])
    call = asyncio.create_task(one_a_minute(deadline=None).ascore("q", ["a"]))
    await waiting.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(RateLimitError) as failure:
        await one_a_minute().ascore("q", ["a"])
    assert failure.value.retry_after == pytest.approx(60, abs=15)  # and not 120
    assert len(dashscope.received) == 1


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


def test_both_rates_hold_at_the_same_time(dashscope: LoopbackDashScope) -> None:
    tokens = 2 * token_count("q") + 2 * token_count("word")

    def sent_before_refusal(**rates: int) -> int:
        before = len(dashscope.received)
        with pytest.raises(RateLimitError):
            _ = [one_a_minute(**rates).score("q", ["word", "word"]) for _ in range(9)]
        return len(dashscope.received) - before

    assert sent_before_refusal(requests_per_minute=3, tokens_per_minute=5 * tokens) == 3
    assert sent_before_refusal(requests_per_minute=8, tokens_per_minute=6 * tokens) == 6


def test_requests_are_made_no_larger_than_the_tokens_of_a_minute(
    dashscope: LoopbackDashScope, short_minute: None, score: Score
) -> None:
    values = [place / 20 for place in range(20)]
    texts = [f"score={value} {'word ' * 100}" for value in values]
    scorer = DashScopeScorer(tokens_per_minute=1_500)
    assert score(scorer, "q", texts).values == values
    sizes = [sum(map(token_count, each.documents)) for each in dashscope.received]
    assert len(sizes) > 1
    assert max(sizes) <= 1_500


def test_images_have_no_tokens_and_each_request_still_counts(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    image = Content(image=PNG)
    scorer = one_a_minute(model="qwen3-vl-rerank", tokens_per_minute=1)
    score(scorer, image, [image])
    with pytest.raises(RateLimitError):
        score(scorer, image, [image])


def test_what_an_estimate_made_too_large_for_a_minute_goes_out_in_smaller_requests(
    dashscope: LoopbackDashScope, short_minute: None
) -> None:
    words, digits = "word " * 60, "0123456789" * 30  # 60 tokens and 300
    texts = [words if place % 25 == 0 else f"{place} {digits}" for place in range(50)]
    scorer = DashScopeScorer(tokens_per_minute=10_000, max_concurrency=1)
    assert len(scorer.score("q", texts).values) == 50
    assert all(sum(map(token_count, each.documents)) <= 10_000 for each in dashscope.received)


def test_a_text_that_no_minute_lets_out_is_refused_by_name(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    with pytest.raises(InvalidInputError, match=r"1002 tokens .* tokens_per_minute=1000"):
        score(DashScopeScorer(tokens_per_minute=1_000), "q", ["word " * 1_000])
    assert dashscope.received == []


@pytest.mark.parametrize("limit", [10_000_000, None])
def test_tokens_are_counted_where_they_are_limited_and_never_on_an_event_loop(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    loops = []

    def spy(text: str) -> int:
        loops.append(asyncio._get_running_loop())
        return token_count(text)

    monkeypatch.setattr(service, "count_tokens", spy)
    DashScopeScorer(tokens_per_minute=limit).score("q", ["a", "b"])
    asyncio.run(DashScopeScorer(tokens_per_minute=limit).ascore("q", ["a", "b"]))
    assert loops == ([None] * 6 if limit else [])


# --- Options, processes, copies


@pytest.mark.parametrize("option", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "60"])
def test_a_rate_that_cannot_be_used_is_refused_and_named(option: str, limit: Any) -> None:
    with pytest.raises(InvalidInputError, match=option):
        DashScopeScorer(api_key="sk-any", **{option: limit})


def test_a_pickled_scorer_keeps_its_rates(dashscope: LoopbackDashScope) -> None:
    scorer = one_a_minute()
    pickle.loads(pickle.dumps(scorer)).score("q", ["a"])
    with pytest.raises(RateLimitError):
        scorer.score("q", ["a"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_made_by_fork_has_rates_of_its_own(dashscope: LoopbackDashScope) -> None:
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


def test_without_rates_nothing_that_keeps_them_is_imported(dashscope: LoopbackDashScope) -> None:
    code = (
        "import sys, qwen_rerank\n"
        "qwen_rerank.DashScopeScorer().score('q', ['a'])\n"
        "print('pyrate_limiter' in sys.modules)\n"
        "qwen_rerank.DashScopeScorer(requests_per_minute=60)\n"
        "print('pyrate_limiter' in sys.modules)\n"
    )
    assert python(code) == ("False\nTrue\n", "")

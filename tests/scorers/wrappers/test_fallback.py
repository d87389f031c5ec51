"""FallbackScorer: the next scorer scores all texts if one fails."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from qwen_rerank import (
    AuthenticationError,
    ContentBlockedError,
    DashScopeScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    QwenRerankError,
    RateLimitError,
    Record,
    RerankEngine,
    Scores,
    ServiceError,
)
from qwen_rerank.testing.fake import score_of
from qwen_rerank.testing.faults import breaks_off, drops, edits, hangs, refuses, says
from qwen_rerank.testing.loopback import Fault, LoopbackDashScope
from tests.scorers.wrappers.conftest import Score
from tests.support.wrapped import Down, Piecewise, Pointwise

QUERY = "penguins eat krill"
TEXTS = ["penguins eat fish", "markets fell", "penguins eat krill"]


def once(model: str = "gte-rerank-v2", **options: Any) -> DashScopeScorer:
    """A scorer that does not retry."""
    return DashScopeScorer(model, max_retries=0, **options)


RECOVERABLE: dict[str, tuple[Fault, str]] = {
    "429": (
        refuses(429, "Throttling.RateQuota"),
        "RateLimitError, code=Throttling.RateQuota, status=429, request_id=loopback-refusal",
    ),
    "503": (
        refuses(503, "ServiceUnavailable"),
        "ServiceError, code=ServiceUnavailable, status=503, request_id=loopback-refusal",
    ),
    "no answer in time": (hangs, "RequestTimeoutError"),
    "broken off": (breaks_off, "ServiceError"),
    "not a ranking": (says('{"output": null}'), "BadResponseError, status=200"),
    "incomplete": (edits(list.pop), "BadResponseError, request_id=loopback-request"),
}


@pytest.mark.parametrize(("fault", "details"), RECOVERABLE.values(), ids=list(RECOVERABLE))
def test_if_the_first_fails_the_second_scores_all_texts(
    dashscope: LoopbackDashScope,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    details: str,
) -> None:
    dashscope.faults.append(fault)
    first = once(timeout=0.3 if fault is hangs else 30)
    scores = FallbackScorer(first, once("qwen3-rerank")).score(QUERY, TEXTS)
    assert scores.model == "qwen3-rerank"
    assert scores.values == [score_of(QUERY, text) for text in TEXTS]
    assert [request.model for request in dashscope.received] == ["gte-rerank-v2", "qwen3-rerank"]
    assert [request.documents for request in dashscope.received] == [TEXTS, TEXTS]
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert record.name == "qwen_rerank.scorers.wrappers.fallback"
    failure = f"gte-rerank-v2 failed ({details})."
    assert record.getMessage() == f"{failure} Falling back to the next scorer."
    assert (scores.usage.requests, scores.usage.texts_sent) == (1, 3)
    assert scores.usage.seconds > (0.3 if fault is hangs else 0)


PERMANENT: dict[str, tuple[Fault, type[QwenRerankError]]] = {
    "wrong key": (refuses(401, "InvalidApiKey"), AuthenticationError),
    "bad input": (refuses(400, "InvalidParameter"), InvalidInputError),
    "blocked": (refuses(400, "DataInspectionFailed"), ContentBlockedError),
}


@pytest.mark.parametrize(("fault", "kind"), PERMANENT.values(), ids=list(PERMANENT))
def test_errors_that_another_scorer_would_only_hide_are_raised(
    dashscope: LoopbackDashScope, fault: Fault, kind: type[QwenRerankError]
) -> None:
    dashscope.faults.append(fault)
    with pytest.raises(kind) as caught:
        FallbackScorer(once(), KeepOrder()).score(QUERY, TEXTS)
    assert len(dashscope.received) == 1
    assert not hasattr(caught.value, "__notes__")


def test_all_scores_of_a_call_come_from_one_scorer(
    dashscope: LoopbackDashScope,
) -> None:
    dashscope.faults.append(refuses(503, "ServiceUnavailable"))
    dashscope.answer_only_when(in_flight=2)
    texts = [f"text {number}" for number in range(600)]
    first, second = once(max_concurrency=2), Pointwise()
    scores = FallbackScorer(first, second).score(QUERY, texts)
    assert len(dashscope.received) == 2
    assert scores.values == [second.score_of(QUERY, text) for text in texts]


def test_if_the_first_succeeds_no_other_is_called() -> None:
    first, second = Piecewise("first"), Pointwise("second")
    scores = FallbackScorer(first, second).score("q", ["a", "bc"])
    assert scores.values == [first.score_of("q", "a"), first.score_of("q", "bc")]
    assert scores.passages == [None, (1, 2)]
    assert scores.model is None
    assert second.asked == []


def test_each_call_tries_the_first_scorer_first(score: Score) -> None:
    first, second, third = Down("first"), Down("second"), Pointwise("third")
    scorer = FallbackScorer(first, second, third)
    assert [score(scorer, "q", ["a"]).model for _ in range(2)] == ["third", "third"]
    assert len(first.asked) == len(second.asked) == len(third.asked) == 2


class Clock:
    """The time as a FallbackScorer sees it."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_failed_scorer_is_skipped_until_its_cooldown_is_over(
    dashscope: LoopbackDashScope, clock: Clock
) -> None:
    scorer = FallbackScorer(once(), Pointwise("second"), cooldown=60, clock=clock)
    dashscope.faults.extend([drops, drops])
    requests = []
    for clock.now, model in [
        (0.0, "second"),
        (59.9, "second"),
        (60.0, "second"),
        (119.9, "second"),
        (120.0, None),
        (120.1, None),
    ]:
        assert scorer.score(QUERY, TEXTS).model == model
        requests.append(len(dashscope.received))
    assert requests == [1, 1, 2, 2, 3, 4]


def test_a_service_that_asks_for_more_time_than_the_cooldown_gets_it(
    dashscope: LoopbackDashScope, clock: Clock
) -> None:
    scorer = FallbackScorer(once(), Pointwise("second"), cooldown=1, clock=clock)
    dashscope.faults.append(refuses(429, "Throttling.RateQuota", retry_after="30"))
    for clock.now, requests in [(0.0, 1), (29.9, 1), (30.0, 2)]:
        scorer.score(QUERY, TEXTS)
        assert len(dashscope.received) == requests


def test_after_a_cooldown_one_call_tries_and_the_others_still_skip(clock: Clock) -> None:
    class Nested(Down):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            if len(self.asked) == 1:
                self.asked.append(texts)
                assert scorer.score("q", ["b"]).model == "second"
            return super().score(query, texts)

    first = Nested("first")
    scorer = FallbackScorer(first, Pointwise("second"), cooldown=60, clock=clock)
    for clock.now in (0.0, 60.0):
        scorer.score("q", ["a"])
    assert first.asked.count(["b"]) == 0


def test_the_last_scorer_is_never_skipped(clock: Clock) -> None:
    first, last = Down("first"), Down("last")
    scorer = FallbackScorer(first, last, cooldown=60, clock=clock)
    with pytest.raises(ServiceError):
        scorer.score("q", ["a"])
    with pytest.raises(ServiceError) as failure:
        scorer.score("q", ["a"])
    assert failure.value.__notes__ == ["Before that, first was skipped after an earlier failure."]
    assert (len(first.asked), len(last.asked)) == (1, 2)


def test_a_pickled_scorer_skips_nothing(clock: Clock) -> None:
    scorer = FallbackScorer(Down("first"), Pointwise("second"), cooldown=60, clock=clock)
    scorer.score("q", ["a"])
    copied = pickle.loads(pickle.dumps(scorer))
    copied.score("q", ["a"])
    assert len(copied._first.asked) == 2


@pytest.mark.parametrize("cooldown", [0, float("inf"), "60"])
def test_a_cooldown_that_is_not_a_time_is_refused(cooldown: Any) -> None:
    with pytest.raises(InvalidInputError, match="cooldown must be a number of seconds above 0"):
        FallbackScorer(Pointwise(), Pointwise(), cooldown=cooldown)


@pytest.mark.parametrize("index", [0, 1])
def test_incomplete_scores_are_a_failure(index: int) -> None:
    class Short(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return Scores([0.5] * (len(texts) - 1))

    scorers = [Pointwise("whole"), Short("short")]
    scorers.insert(index, scorers.pop())
    assert (FallbackScorer(*scorers).score("q", ["a", "b"]).model == "whole") is (index == 0)


def test_if_all_fail_the_last_error_is_raised_with_notes_of_the_others(score: Score) -> None:
    class Limited(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise RateLimitError("The last error.", status=429)

    with pytest.raises(RateLimitError, match="The last error") as caught:
        score(FallbackScorer(Down("first"), Down("second"), Limited("third")), "q", ["a"])
    assert caught.value.__notes__ == [
        "Before that, first failed (ServiceError, code=Down, status=503, request_id=r-1).",
        "Before that, second failed (ServiceError, code=Down, status=503, request_id=r-1).",
    ]
    assert caught.value.__context__ is None


def test_an_error_that_is_not_in_on_has_notes_of_the_failures_before_it() -> None:
    class Confused(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        FallbackScorer(Down("first"), Confused(), KeepOrder()).score("q", ["a"])
    assert caught.value.__notes__[0].startswith("Before that, first failed")


def test_on_takes_errors_of_any_type() -> None:
    class Strange(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise KeyError("secret")

    scorer = FallbackScorer(Strange(), Pointwise("second"), on=[KeyError])
    assert scorer.score("q", ["a"]).model == "second"
    with pytest.raises(ServiceError):
        FallbackScorer(Down(), Pointwise(), on=[KeyError]).score("q", ["a"])


async def test_a_cancelled_call_does_not_fall_back(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(hangs)
    second = Pointwise()
    scorer = FallbackScorer(DashScopeScorer(), second, on=[Exception])
    call = asyncio.create_task(scorer.ascore(QUERY, TEXTS))
    await asyncio.to_thread(dashscope.arrived.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(dashscope.disconnected.wait, 20)
    assert second.asked == []


@pytest.mark.parametrize(
    "on",
    [(), RateLimitError, ["RateLimitError"], [KeyboardInterrupt]],
)
def test_on_must_hold_exception_types(on: Any) -> None:
    with pytest.raises(InvalidInputError, match="on must hold exception types"):
        FallbackScorer(Pointwise(), Pointwise(), on=on)


def test_a_single_scorer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"at least two scorers.*KeepOrder"):
        FallbackScorer(Pointwise())


def test_the_ranking_names_the_model_that_scored(dashscope: LoopbackDashScope) -> None:
    engine = RerankEngine(
        FallbackScorer(once(), once("qwen3-rerank"), KeepOrder()),
        rerank_field="text",
    )
    records = [Record(text, {"text": text}) for text in TEXTS]
    assert engine.rerank(QUERY, records).model == "gte-rerank-v2"
    dashscope.faults.append(drops)
    assert engine.rerank(QUERY, records).model == "qwen3-rerank"
    dashscope.faults.extend([drops, drops])
    ranking = engine.rerank(QUERY, records)
    assert (ranking.model, ranking.unranked) == ("keep-order", True)
    assert [record.id for record in ranking] == TEXTS


class Truncating(Pointwise):
    """A service that can return only the best scores."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return super().score(query, texts)

    def score_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        best = sorted(range(len(texts)), key=lambda i: -self.score_of(query, texts[i]))[:top_n]
        self.asked.append(texts)
        return Scores([self.score_of(query, texts[i]) for i in best], indices=best)

    async def ascore_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        return self.score_top(query, texts, top_n)


async def test_if_only_the_best_are_needed_the_scorer_may_leave_out_the_others() -> None:
    texts = ["a", "b", "c", "d"]
    inner = Truncating("inner")
    for scorer in (FallbackScorer(inner, KeepOrder()), FallbackScorer(Down(), inner)):
        expected = inner.score_top("q", texts, 2)
        scores = scorer.score_top("q", texts, 2)
        assert (scores.indices, scores.values) == (expected.indices, expected.values)
        assert (await scorer.ascore_top("q", texts, 2)).indices == expected.indices


def test_a_scorer_that_returns_all_scores_may_stand_in_for_one_that_does_not() -> None:
    scores = FallbackScorer(Down(), Pointwise("second")).score_top("q", ["a", "b", "c"], 1)
    assert (len(scores.values), scores.indices, scores.model) == (3, None, "second")


def test_best_scores_that_are_incomplete_are_a_failure() -> None:
    class Short(Truncating):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return super().score(query, texts)

        def score_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
            return super().score_top(query, texts, top_n - 1)

    scorer = FallbackScorer(Short("short"), Pointwise("second"))
    assert scorer.score_top("q", ["a", "b", "c"], 2).model == "second"

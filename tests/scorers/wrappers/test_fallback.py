"""FallbackScorer: the next one answers, for all texts, where one fails in passing."""

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
from tests.scorers.wrappers.conftest import Score
from tests.support.loopback import (
    Fault,
    LoopbackDashScope,
    breaks_off,
    drops,
    edits,
    hangs,
    refuses,
    says,
    score_of,
)
from tests.support.wrapped import Down, Piecewise, Pointwise

QUERY = "penguins eat krill"
TEXTS = ["penguins eat fish", "markets fell", "penguins eat krill"]


def once(model: str = "gte-rerank-v2", **options: Any) -> DashScopeScorer:
    """A scorer that tries once."""
    return DashScopeScorer(model, max_retries=0, **options)


PASSING: dict[str, tuple[Fault, str]] = {
    "429": (
        refuses(429, "Throttling.RateQuota"),
        "RateLimitError, code=Throttling.RateQuota, status=429, request_id=loopback-refusal",
    ),
    "503": (
        refuses(503, "ServiceUnavailable"),
        "ServiceError, code=ServiceUnavailable, status=503, request_id=loopback-refusal",
    ),
    "no answer in time": (hangs, "RequestTimeoutError"),
    "dropped": (drops, "ServiceError"),
    "broken off": (breaks_off, "ServiceError"),
    "no ranking": (says('{"output": null}'), "BadResponseError, status=200"),
    "not whole": (edits(list.pop), "BadResponseError, request_id=loopback-request"),
}


@pytest.mark.parametrize(("fault", "told"), PASSING.values(), ids=list(PASSING))
def test_where_the_first_fails_in_passing_the_second_answers(
    dashscope: LoopbackDashScope,
    score: Score,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    told: str,
) -> None:
    dashscope.faults.append(fault)
    first = once(timeout=0.3 if fault is hangs else 30)
    scores = score(FallbackScorer(first, once("qwen3-rerank")), QUERY, TEXTS)
    assert scores.model == "qwen3-rerank"
    assert scores.values == [score_of(QUERY, text) for text in TEXTS]
    assert [request.model for request in dashscope.received] == ["gte-rerank-v2", "qwen3-rerank"]
    assert [request.documents for request in dashscope.received] == [TEXTS, TEXTS]
    (record,) = (each for each in caplog.records if each.levelno >= logging.WARNING)
    assert record.name == "qwen_rerank.scorers.wrappers.fallback"
    assert record.getMessage() == f"gte-rerank-v2 failed ({told}): the next scorer is asked."
    assert (scores.usage.requests, scores.usage.texts_sent) == (1, 3)


LASTING: dict[str, tuple[Fault, type[QwenRerankError]]] = {
    "wrong key": (refuses(401, "InvalidApiKey"), AuthenticationError),
    "no money": (refuses(400, "Arrearage"), AuthenticationError),
    "bad input": (refuses(400, "InvalidParameter"), InvalidInputError),
    "blocked": (refuses(400, "DataInspectionFailed"), ContentBlockedError),
}


@pytest.mark.parametrize(("fault", "kind"), LASTING.values(), ids=list(LASTING))
def test_what_would_not_pass_is_raised_at_once(
    dashscope: LoopbackDashScope, score: Score, fault: Fault, kind: type[QwenRerankError]
) -> None:
    dashscope.faults.append(fault)
    with pytest.raises(kind) as caught:
        score(FallbackScorer(once(), KeepOrder()), QUERY, TEXTS)
    assert len(dashscope.received) == 1
    assert not hasattr(caught.value, "__notes__")


def test_texts_of_several_requests_all_have_their_scores_from_one_scorer(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(refuses(503, "ServiceUnavailable"))
    dashscope.answer_only_when(in_flight=2)
    texts = [f"text {number}" for number in range(600)]
    first, second = once(max_concurrency=2), Pointwise()
    scores = score(FallbackScorer(first, second), QUERY, texts)
    assert len(dashscope.received) == 2
    assert scores.values == [second.score_of(QUERY, text) for text in texts]


def test_while_the_first_answers_no_other_is_asked(score: Score) -> None:
    first, second = Piecewise("first"), Pointwise("second")
    scores = score(FallbackScorer(first, second), "q", ["a", "bc"])
    assert scores.values == [first.score_of("q", "a"), first.score_of("q", "bc")]
    assert scores.passages == [None, (1, 2)]
    assert scores.model is None
    assert second.asked == []


def test_each_call_asks_the_first_one_first(score: Score) -> None:
    first, second, third = Down("first"), Down("second"), Pointwise("third")
    scorer = FallbackScorer(first, second, third)
    assert [score(scorer, "q", ["a"]).model for _ in range(2)] == ["third", "third"]
    assert len(first.asked) == len(second.asked) == len(third.asked) == 2


class Clock:
    """The time that a FallbackScorer sees."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("qwen_rerank.scorers.wrappers.fallback.monotonic", clock)
    return clock


def test_a_scorer_that_failed_is_not_asked_before_it_has_cooled_down(
    dashscope: LoopbackDashScope, score: Score, clock: Clock
) -> None:
    scorer = FallbackScorer(once(), Pointwise("second"), cooldown=60)
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
        assert score(scorer, QUERY, TEXTS).model == model
        requests.append(len(dashscope.received))
    assert requests == [1, 1, 2, 2, 3, 4]


def test_a_service_that_asks_for_more_time_than_the_cooldown_has_it(
    dashscope: LoopbackDashScope, score: Score, clock: Clock
) -> None:
    scorer = FallbackScorer(once(), Pointwise("second"), cooldown=1)
    dashscope.faults.append(refuses(429, "Throttling.RateQuota", retry_after="30"))
    for clock.now, requests in [(0.0, 1), (29.9, 1), (30.0, 2)]:
        score(scorer, QUERY, TEXTS)
        assert len(dashscope.received) == requests


def test_after_a_cooldown_one_call_tries_while_the_others_go_on_without(clock: Clock) -> None:
    class Nested(Down):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            if len(self.asked) == 1:
                self.asked.append(texts)
                assert scorer.score("q", ["b"]).model == "second"
            return super().score(query, texts)

    first = Nested("first")
    scorer = FallbackScorer(first, Pointwise("second"), cooldown=60)
    for clock.now in (0.0, 60.0):
        scorer.score("q", ["a"])
    assert first.asked.count(["b"]) == 0


def test_the_last_scorer_is_asked_however_often_it_fails(score: Score, clock: Clock) -> None:
    first, last = Down("first"), Down("last")
    scorer = FallbackScorer(first, last, cooldown=60)
    with pytest.raises(ServiceError):
        score(scorer, "q", ["a"])
    with pytest.raises(ServiceError) as failure:
        score(scorer, "q", ["a"])
    assert failure.value.__notes__ == ["Before that, first was not asked, as it had failed before."]
    assert (len(first.asked), len(last.asked)) == (1, 2)


def test_a_pickled_scorer_asks_them_all_again(clock: Clock) -> None:
    scorer = FallbackScorer(Down("first"), Pointwise("second"), cooldown=60)
    scorer.score("q", ["a"])
    copied = pickle.loads(pickle.dumps(scorer))
    copied.score("q", ["a"])
    assert len(copied._first.asked) == 2


@pytest.mark.parametrize("cooldown", [0, -1, float("inf"), "60", True])
def test_a_cooldown_that_is_no_time_is_refused(cooldown: Any) -> None:
    with pytest.raises(InvalidInputError, match="cooldown must be a number of seconds above 0"):
        FallbackScorer(Pointwise(), Pointwise(), cooldown=cooldown)


def test_the_time_that_failures_took_counts(dashscope: LoopbackDashScope, score: Score) -> None:
    dashscope.faults.append(hangs)
    scores = score(FallbackScorer(once(timeout=0.3), Pointwise()), QUERY, TEXTS)
    assert scores.usage.seconds >= 0.3


@pytest.mark.parametrize("place", [0, 1])
def test_scores_that_are_not_whole_are_a_failure_like_others(score: Score, place: int) -> None:
    class Short(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return Scores([0.5] * (len(texts) - 1))

    scorers = [Pointwise("whole"), Short("short")]
    scorers.insert(place, scorers.pop())
    assert (score(FallbackScorer(*scorers), "q", ["a", "b"]).model == "whole") is (place == 0)


def test_when_all_fail_the_last_error_is_raised_and_tells_of_the_others(score: Score) -> None:
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


def test_an_error_that_is_not_passed_by_tells_of_those_that_were(score: Score) -> None:
    class Confused(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        score(FallbackScorer(Down("first"), Confused(), KeepOrder()), "q", ["a"])
    assert caught.value.__notes__[0].startswith("Before that, first failed")


def test_errors_of_any_type_can_be_passed_by(score: Score) -> None:
    class Strange(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise KeyError("secret")

    scorer = FallbackScorer(Strange(), Pointwise("second"), on=[KeyError])
    assert score(scorer, "q", ["a"]).model == "second"
    with pytest.raises(ServiceError):
        score(FallbackScorer(Down(), Pointwise(), on=[KeyError]), "q", ["a"])


async def test_a_cancelled_call_asks_no_other_scorer(dashscope: LoopbackDashScope) -> None:
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
    [(), None, RateLimitError, [None], ["RateLimitError"], [KeyboardInterrupt], [ValueError()]],
)
def test_what_is_no_type_of_errors_is_refused(on: Any) -> None:
    with pytest.raises(InvalidInputError, match="on must be the types of some exceptions"):
        FallbackScorer(Pointwise(), Pointwise(), on=on)


def test_a_fallback_needs_something_to_fall_back_on() -> None:
    with pytest.raises(InvalidInputError, match=r"fall back on.*KeepOrder"):
        FallbackScorer(Pointwise())


def test_the_ranking_says_which_model_answered(dashscope: LoopbackDashScope) -> None:
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

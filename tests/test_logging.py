"""What the library logs under "qwen_rerank": plans, retries, and texts that are cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from qwen_rerank import DashScopeScorer, Limits, Scores, ServiceError
from qwen_rerank.testing.faults import drops, refuses
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope

Score = Callable[[DashScopeScorer, str, list[str]], Scores]
Logged = Callable[[], list[tuple[str, int, str]]]
"""Name, level and message of each record."""

SERVICE, RETRYING = "qwen_rerank.scorers.http.scorer", "qwen_rerank.scorers.http.retry"
TEXT = "confidential"


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """The sync and the async method."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """The records of our loggers, from DEBUG on."""
    caplog.set_level(logging.DEBUG, "qwen_rerank")
    return lambda: [
        each for each in caplog.record_tuples if each[0].partition(".")[0] == "qwen_rerank"
    ]


def test_a_successful_call_logs_its_plan_only(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    score(DashScopeScorer(limits=Limits(documents=2), max_concurrency=2), "q", ["a", "b", "c"])
    plan = "plan for qwen3-rerank: texts=3 requests=2 estimated=False"
    assert logged() == [(SERVICE, logging.DEBUG, plan)]


def test_a_plan_with_estimated_tokens_says_so(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    score(DashScopeScorer(), "q", ["你好世界" * 200 + str(index) for index in range(20)])
    assert logged()[0][2] == "plan for qwen3-rerank: texts=20 requests=1 estimated=True"


def test_each_retry_is_logged_with_the_failure_and_the_wait(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    dashscope.faults.extend([drops, refuses(429, "Throttling.RateQuota", retry_after="0.04")])
    score(DashScopeScorer(backoff=0), "q", ["a"])
    _, first, second = logged()
    assert first == (
        RETRYING,
        logging.DEBUG,
        "attempt 1 failed: ServiceError code=None status=None, retrying in 0.0 s",
    )
    assert second[2].startswith(
        "attempt 2 failed: RateLimitError code=Throttling.RateQuota status=429, "
    )


def test_a_failure_that_is_not_retried_is_raised_and_not_logged(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError):
        score(DashScopeScorer(max_retries=0), "q", ["a"])
    assert len(logged()) == 1  # the plan


def test_texts_that_are_cut_are_one_warning_with_a_remedy(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    score(DashScopeScorer(), "q", ["word " * 5_000, "short", "word " * 6_000])
    (warning,) = [each for each in logged() if each[1] > logging.DEBUG]
    assert warning[1] == logging.WARNING
    assert warning[2].startswith("2 of 4 items")
    assert "PassageScorer" in warning[2]


def test_no_text_and_no_key_is_logged(
    dashscope: LoopbackDashScope, score: Score, logged: Logged
) -> None:
    dashscope.faults.extend(
        refuses(500, f"Code {KEY}", f"{KEY} must not send {TEXT} twice.") for _ in range(2)
    )
    score(DashScopeScorer(backoff=0), f"{TEXT} question", [f"{TEXT} {'word ' * 5_000}"])
    records = logged()
    assert len(records) == 4  # the plan, the cut, two retries
    assert not [each for each in records if TEXT in each[2] or KEY in each[2]]

"""Retries: which errors, how often, after how long, and when to give up. On a clock of its own."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qwen_rerank import (
    BadResponseError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.scorers.http.retry import CallContext, RetryPolicy


class FakeTime:
    """A clock that only `sleep` moves; keeps how long each sleep was."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def attempt(time: FakeTime, errors: Sequence[QwenRerankError], **policy: Any) -> tuple[str, int]:
    """Send a request that fails with these errors, one after the other, before it succeeds.

    Return what came back, and the number of retries.
    """
    left, sent = list(errors), 0

    async def send() -> str:
        nonlocal sent
        sent += 1
        if left:
            raise left.pop(0)
        return "scores"

    options = {"timeout": 30.0, "deadline": None, "max_retries": 3, **policy}
    context = CallContext(RetryPolicy(**options), time.clock, time.sleep)
    return asyncio.run(context.attempt(send)), sent - 1


def test_a_request_that_succeeds_is_sent_once(time: FakeTime) -> None:
    assert attempt(time, []) == ("scores", 0)
    assert time.sleeps == []


def test_the_wait_doubles_and_has_jitter(time: FakeTime) -> None:
    errors = [ServiceError("Failed.", status=503) for _ in range(3)]
    assert attempt(time, errors) == ("scores", 3)
    for slept, least in zip(time.sleeps, (0.5, 1.0, 2.0), strict=True):
        assert least <= slept <= least + 0.5


def test_the_wait_is_limited(time: FakeTime) -> None:
    attempt(time, [ServiceError("Failed.") for _ in range(20)], max_retries=20)
    assert 30 <= max(time.sleeps) <= 30.5


def test_the_jitter_differs(time: FakeTime) -> None:
    for _ in range(20):
        attempt(time, [ServiceError("Failed.")])
    assert len({*time.sleeps}) > 1


def test_without_backoff_retries_do_not_wait(time: FakeTime) -> None:
    attempt(time, [ServiceError("Failed."), ServiceError("Failed.")], backoff=0)
    assert time.sleeps == [0, 0]


@pytest.mark.parametrize("backoff", [-0.1, float("nan"), float("inf"), "1", None, True])
def test_an_invalid_backoff_is_refused_and_named(backoff: Any) -> None:
    with pytest.raises(InvalidInputError, match="backoff"):
        RetryPolicy(30.0, None, 3, backoff)


def test_retry_after_is_waited_for_in_full_and_callers_come_back_apart(time: FakeTime) -> None:
    error = RateLimitError("Throttled.", status=429, retry_after=17.5)
    for _ in range(20):
        attempt(time, [error])
    assert len({*time.sleeps}) == len(time.sleeps) == 20
    assert 17.5 <= min(time.sleeps) <= max(time.sleeps) <= 18.0


def test_a_retry_after_that_is_shorter_than_the_backoff_does_not_shorten_it(time: FakeTime) -> None:
    attempt(time, [RateLimitError("Throttled.", status=429, retry_after=0.1)])
    assert 0.5 <= time.sleeps[0] <= 1.0


@pytest.mark.parametrize(
    ("retry_after", "deadline"), [(61.0, None), (3_600.0, None), (10.0, 10.0), (30.0, 20.0)]
)
def test_a_wait_past_the_deadline_or_over_a_minute_is_not_begun(
    time: FakeTime, retry_after: float, deadline: float | None
) -> None:
    error = RateLimitError("Throttled.", status=429, retry_after=retry_after)
    with pytest.raises(RateLimitError) as failure:
        attempt(time, [error], deadline=deadline)
    assert failure.value.retry_after == retry_after
    assert time.sleeps == []


def test_a_wait_before_the_deadline_may_be_longer_than_a_minute(time: FakeTime) -> None:
    attempt(time, [RateLimitError("Throttled.", status=429, retry_after=90.0)], deadline=100.0)
    (waited,) = time.sleeps
    assert 90 <= waited <= 90.5


Make = Callable[[], QwenRerankError]

TRANSIENT: list[Make] = [
    lambda: ServiceError("Lost the connection."),
    lambda: ServiceError("Failed.", status=200),
    *(lambda status=status: ServiceError("Failed.", status=status) for status in (408, 409, 500)),
    *(lambda status=status: ServiceError("Failed.", status=status) for status in (502, 503, 504)),
    lambda: RateLimitError("Throttled.", status=429),
    lambda: RateLimitError("Throttled.", status=400),
    lambda: RateLimitError("Throttled.", status=200),
    lambda: RequestTimeoutError("No response."),
    lambda: InvalidInputError("Overloaded.", status=503),
]

FINAL: list[Make] = [
    lambda: ServiceError("Not implemented.", status=501),
    lambda: ServiceError("Redirected.", status=307),
    lambda: InvalidInputError("Too long.", status=500),
    lambda: InvalidInputError("Invalid.", status=400),
    lambda: InvalidInputError("Invalid.", status=200),
    lambda: BadResponseError("Not a ranking.", status=200),
    lambda: BadResponseError("Too large."),
]


@pytest.mark.parametrize("make", TRANSIENT)
def test_an_error_that_a_retry_can_fix_is_retried(time: FakeTime, make: Make) -> None:
    assert attempt(time, [make()]) == ("scores", 1)


@pytest.mark.parametrize("make", FINAL)
def test_any_other_error_is_raised_at_once_and_unchanged(time: FakeTime, make: Make) -> None:
    with pytest.raises(type(make())) as failure:
        attempt(time, [make()])
    assert str(failure.value) == str(make())
    assert time.sleeps == []


def test_the_last_error_says_how_many_attempts_there_were_and_how_long_they_took(
    time: FakeTime,
) -> None:
    errors = [ServiceError(f"Failure {number}.") for number in range(1, 4)]
    with pytest.raises(
        ServiceError, match=r"Failure 3\. Gave up after 3 attempts in \d\.\d s\."
    ) as (failure):
        attempt(time, errors, max_retries=2)
    assert str(pickle.loads(pickle.dumps(failure.value))) == str(failure.value)


async def test_a_call_past_its_deadline_says_so(time: FakeTime) -> None:
    context = CallContext(RetryPolicy(30.0, 5.0, 3), time.clock, time.sleep)
    assert context.ends_at == 105.0
    context.check_deadline()
    time.now += 5
    with pytest.raises(RequestTimeoutError, match="deadline of 5 s"):
        context.check_deadline()
    with pytest.raises(RequestTimeoutError, match=r"deadline of 5 s, waiting\..*FallbackScorer"):
        await context.within_deadline(asyncio.Event().wait(), lambda: ", waiting")


async def test_an_attempt_past_its_timeout_names_the_host_and_what_helps(time: FakeTime) -> None:
    context = CallContext(RetryPolicy(0.01, None, 3), time.clock, time.sleep)
    with pytest.raises(RequestTimeoutError, match=r"here:80 .* 0\.01 s\..*FallbackScorer"):
        await context.with_timeout(asyncio.Event().wait(), "here:80")

"""Timeouts, retries with backoff, Retry-After, and deadlines."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from qwen_rerank.errors import (
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.handover import log
from qwen_rerank.validation import check_seconds, check_whole, is_finite

__all__ = ["CallContext", "RetryPolicy", "is_transient"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_BACKOFF = 30.0

_MAX_WAIT = 60.0
"""The longest wait, in seconds, without a deadline: the service's quotas are per minute."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait for a response, and how often to try again.

    Attributes:
        timeout: Seconds for one attempt, from connecting to the last byte of the response.
        deadline: Seconds for the whole call, including retries and waits; None for no limit.
        max_retries: Attempts after the first.
        backoff: Seconds to wait before the first retry. Each further retry waits twice as long, up
            to 30 s. Up to as many seconds of random jitter are added, so that callers who were
            turned away together do not come back together. 0 for no wait.

    Raises:
        InvalidInputError: A value is out of range.
    """

    timeout: float
    deadline: float | None
    max_retries: int
    backoff: float = 0.5

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        check_whole("max_retries", self.max_retries, at_least=0)
        if not is_finite(self.backoff) or self.backoff < 0:
            raise InvalidInputError(
                f"backoff must be a number of seconds of at least 0, got {self.backoff!r}."
            )

    def wait_before(self, retry: int, retry_after: float | None = None) -> float:
        """The seconds to wait before a retry.

        Args:
            retry: 1 for the first retry.
            retry_after: The seconds that the service asked for, if it did.
        """
        doubled = self.backoff * 2.0 ** min(retry - 1, 6)
        wait = max(min(_MAX_BACKOFF, doubled), retry_after or 0.0)
        return wait + random.uniform(0, self.backoff)


@dataclass(frozen=True, slots=True)
class CallContext:
    """The time and the attempts of one call, which starts when this is created.

    Attributes:
        retry_policy: The limits.
        clock: Tells the time, in seconds.
        sleep: Waits for a number of seconds.
        started: When the call started, on the clock.
    """

    retry_policy: RetryPolicy
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    started: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started", self.clock())

    @property
    def elapsed(self) -> float:
        """Seconds since the call started."""
        return self.clock() - self.started

    @property
    def ends_at(self) -> float | None:
        """The deadline as a time on the clock; None for no deadline."""
        limit = self.retry_policy.deadline
        return None if limit is None else self.started + limit

    def check_deadline(self) -> None:
        """Raise RequestTimeoutError if the deadline has passed."""
        limit = self.retry_policy.deadline
        if limit is not None and self.elapsed >= limit:
            raise self._deadline_error()

    async def within_deadline(self, work: Awaitable[T], progress: Callable[[], str]) -> T:
        """Wait for the work of the call.

        Args:
            work: The work.
            progress: Says, after the deadline, what was being waited for.

        Raises:
            RequestTimeoutError: The deadline passed.
        """
        limit = self.retry_policy.deadline
        if limit is None:
            return await work
        with suppress(TimeoutError):
            async with asyncio.timeout(limit - self.elapsed):
                return await work
        raise self._deadline_error(progress())  # out here: the context's frames hold the key

    async def with_timeout(self, response: Awaitable[T], host: str) -> T:
        """Wait for the response to one attempt.

        Raises:
            RequestTimeoutError: It takes longer than the timeout.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self.retry_policy.timeout):
                return await response
        raise RequestTimeoutError(  # out here: the frames of the context hold the key
            f"{host} did not respond within {self.retry_policy.timeout:g} s.",
            remedy="Raise timeout= if it needs longer. To fail sooner, set deadline= or use a "
            "FallbackScorer.",
        )

    async def attempt(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send a request until it succeeds or must not be sent again.

        Args:
            send: Makes one attempt.

        Returns:
            What `send` returned.

        Raises:
            QwenRerankError: The last error. It is raised without a retry if a retry cannot fix it,
                or if the wait before it would end after the deadline or, without a deadline, take
                more than a minute.
        """
        retries = 0
        while True:
            try:
                return await send()
            except QwenRerankError as error:
                wait = self._wait_after(error, retries)
                if wait is None:
                    self._add_attempts(error, retries + 1)
                    raise
                _log_retry(error, retries + 1, wait)
            retries += 1
            await self.sleep(wait)

    def _wait_after(self, error: QwenRerankError, retries: int) -> float | None:
        """The seconds to wait before the next attempt; None if there should be none."""
        if retries >= self.retry_policy.max_retries or not is_transient(error):
            return None
        wait = self.retry_policy.wait_before(retries + 1, error.retry_after)
        limit = self.retry_policy.deadline
        is_too_long = wait > _MAX_WAIT if limit is None else self.elapsed + wait >= limit
        return None if is_too_long else wait

    def _add_attempts(self, error: QwenRerankError, attempts: int) -> None:
        if attempts > 1:
            error.message += f" Gave up after {attempts} attempts in {self.elapsed:.1f} s."
            error.args = (error.message,)

    def _deadline_error(self, progress: str = "") -> RequestTimeoutError:
        return RequestTimeoutError(
            f"The call exceeded its deadline of {self.retry_policy.deadline:g} s{progress}.",
            remedy="Raise deadline=, send fewer documents, or use a FallbackScorer.",
        )


def is_transient(error: QwenRerankError) -> bool:
    """Whether the same request may succeed later, judged by the error's status, then its type.

    An unknown error code with an HTTP status of success is treated as a gateway's problem.
    """
    is_timing = isinstance(error, RateLimitError | RequestTimeoutError)
    if error.status is None or 200 <= error.status < 300:
        return is_timing or isinstance(error, ServiceError)
    if error.status == 400:
        return is_timing
    if error.status == 500 and isinstance(error, InvalidInputError):
        return False  # llama.cpp's status for a text that is too long
    return error.status in (408, 409, 429) or (error.status >= 500 and error.status != 501)


def _log_retry(error: QwenRerankError, attempt: int, wait: float) -> None:
    log(  # without the message, which may quote a text
        _log,
        logging.DEBUG,
        "attempt %d failed: %s code=%s status=%s, retrying in %.1f s",
        attempt,
        type(error).__name__,
        error.code,
        error.status,
        wait,
    )

"""How long and how often to try: timeouts, retries with backoff, Retry-After, deadlines."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from qwen_rerank.errors import (
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.validation import check_seconds, check_whole

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["CallContext", "RetryPolicy"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often a caller is willing to try.

    Attributes:
        timeout: Seconds for one attempt, from connecting to the last byte.
        deadline: Seconds for the whole call with all its attempts and waits; None for no limit.
        max_retries: Attempts after the first.

    Raises:
        InvalidInputError: A value out of range.
    """

    timeout: float
    deadline: float | None
    max_retries: int

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        check_whole("max_retries", self.max_retries, at_least=0)


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call, which starts when this is made: its attempts and its deadline."""

    retry_policy: RetryPolicy
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since the call started."""
        return time.monotonic() - self.started

    @property
    def until(self) -> float | None:
        """The deadline as a time of time.monotonic, in seconds; None for none."""
        limit = self.retry_policy.deadline
        return None if limit is None else self.started + limit

    def check_deadline(self) -> None:
        """Raise RequestTimeoutError if the call's deadline has passed."""
        if self.retry_policy.deadline is not None and self.elapsed >= self.retry_policy.deadline:
            raise self._too_late()

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Cancel what runs inside when the call's deadline passes.

        Raises:
            RequestTimeoutError: It passed.
        """
        limit = self.retry_policy.deadline
        try:
            async with asyncio.timeout(None if limit is None else limit - self.elapsed):
                yield
        except TimeoutError:
            raise self._too_late() from None

    def _too_late(self) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"The call ran past its deadline of {self.retry_policy.deadline:g} s.",
            remedy="Raise deadline=, or send fewer documents.",
        )

    async def attempt(
        self,
        send: Callable[[], Awaitable[T]],
        turn: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[T, int]:
        """Send until it succeeds or retry_policy ends.

        Args:
            send: Makes an attempt, within the timeout.
            turn: Waits until the next attempt may be made; None where there is nothing to wait for.

        Returns:
            What `send` returned, and how many attempts failed before.

        Raises:
            QwenRerankError: The last failure; at once where it is not a passing one, or where the
                wait before the next attempt would end past the deadline or, without one, is more
                than a minute. Or what `turn` raises.
        """
        from tenacity import AsyncRetrying, retry_if_exception  # late: it imports what it can find

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_transient),
            wait=_wait,
            stop=self._gives_up,
            before_sleep=_log_retry,
            reraise=True,
        )
        async for attempt in retrying:
            if turn is not None:
                await turn()
            with attempt:
                result = await send()
        return result, retrying.statistics["attempt_number"] - 1

    async def in_time(self, answer: Awaitable[T]) -> T:
        """The answer to one attempt.

        Raises:
            RequestTimeoutError: It takes longer than the timeout.
        """
        try:
            async with asyncio.timeout(self.retry_policy.timeout):
                return await answer
        except TimeoutError:
            raise RequestTimeoutError(
                f"No answer within {self.retry_policy.timeout:g} s.", remedy="Raise timeout=."
            ) from None

    def _gives_up(self, state: RetryCallState) -> bool:
        limit, wait = self.retry_policy.deadline, state.upcoming_sleep
        too_late = wait > _LONGEST_WAIT if limit is None else self.elapsed + wait >= limit
        return too_late or state.attempt_number > self.retry_policy.max_retries


_LONGEST_WAIT = 60.0
"""Seconds that a service may ask for where there is no deadline: the quotas are by the minute."""


def _is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed a little later: by its status before its code.

    An error code that nobody knows, under HTTP 200, is taken for a gateway's trouble.
    """
    if not isinstance(error, QwenRerankError):
        return False
    passing = isinstance(error, RateLimitError | RequestTimeoutError)
    if error.status in (None, 200):
        return passing or isinstance(error, ServiceError)
    if error.status == 400:
        return passing
    if error.status == 500 and isinstance(error, InvalidInputError):
        return False  # llama.cpp answers so to a text that is too long
    return error.status in (408, 409, 429) or (error.status >= 500 and error.status != 501)


def _backoff(state: RetryCallState) -> float:
    """Half a second, doubling, to at most half a minute; and jitter.

    So that callers who were turned away together do not come back together.
    """
    return min(30.0, 0.5 * 2.0 ** min(state.attempt_number - 1, 6)) + random.uniform(0, 0.5)


def _wait(state: RetryCallState) -> float:
    error = _failure(state)
    asked = None if error is None else error.retry_after
    return max(asked or 0.0, _backoff(state))


def _log_retry(state: RetryCallState) -> None:
    error = _failure(state)  # without its message, which may quote a text
    _log.debug(
        "attempt %d failed: %s code=%s status=%s, the next in %.1f s",
        state.attempt_number,
        type(error).__name__,
        error and error.code,
        error and error.status,
        state.upcoming_sleep,
    )


def _failure(state: RetryCallState) -> QwenRerankError | None:
    """What the last attempt failed by, if it was one of ours."""
    error = state.outcome and state.outcome.exception()
    return error if isinstance(error, QwenRerankError) else None

"""The rate limiters of all accounts of the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from pydantic import SecretStr

from qwen_rerank.scorers.http.rate_limiter import RateLimiter, RateLimits
from qwen_rerank.scorers.http.rates_store import StorePlace
from qwen_rerank.scorers.http.shared_rate_limiter import SharedRateLimiter, StoreThread

__all__ = ["Account", "RateLimiters"]

Account: TypeAlias = tuple[str, SecretStr | str | None]
"""The host and port of a service, and the value of the Authorization header."""


class RateLimiters:
    """A rate limiter per account and limits. For a single event loop.

    Args:
        clock: Tells the time, in seconds.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._limiters: dict[tuple[Account, RateLimits], RateLimiter | SharedRateLimiter] = {}
        self._threads: dict[StorePlace, StoreThread] = {}

    def limiter(self, account: Account, limits: RateLimits) -> RateLimiter | SharedRateLimiter:
        """The limiter that all requests of an account with the same limits share."""
        key = (account, limits)
        if key not in self._limiters:
            busy = {key: each for key, each in self._limiters.items() if not each.is_idle()}
            self._limiters = {**busy, key: self._new(account, limits)}
        return self._limiters[key]

    def _new(self, account: Account, limits: RateLimits) -> RateLimiter | SharedRateLimiter:
        own = RateLimiter(limits, clock=self._clock, sleep=self._sleep)
        if limits.store is None:
            return own
        if limits.store not in self._threads:
            self._threads[limits.store] = StoreThread(limits.store.open, self._clock)
        return SharedRateLimiter(
            account,
            limits,
            self._threads[limits.store],
            own,
            clock=self._clock,
            sleep=self._sleep,
        )

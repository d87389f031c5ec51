"""A rate limiter whose turns come from a store that several processes share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import TypeVar

from pydantic import SecretStr

from qwen_rerank.errors import QwenRerankError
from qwen_rerank.handover import log
from qwen_rerank.scorers.http.rate_limiter import RateLimiter, RateLimits, too_late
from qwen_rerank.scorers.http.rates_store import (
    STORE_SECONDS,
    RatesStore,
    Reservation,
)

__all__ = ["SharedRateLimiter", "StoreThread"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_COOLDOWN = 30.0
"""Seconds for which a store that failed is not used."""


class StoreThread:
    """A store, and the thread that waits for it. For a single event loop.

    Args:
        open_store: Opens the store. Called in the thread.
        clock: Tells the time, in seconds.
    """

    def __init__(self, open_store: Callable[[], RatesStore], clock: Callable[[], float]) -> None:
        self._open = open_store
        self._clock = clock
        self._store: RatesStore | None = None
        self._rests_until: float | None = None
        self._executor = ThreadPoolExecutor(1, "qwen-rerank-rates")

    @property
    def is_resting(self) -> bool:
        """Whether the store failed within the last seconds."""
        return self._rests_until is not None and self._clock() < self._rests_until

    def submit(self, operation: Callable[[RatesStore], T]) -> Future[T]:
        """Run an operation in the thread."""

        def run() -> T:
            if self._store is None:
                self._store = self._open()
            return operation(self._store)

        return self._executor.submit(run)

    def rest(self, error: Exception) -> None:
        """Do not use the store for a while."""
        if not self.is_resting:
            log(
                _log,
                logging.WARNING,
                "The rates_store failed (%s). For %.0f s, this process has rate limits of its own.",
                type(error).__name__,
                _COOLDOWN,
            )
        self._rests_until = self._clock() + _COOLDOWN


def _digest(account: tuple[str, SecretStr | str | None], limits: RateLimits) -> str:
    """Return the account's name in a store, from which nobody can find out the key."""
    address, key = account
    plain = key.get_secret_value() if isinstance(key, SecretStr) else key or ""
    return sha256("\n".join((address, plain, str(limits))).encode()).hexdigest()[:32]


class SharedRateLimiter:
    """Lets the requests of several processes go in the order in which they ask.

    If the store fails, the limits apply to this process alone for half a minute, and a warning is
    logged.

    Args:
        account: Whose limits they are: the address, and the key as it is sent.
        limits: The limits.
        thread: The store.
        own: Used while the store is not.
        clock: Tells the time, in seconds.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        account: tuple[str, SecretStr | str | None],
        limits: RateLimits,
        thread: StoreThread,
        own: RateLimiter,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._account = _digest(account, limits)
        self._limits = limits
        self._thread = thread
        self._own = own
        self._clock = clock
        self._sleep = sleep
        self._waiting = 0

    async def wait_for_turn(self, tokens: int, deadline: float | None) -> None:
        """Wait until a request may be sent; see `RateLimiter.wait_for_turn`."""
        self._waiting += 1
        try:
            if not await self._wait_for_shared_turn(tokens, deadline):
                await self._own.wait_for_turn(tokens, deadline)
        finally:
            self._waiting -= 1

    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing was sent without the store within the last minute."""
        return not self._waiting and self._own.is_idle()

    async def _wait_for_shared_turn(self, tokens: int, deadline: float | None) -> bool:
        """Wait for a turn that the store gives. Return whether it gave one."""
        if self._thread.is_resting:
            return False
        try:
            wait, ticket = await self._reserve(tokens, deadline)
        except QwenRerankError:  # the store cannot be opened as it was described
            raise
        except Exception as error:
            self._thread.rest(error)
            return False
        if ticket is None:
            raise too_late(self._limits, wait)
        if wait > 0:
            log(_log, logging.DEBUG, "waiting %.1f s for %s", wait, self._limits)
            try:
                await self._sleep(wait)
            except BaseException:
                self._release(ticket)
                raise
        return True

    async def _reserve(self, tokens: int, deadline: float | None) -> Reservation:
        longest = None if deadline is None else max(0.0, deadline - self._clock())
        limits = (self._limits.requests, self._limits.tokens)
        reserving = self._thread.submit(
            lambda store: store.reserve(self._account, limits, tokens, longest)
        )
        reserved = asyncio.wrap_future(reserving)
        reserved.add_done_callback(lambda each: each.cancelled() or each.exception())  # not logged
        try:
            async with asyncio.timeout(STORE_SECONDS):
                return await asyncio.shield(reserved)
        except BaseException:  # cancelled or too late, so that nobody takes the turn
            reserving.add_done_callback(self._release_reserved)
            raise

    def _release_reserved(self, reserving: Future[Reservation]) -> None:
        if not reserving.cancelled() and reserving.exception() is None:
            ticket = reserving.result().ticket
            if ticket is not None:
                self._release(ticket)

    def _release(self, ticket: str) -> None:
        try:
            releasing = self._thread.submit(lambda store: store.release(self._account, ticket))
        except RuntimeError:  # the interpreter is shutting down
            return
        releasing.add_done_callback(lambda each: each.exception())

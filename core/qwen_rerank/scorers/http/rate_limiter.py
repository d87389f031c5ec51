"""A sliding-window rate limiter for requests and tokens."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TypeAlias

from qwen_rerank.errors import InvalidInputError, RateLimitError
from qwen_rerank.handover import log
from qwen_rerank.options import RequestArguments
from qwen_rerank.scorers.http.rates_store import StorePlace
from qwen_rerank.validation import check_whole

__all__ = ["MINUTE", "RateLimiter", "RateLimits", "too_late"]

_log = logging.getLogger(__name__)

Clock: TypeAlias = Callable[[], float]

Sleep: TypeAlias = Callable[[float], Awaitable[object]]

MINUTE = 60.0
"""Seconds of the window."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The most that may be sent in any minute.

    Attributes:
        requests: Requests per minute, counting every attempt; None for no limit.
        tokens: Tokens per minute, counting every attempt; None for no limit.
        store: Where processes share them; None if each process has its own.

    Raises:
        InvalidInputError: A limit is not a whole number of at least 1, or there is a store and no
            limit.
    """

    requests: int | None = None
    tokens: int | None = None
    store: StorePlace | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.store is not None and not self:
            raise InvalidInputError(
                "rates_store has no effect without a limit.",
                remedy="Pass requests_per_minute= or tokens_per_minute= too.",
            )
        for name, limit in self._by_option.items():
            check_whole(name, limit, at_least=1)

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def __str__(self) -> str:
        return " and ".join(f"{name}={limit}" for name, limit in self._by_option.items())

    @classmethod
    def of(cls, options: RequestArguments) -> RateLimits:
        """Return the limits that a scorer's options describe."""
        requests, tokens = options["requests_per_minute"], options["tokens_per_minute"]
        where = options["rates_store"]
        return cls(requests, tokens, None if where is None else StorePlace.of(where))

    def share(self, processes: int) -> RateLimits:
        """Return an equal share of the limits, at least 1 each.

        Processes that share a store keep the limits together, so they are not divided.
        """
        if self.store is not None:
            return self
        return RateLimits(_share(self.requests, processes), _share(self.tokens, processes))

    @property
    def _by_option(self) -> dict[str, int]:
        limits = {"requests_per_minute": self.requests, "tokens_per_minute": self.tokens}
        return {name: limit for name, limit in limits.items() if limit is not None}


def _share(limit: int | None, processes: int) -> int | None:
    return None if limit is None else max(1, limit // processes)


class SlidingWindow:
    """The amounts sent within the last minute, and when there is room for the next one.

    Times are in seconds, on any clock that does not go back. Amounts are added in the order of
    their times.

    Args:
        limit: The most that any minute may hold.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._entries: deque[tuple[float, int]] = deque()  # when each leaves the window, amount

    def room_at(self, amount: int, now: float) -> float:
        """The earliest time, not before `now`, at which the amount fits."""
        self._forget_until(now)
        excess = self._total + amount - self._limit
        entries = iter(self._entries)
        start = now
        while excess > 0:
            start, freed = next(entries)
            excess -= freed
        return start

    def add(self, amount: int, at: float) -> None:
        """Count an amount that is sent at this time."""
        self._forget_until(at)
        self._total += amount
        self._entries.append((at + MINUTE, amount))

    def is_empty(self, now: float) -> bool:
        """Whether nothing was sent within the minute before `now`."""
        self._forget_until(now)
        return not self._entries

    def __copy__(self) -> SlidingWindow:
        copied = SlidingWindow(self._limit)
        copied._total, copied._entries = self._total, self._entries.copy()
        return copied

    def _forget_until(self, now: float) -> None:
        while self._entries and self._entries[0][0] <= now:
            self._total -= self._entries.popleft()[1]


class RateLimiter:
    """Lets requests go in the order in which they ask, as soon as the limits allow.

    For a single event loop.

    Args:
        limits: The limits.
        clock: Tells the time, in seconds.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        limits: RateLimits,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        known = (limit for limit in (limits.requests, limits.tokens) if limit is not None)
        self._sent = _Schedule(map(SlidingWindow, known))
        self._head_of_queue = asyncio.Lock()
        self._waiting: dict[object, Sequence[int]] = {}  # amounts, in the order of asking
        self._planned: _Schedule | None = None  # what was sent and what is waiting

    async def wait_for_turn(self, tokens: int, deadline: float | None) -> None:
        """Wait until a request may be sent, and count it.

        A wait that is cancelled is not counted, and those behind it move up.

        Args:
            tokens: The tokens of the request, at most the limit.
            deadline: When the request must be sent at the latest, on the limiter's clock; None for
                no deadline.

        Raises:
            RateLimitError: The request's turn comes after the deadline. Raised without waiting.
        """
        amounts, now = self._amounts(tokens), self._clock()
        if not self._waiting and self._sent.room_at(amounts, now) <= now:
            self._sent.add(amounts, now)
            return
        planned = self._schedule_of_waiting(now)
        start = planned.room_at(amounts, now)
        if deadline is not None and start >= deadline:
            raise too_late(self._limits, start - now)
        planned.add(amounts, start)
        log(_log, logging.DEBUG, "waiting %.1f s for %s", start - now, self._limits)
        await self._queue(amounts)

    def is_idle(self) -> bool:
        """Whether nothing was sent within the last minute and nothing waits."""
        return not self._waiting and self._sent.is_empty(self._clock())

    def _amounts(self, tokens: int) -> Sequence[int]:
        """How much of each limit a request uses."""
        limits = ((self._limits.requests, 1), (self._limits.tokens, tokens))
        return [amount for limit, amount in limits if limit is not None]

    def _schedule_of_waiting(self, now: float) -> _Schedule:
        """The schedule of all waiting requests. Kept up to date until a wait is cancelled."""
        if self._planned is None:
            self._planned = copy(self._sent)
            for amounts in self._waiting.values():
                self._planned.add(amounts, self._planned.room_at(amounts, now))
        return self._planned

    async def _queue(self, amounts: Sequence[int]) -> None:
        ticket = object()
        self._waiting[ticket] = amounts
        try:
            async with self._head_of_queue:
                while (wait := self._sent.room_at(amounts, now := self._clock()) - now) > 0:
                    await self._sleep(wait)
                self._sent.add(amounts, now)
        except BaseException:
            self._planned = None
            raise
        finally:
            del self._waiting[ticket]
            if not self._waiting:
                self._planned = None


def too_late(limits: RateLimits, wait: float) -> RateLimitError:
    """Return the error for a request whose turn, after this wait, comes after the deadline."""
    return RateLimitError(
        f"With {limits}, the next request can be sent in {wait:.1f} s, after the call's deadline.",
        remedy="Raise deadline= or the rate limit, or send fewer documents.",
        retry_after=wait,
    )


class _Schedule:
    """Requests at their times, in a window for each limit."""

    def __init__(self, windows: Iterable[SlidingWindow], last: float = 0.0) -> None:
        self._windows = list(windows)
        self._last = last

    def room_at(self, amounts: Sequence[int], now: float) -> float:
        """The earliest time for the next request, not before `now` or the request before it."""
        start = max(now, self._last)
        pairs = zip(self._windows, amounts, strict=True)
        return max(window.room_at(amount, start) for window, amount in pairs)

    def add(self, amounts: Sequence[int], at: float) -> None:
        """Add a request that is sent at this time."""
        self._last = at
        for window, amount in zip(self._windows, amounts, strict=True):
            window.add(amount, at)

    def is_empty(self, now: float) -> bool:
        """Whether nothing was sent within the minute before `now`."""
        return all(window.is_empty(now) for window in self._windows)

    def __copy__(self) -> _Schedule:
        return _Schedule(map(copy, self._windows), self._last)

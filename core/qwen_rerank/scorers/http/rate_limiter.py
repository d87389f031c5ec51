"""What went out in the last minute, and whose turn is next."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Hashable
from typing import cast

from pyrate_limiter import InMemoryBucket, Rate, RateItem

from qwen_rerank.errors import RateLimitError
from qwen_rerank.scorers.http.rate_limits import Rates

__all__ = ["Meter", "Meters"]

_log = logging.getLogger(__name__)

_MINUTE = 60_000
"""In milliseconds, as is all time here that is a whole number."""

_STEPS = 100_000
"""The log of a meter has an entry a unit: a limit above this is counted in larger units."""


class Meters:
    """The meters of everyone's rates. For one event loop."""

    def __init__(self) -> None:
        self._meters: dict[Hashable, Meter] = {}

    async def admit(self, whose: Hashable, rates: Rates, tokens: int, until: float | None) -> None:
        """Wait for a request's turn: they go out in the order of asking.

        Args:
            whose: Who shares a rate with whom.
            rates: What may go out in a minute.
            tokens: Those of the request; at most `rates.tokens`.
            until: A time of time.monotonic, in seconds, before which it must go out; None for any.

        Raises:
            RateLimitError: Its turn is later. Nothing was waited for.
        """
        now = time.monotonic()
        booked = _book(self._amounts(whose, rates, tokens, _whole(now)), _whole(now))
        wait = booked[0][1].timestamp / 1e3 - now
        try:
            if wait > 0:
                await _pause(wait, rates, now, until)
        except BaseException:  # it does not go out, so that others may
            for meter, item in booked:
                meter.cancel(item)
            raise

    def _amounts(
        self, whose: Hashable, rates: Rates, tokens: int, now: int
    ) -> list[tuple[Meter, int]]:
        """The meters that a request has to pass, and how much it takes of each."""
        limits = {"requests": (rates.requests, 1), "tokens": (rates.tokens, tokens)}
        amounts = {
            (whose, unit, limit): amount
            for unit, (limit, amount) in limits.items()
            if limit is not None
        }
        if amounts.keys() - self._meters.keys():
            used = {which: meter for which, meter in self._meters.items() if meter.is_used(now)}
            new = {which: Meter(which[2]) for which in amounts.keys() - used.keys()}
            self._meters = used | new
        return [(self._meters[which], amount) for which, amount in amounts.items()]


class Meter:
    """Lets out so much in any minute, in the order of asking. It is told the time.

    Args:
        limit: How much.
    """

    def __init__(self, limit: int) -> None:
        self._unit = math.ceil(limit / _STEPS)
        self._units = limit // self._unit
        self._log = InMemoryBucket([Rate(self._units, _MINUTE)])

    def book(self, amount: int, now: int, start: int) -> RateItem:
        """Book the first time, not before `start` and behind all that is booked, for so much."""
        self._log.leak(now)
        last = self._log.peek(0)
        units = min(math.ceil(amount / self._unit), self._units)
        item = RateItem("", start if last is None else max(start, last.timestamp), units)
        while not self._log.put(item):
            item.timestamp += cast(int, self._log.waiting(item))
        return item

    def cancel(self, item: RateItem) -> None:
        """Give back what was booked."""
        self._log.items = [each for each in self._log.items if each is not item]

    def is_used(self, now: int) -> bool:
        """Whether anything went out within the last minute, or is booked."""
        self._log.leak(now)
        return self._log.count() > 0


def _book(amounts: list[tuple[Meter, int]], now: int) -> list[tuple[Meter, RateItem]]:
    """Book all the amounts for the same time."""
    booked: list[tuple[Meter, RateItem]] = []
    start = now
    for meter, amount in amounts:
        item = meter.book(amount, now, start)
        booked.append((meter, item))
        start = item.timestamp
    for _, item in booked:
        item.timestamp = start  # later is always possible: it is the last one of its meter
    return booked


def _whole(seconds: float) -> int:
    return int(seconds * 1_000)


async def _pause(wait: float, rates: Rates, now: float, until: float | None) -> None:
    if until is not None and now + wait >= until:
        raise RateLimitError(
            f"{rates} lets the next request out in {wait:.1f} s, after the call's deadline.",
            remedy="Raise deadline= or the rate, or send fewer documents.",
            retry_after=wait,
        )
    _log.debug("waiting %.1f s for a turn by %s", wait, rates)
    await asyncio.sleep(wait)

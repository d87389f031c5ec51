"""Wrapper: what the scorers that wrap others have in common."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any, TypeVar, cast

from qwen_rerank.inputs.content import Item, Modality
from qwen_rerank.scorers.base import Scorer, Scores, check_scorer, checked

__all__ = ["Way", "Wrapper"]

T = TypeVar("T")


class Way(ABC):
    """How a wrapper gets what it needs: by calling or by awaiting."""

    @abstractmethod
    async def ask(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        """The scores that the scorer gives, a finite one for each text."""

    @abstractmethod
    async def do(self, work: Callable[[], T]) -> T:
        """What the work returns, for which an event loop should not have to wait."""


class _Calling(Way):
    """For callers with no event loop: nothing here ever waits for one."""

    async def ask(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        return checked(scorer.score(*_taken(query, texts)), len(texts), scorer.model)

    async def do(self, work: Callable[[], T]) -> T:
        return work()


class _Awaiting(Way):
    """For callers in an event loop."""

    async def ask(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        return checked(await scorer.ascore(*_taken(query, texts)), len(texts), scorer.model)

    async def do(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def _taken(query: Item, texts: Sequence[Item]) -> tuple[str, Sequence[str]]:
    """What a scorer gets: a Content is among it only where all the wrapped scorers take it."""
    return cast(tuple[str, Sequence[str]], (query, texts))


_CALLING, _AWAITING = _Calling(), _Awaiting()


class Wrapper(Scorer):
    """A scorer that has its scores from other scorers, and closes them when it is closed.

    What it does is written once, in `_score`, which gets the way to do it: `score` runs it in the
    caller's thread and calls the others, `ascore` awaits it and them. It adds neither a thread nor
    a task to what they need. The seconds of its usage are those of the whole call.

    Args:
        scorers: The scorers that it wraps.

    Raises:
        InvalidInputError: One of them is no scorer.
    """

    def __init__(self, *scorers: Scorer) -> None:
        for scorer in scorers:
            check_scorer(scorer, f"{type(self).__name__} wraps scorers")
        self._scorers = scorers

    @property
    def modalities(self) -> frozenset[Modality]:
        """What all of the wrapped scorers take."""
        return frozenset.intersection(*(scorer.modalities for scorer in self._scorers))

    @abstractmethod
    async def _score(self, query: Item, texts: Sequence[Item], way: Way) -> Scores:
        """Score the texts. It awaits nothing but the way."""

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Score the texts; see `Scorer.score`."""
        start = time.perf_counter()
        return _timed(_result(self._score(query, texts, _CALLING)), start)

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """The same as `score`, by what the wrapped scorers have for event loops."""
        start = time.perf_counter()
        return _timed(await self._score(query, texts, _AWAITING), start)

    def close(self) -> None:
        """Close the wrapped scorers."""
        with ExitStack() as stack:
            for scorer in self._scorers:
                stack.callback(scorer.close)

    async def aclose(self) -> None:
        """The same as `close`, from an event loop."""
        async with AsyncExitStack() as stack:
            for scorer in self._scorers:
                stack.push_async_callback(scorer.aclose)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._scorers))})"


def _result(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("A wrapper awaited something else than its way.")


def _timed(scores: Scores, start: float) -> Scores:
    """The scores, with the seconds since the start."""
    return replace(scores, usage=replace(scores.usage, seconds=time.perf_counter() - start))

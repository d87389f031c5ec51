"""Wrapper: what all scorers that wrap other scorers share."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from qwen_rerank.errors import QwenRerankError
from qwen_rerank.inputs.content import Item, Modality, checked_texts
from qwen_rerank.scorers.base import Scorer, Scores, Usage, can_score_top, check_scorer, checked
from qwen_rerank.threads import in_thread

__all__ = ["Runner", "Wrapper"]

T = TypeVar("T")


class Runner(ABC):
    """Runs the parts of one call, either by calling or by awaiting them.

    Args:
        top_n: How many of the best scores the call needs; None for all.

    Attributes:
        wasted: The usage of the wrapped scorers' calls that failed.
        usage: The usage of all calls of the wrapped scorers.
    """

    def __init__(self, top_n: int | None = None) -> None:
        self._top_n = top_n
        self.wasted = Usage()
        self.usage = Usage()

    @abstractmethod
    async def score(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        """Return the checked scores of a wrapped scorer, one per text."""

    @abstractmethod
    async def score_top(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        """Return the scores that the call needs: like `score`, or only the best `top_n`."""

    @abstractmethod
    async def run(
        self, work: Callable[[], T], executor: Executor | None = None, limit: float | None = None
    ) -> T:
        """Run blocking work. In an event loop, it runs in a thread, the executor's if there is one.

        Raises:
            TimeoutError: In an event loop, the work took longer than `limit` seconds.
        """

    @contextmanager
    def _counted(self) -> Iterator[Callable[[Scores], Scores]]:
        """Count the usage of a wrapped scorer's call."""

        def count(scores: Scores) -> Scores:
            self.usage += scores.usage
            return scores

        try:
            yield count
        except QwenRerankError as error:
            if error.usage is not None:
                self.usage += error.usage
                self.wasted += error.usage
            raise


class _SyncRunner(Runner):
    """Calls everything in the caller's thread, without an event loop."""

    async def score(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        with self._counted() as count:
            scores = scorer.score(*_arguments(query, texts))
            return count(checked(scores, len(texts), scorer.model))

    async def score_top(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        if self._top_n is None or not can_score_top(scorer):
            return await self.score(scorer, query, texts)
        with self._counted() as count:
            scores = scorer.score_top(*_arguments(query, texts), self._top_n)
            return count(checked(scores, len(texts), scorer.model, self._top_n))

    async def run(
        self, work: Callable[[], T], executor: Executor | None = None, limit: float | None = None
    ) -> T:
        return work()


class _AsyncRunner(Runner):
    """Awaits everything in the running event loop."""

    async def score(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        with self._counted() as count:
            scores = await scorer.ascore(*_arguments(query, texts))
            return count(checked(scores, len(texts), scorer.model))

    async def score_top(self, scorer: Scorer, query: Item, texts: Sequence[Item]) -> Scores:
        if self._top_n is None or not can_score_top(scorer):
            return await self.score(scorer, query, texts)
        with self._counted() as count:
            scores = await scorer.ascore_top(*_arguments(query, texts), self._top_n)
            return count(checked(scores, len(texts), scorer.model, self._top_n))

    async def run(
        self, work: Callable[[], T], executor: Executor | None = None, limit: float | None = None
    ) -> T:
        async with asyncio.timeout(limit):
            return await in_thread(work, executor)


def _arguments(query: Item, texts: Sequence[Item]) -> tuple[str, Sequence[str]]:
    """The arguments of a wrapped scorer: Contents only if all wrapped scorers accept them."""
    return cast(tuple[str, Sequence[str]], (query, texts))


class Wrapper(Scorer):
    """A scorer that gets its scores from other scorers, and closes them when it is closed.

    A subclass implements `_score` once, for sync and async calls alike: `score` runs it in the
    caller's thread, `ascore` awaits it. It needs no thread or task of its own. Its usage has the
    seconds of the whole call.

    Args:
        scorers: The wrapped scorers.

    Raises:
        InvalidInputError: One of them is not a scorer.
    """

    def __init__(self, *scorers: Scorer) -> None:
        for scorer in scorers:
            check_scorer(scorer, f"{type(self).__name__} wraps scorers")
        self._scorers = scorers

    @property
    def uses_order(self) -> bool:
        """Whether any of the wrapped scorers uses the order of the texts."""
        return any(scorer.uses_order for scorer in self._scorers)

    @property
    def modalities(self) -> frozenset[Modality]:
        """What all wrapped scorers accept."""
        return frozenset.intersection(*(scorer.modalities for scorer in self._scorers))

    @abstractmethod
    async def _score(self, query: Item, texts: Sequence[Item], runner: Runner) -> Scores:
        """Score the texts. It may await nothing but methods of the runner."""

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Score the texts; see `Scorer.score`."""
        return self._run_sync(query, texts, _SyncRunner())

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Like `score`, without blocking the event loop."""
        return await self._run_async(query, texts, _AsyncRunner())

    def score_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """Score the texts, or at least the best `top_n`; see `Scorer.score_top`."""
        return self._run_sync(query, texts, _SyncRunner(top_n))

    async def ascore_top(self, query: Item, texts: Sequence[Item], top_n: int) -> Scores:
        """Like `score_top`, without blocking the event loop."""
        return await self._run_async(query, texts, _AsyncRunner(top_n))

    def _run_sync(self, query: Item, texts: Sequence[Item], runner: _SyncRunner) -> Scores:
        with _accounted(runner) as account:
            return account(_result(self._score(query, checked_texts(texts), runner)))

    async def _run_async(self, query: Item, texts: Sequence[Item], runner: _AsyncRunner) -> Scores:
        with _accounted(runner) as account:
            return account(await self._score(query, checked_texts(texts), runner))

    def share_rates(self, processes: int) -> None:
        """Divide the rates of the wrapped scorers."""
        for scorer in self._scorers:
            scorer.share_rates(processes)

    def close(self) -> None:
        """Close the wrapped scorers."""
        with ExitStack() as stack:
            for scorer in self._scorers:
                stack.callback(scorer.close)

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        async with AsyncExitStack() as stack:
            for scorer in self._scorers:
                stack.push_async_callback(scorer.aclose)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._scorers))})"


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("A wrapper awaited something other than its runner.")


@contextmanager
def _accounted(runner: Runner) -> Iterator[Callable[[Scores], Scores]]:
    """Account for the whole call, its failed parts included, whether it succeeds or not."""
    start = time.perf_counter()

    def account(scores: Scores) -> Scores:
        usage = scores.usage + runner.wasted
        return replace(scores, usage=replace(usage, seconds=time.perf_counter() - start))

    try:
        yield account
    except QwenRerankError as error:
        if runner.usage != Usage():
            error.usage = replace(runner.usage, seconds=time.perf_counter() - start)
        raise

"""Rerank many queries: concurrently, in bounded memory, and without paying for any twice."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Sized,
)
from contextlib import contextmanager
from os import PathLike
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from qwen_rerank.batch.journal import Journal
from qwen_rerank.batch.progress import ProgressCallback
from qwen_rerank.batch.work import END, OnError, Outcome, Query, Result, Task, Work, not_tasks
from qwen_rerank.errors import QwenRerankError
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.result import Ranking
from qwen_rerank.threads import no_thread
from qwen_rerank.usage import Usage

__all__ = ["AsyncRankings", "OnError", "Rankings", "Task", "arerank_many", "rerank_many"]

R = TypeVar("R")


class _Common:
    """What the sync and the async iterator have in common."""

    _work: Work

    @property
    def usage(self) -> Usage:
        """What this call has cost so far, including queries that failed."""
        return self._work.usage

    @property
    def earlier_usage(self) -> Usage:
        """What the queries cost that the journal had when it was opened."""
        return self._work.earlier_usage


class Rankings(_Common, Iterator[Result[R]], Generic[R]):
    """Iterates over query ids and their rankings; see `rerank_many`.

    Closing it, or leaving its `with` block, cancels the queries that are running.
    """

    def __init__(self, work: Work, results: Generator[Result[Any], None, None]) -> None:
        self._work = work
        self._results = results

    def __next__(self) -> Result[R]:
        return next(self._results)

    def close(self) -> None:
        """Cancel what is running, and close the journal."""
        self._results.close()
        self._work.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncRankings(_Common, AsyncIterator[Result[R]], Generic[R]):
    """Iterates over query ids and their rankings; see `arerank_many`.

    Closing it, or leaving its `async with` block, cancels the queries that are running.
    """

    def __init__(self, work: Work, results: AsyncGenerator[Result[Any], None]) -> None:
        self._work = work
        self._results = results

    async def __anext__(self) -> Result[R]:
        return await anext(self._results)

    async def aclose(self) -> None:
        """Cancel what is running, and close the journal."""
        await self._results.aclose()
        self._work.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


@overload
def rerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise"] = "raise",
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> Rankings[Ranking]: ...
@overload
def rerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: OnError,
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> Rankings[Ranking | QwenRerankError]: ...
def rerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: OnError = "raise",
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> Rankings[Any]:
    """Rerank many queries concurrently.

    Tasks are read as they are needed, in your thread. At most `max_concurrency` queries run at
    once, and at most four times as many tasks and results are in memory. The scorer's own rates and
    limits apply to all queries together. The texts of a query are scored in one call, so that
    scorers that reuse a prefix can do so.

    If a query or the iterable of tasks fails, no other query is started. Those that have started
    are finished, because they are paid for, and then the error is raised. If you close the
    iterator, or interrupt it with Ctrl-C, they are cancelled.

    With a journal, a finished query is on disk before the next one starts. If you call the function
    again with the same journal, the same tasks and the same options, finished queries come from the
    journal and cost nothing. Their records have neither `passage` nor `lists`. Queries that failed
    are not in the journal, so they are tried again.

    Args:
        engine: Ranks the records.
        tasks: Triples of a query id, a query and its records. Ids should be unique; with a journal
            they must be, and so must the ids of a query's records.
        top_n: How many records of each query to return at most, at least 1; None for all.
        ordered: Whether results come in the order of the tasks. Otherwise they come as soon as they
            are ready.
        on_error: `"raise"` stops at the first query that fails. `"keep"` yields the error in place
            of the ranking and goes on, except after an AuthenticationError, which would repeat.
        max_concurrency: How many queries may run at once, at least 1.
        journal: The file that finished queries are kept in, so that an interrupted job can go on.
            The file stays when the job is complete: delete it when you no longer need it.
        progress: Whether to show a progress bar (needs the extra `cli`), or a function that gets a
            `Progress` after each query.
        total: The number of tasks, for the progress, at least 0. None to use `len(tasks)` if there
            is one.

    Returns:
        An iterator over query ids and rankings, whose attribute `usage` is what the call has cost.

    Raises:
        InvalidInputError: An argument is invalid, a task is not a triple, an id is repeated, or
            the journal belongs to other options or other tasks.
        QwenRerankError: A query failed.
        MissingDependencyError: `progress` is True, and rich is not installed.
        OSError: The journal can't be read or written.
    """
    if not isinstance(tasks, Iterable):
        raise not_tasks(tasks)
    source, total = iter(tasks), _total(tasks, total)
    work = Work(engine, top_n, ordered, on_error, max_concurrency, journal, progress, total)
    return Rankings(work, _results(work, source))


@overload
def arerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task] | AsyncIterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: Literal["raise"] = "raise",
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> AsyncRankings[Ranking]: ...
@overload
def arerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task] | AsyncIterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: OnError,
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> AsyncRankings[Ranking | QwenRerankError]: ...
def arerank_many(
    engine: RerankEngine,
    tasks: Iterable[Task] | AsyncIterable[Task],
    *,
    top_n: int | None = None,
    ordered: bool = True,
    on_error: OnError = "raise",
    max_concurrency: int = 8,
    journal: Journal | str | PathLike[str] | None = None,
    progress: bool | ProgressCallback = False,
    total: int | None = None,
) -> AsyncRankings[Any]:
    """The same as `rerank_many` in an event loop, where tasks may also be an async iterable.

    Use `async with` if you may stop early, so that nothing goes on running:

        async with arerank_many(engine, tasks) as rankings:
            async for query_id, ranking in rankings:
                ...
    """
    if not isinstance(tasks, Iterable | AsyncIterable):
        raise not_tasks(tasks)
    source = aiter(tasks) if isinstance(tasks, AsyncIterable) else iter(tasks)
    total = _total(tasks, total)
    work = Work(engine, top_n, ordered, on_error, max_concurrency, journal, progress, total)
    return AsyncRankings(work, _async_results(work, source))


def _results(work: Work, tasks: Iterator[Task]) -> Generator[Result[Outcome], None, None]:
    """Yield the results. Queries run in an event loop in a thread of its own."""
    running: dict[concurrent.futures.Future[Outcome], Query] = {}
    with work.running(), _background_loop() as loop:
        while True:
            work.collect(running)
            if work.wants_task(len(running)):
                with work.reading():
                    if query := work.query(next(tasks, END)):
                        future = asyncio.run_coroutine_threadsafe(work.outcome(query), loop)
                        running[future] = query
            elif (result := work.next_result()) is not None:
                yield result
            elif running:
                concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            else:
                break
        work.raise_failure()


async def _async_results(
    work: Work, tasks: Iterator[Task] | AsyncIterator[Task]
) -> AsyncGenerator[Result[Outcome], None]:
    running: dict[asyncio.Future[Outcome], Query] = {}
    reader = _Reader(tasks)
    with work.running():
        try:
            while True:
                work.collect(running)
                if work.wants_task(len(running)):
                    reader.start()
                if reader.is_ready and not work.is_over:
                    with work.reading():
                        if query := work.query(reader.task()):
                            running[asyncio.ensure_future(work.outcome(query))] = query
                elif (result := work.next_result()) is not None:
                    yield result
                elif pending := {*running, *(() if work.is_over else reader.pending)}:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                else:
                    break
            work.raise_failure()
        finally:
            await _cancel(*running, *reader.futures())


class _Reader:
    """Reads tasks, so that results need not wait for a task that takes long to come.

    Args:
        tasks: The tasks. One coroutine reads all of an async iterable, which may use context
            managers that must be left where they were entered.

    Attributes:
        pending: The future of the task that is being read, or nothing.
    """

    def __init__(self, tasks: Iterator[Task] | AsyncIterator[Task]) -> None:
        self.pending: list[asyncio.Future[object]] = []
        self._tasks = tasks
        self._wanted: asyncio.Queue[asyncio.Future[object]] = asyncio.Queue()
        self._coroutine: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a task was read, or could not be."""
        return any(future.done() for future in self.pending)

    def start(self) -> None:
        """Read a task, unless one is being read."""
        if self.pending:
            return
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        if not isinstance(self._tasks, AsyncIterator):
            try:
                future.set_result(next(self._tasks, END))
            except Exception as error:
                future.set_exception(error)
            return
        self._wanted.put_nowait(future)
        if self._coroutine is None:
            self._coroutine = asyncio.ensure_future(self._read(self._tasks))

    def task(self) -> object:
        """Return the task that was read, or raise what its source raised."""
        return self.pending.pop().result()

    def futures(self) -> Iterator[asyncio.Future[Any]]:
        """Yield what must be cancelled at the end."""
        yield from self.pending
        if self._coroutine is not None:
            yield self._coroutine

    async def _read(self, tasks: AsyncIterator[Task]) -> None:
        while True:
            future = await self._wanted.get()
            try:
                future.set_result(await anext(tasks, END))
            except asyncio.CancelledError:
                future.cancel()
                raise
            except Exception as error:
                future.set_exception(error)


async def _cancel(*futures: asyncio.Future[Any]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


@contextmanager
def _background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread; at the end, its tasks are cancelled, and the thread is over."""
    started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
    stop = asyncio.Event()

    def run() -> None:
        with asyncio.Runner() as runner:  # cancels and awaits all tasks at the end
            started.set_result(runner.get_loop())
            runner.run(stop.wait())

    thread = threading.Thread(target=run, name="qwen-rerank-many", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread(error) from error
    loop = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _total(tasks: object, total: int | None) -> int | None:
    """Return the number of tasks, if it is known."""
    return len(tasks) if total is None and isinstance(tasks, Sized) else total

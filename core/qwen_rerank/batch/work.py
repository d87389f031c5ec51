"""The work of `rerank_many`: which task is next, what came of each, and what is on disk."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Literal, ParamSpec, TypeAlias, TypeVar, cast, get_args

from qwen_rerank.batch.journal import FinishedQuery, Journal
from qwen_rerank.batch.progress import ProgressBar, ProgressCallback, Stopwatch
from qwen_rerank.errors import AuthenticationError, InvalidInputError, QwenRerankError
from qwen_rerank.inputs.content import Content, Item
from qwen_rerank.ranking.candidates import Candidates, Lists
from qwen_rerank.ranking.engine import RerankEngine, offloaded, ranking_of_records
from qwen_rerank.ranking.records import Record, RecordLists, flattened_records
from qwen_rerank.ranking.result import Ranking
from qwen_rerank.threads import in_thread
from qwen_rerank.usage import Usage
from qwen_rerank.validation import (
    check_choice,
    check_flag,
    check_top_n,
    check_whole,
    is_utf8,
    not_utf8,
)

__all__ = ["END", "OnError", "Outcome", "Query", "Result", "Task", "Work", "not_tasks"]

P = ParamSpec("P")
R = TypeVar("R")

Task: TypeAlias = tuple[str, Item, RecordLists]
"""A query's id, its text (or Content), and its records."""

OnError: TypeAlias = Literal["raise", "keep"]

Result: TypeAlias = tuple[str, R]
Outcome: TypeAlias = Ranking | Exception
_Future = TypeVar("_Future", "concurrent.futures.Future[Outcome]", "asyncio.Future[Outcome]")

_WAITING = 4
"""How many tasks and results may be in memory, as a multiple of max_concurrency."""

END = object()
"""What comes after the last task."""


@dataclass(slots=True, eq=False)
class Query:
    """A task that has started, and what came of it."""

    id: str
    query: Item
    records: list[Record]
    lists: Lists | None
    outcome: Outcome | None = None


class Work:
    """The state of a call: which task is next, and which results are ready.

    Args:
        engine: Ranks the records.
        top_n: How many records of each query to return; None for all.
        ordered: Whether results come in the order of the tasks.
        on_error: What to do with a query that fails.
        max_concurrency: How many queries may run at once.
        journal: Where finished queries are kept; None for nowhere.
        progress: Whether to show a progress bar, or what gets the progress.
        total: The number of tasks; None if it is not known.

    Attributes:
        usage: What the queries have cost that ran here.
        earlier_usage: What those cost that the journal had.
    """

    def __init__(
        self,
        engine: RerankEngine,
        top_n: int | None,
        ordered: bool,
        on_error: OnError,
        max_concurrency: int,
        journal: Journal | str | PathLike[str] | None,
        progress: bool | ProgressCallback,
        total: int | None,
    ) -> None:
        if not isinstance(engine, RerankEngine):
            raise InvalidInputError(
                f"engine must be a RerankEngine, got {type(engine).__name__}.",
                remedy='Pass for example RerankEngine(scorer, rerank_field="text").',
            )
        check_choice("on_error", on_error, get_args(OnError))
        check_flag("ordered", ordered)
        if not isinstance(progress, bool) and not callable(progress):
            raise InvalidInputError(f"progress must be a boolean or a function, got {progress!r}.")
        check_top_n(top_n)
        check_whole("max_concurrency", max_concurrency, at_least=1)
        if total is not None:
            check_whole("total", total, at_least=0)
        self.usage = self.earlier_usage = Usage()
        self._engine = engine
        self._top_n = top_n
        self._ordered = ordered
        self._keeps_errors = on_error == "keep"
        self._max_concurrency = max_concurrency
        self._waiting: deque[Query] = deque()
        self._is_exhausted = False
        self._failure: Exception | None = None
        self._ids: set[str] = set()
        self._earlier: frozenset[str] = frozenset()
        self._journal: Journal | None = None
        self._unwritten: deque[FinishedQuery] = deque()
        self._bar = ProgressBar(total) if progress is True else None
        self._report = self._bar.show if self._bar is not None else progress or None
        self._total = total
        self._stopwatch: Stopwatch | None = None
        self._resources = ExitStack()
        if journal is not None:
            self._open(journal)

    def _open(self, journal: Journal | str | PathLike[str]) -> None:
        if not isinstance(journal, Journal):
            journal = self._resources.enter_context(closing(self._own_journal(journal)))
        self._journal = journal
        self.earlier_usage = journal.usage
        self._earlier = frozenset(journal.finished)
        # One thread reads and writes the journal: no event loop waits for the disk.
        self._disk = self._resources.enter_context(ThreadPoolExecutor(1, "qwen-rerank-journal"))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Report the progress meanwhile, and close the journal at the end."""
        with closing(self):
            if callable(self._report):
                self._stopwatch = Stopwatch(self._report, self._total)
            if self._bar is not None:
                self._bar.start()
                self._resources.callback(self._bar.stop)
            yield

    def close(self) -> None:
        """Close the journal, once what is being written is on disk, and the progress bar."""
        self._resources.close()

    def wants_task(self, running: int) -> bool:
        """Whether to start another task while this many run."""
        has_room = len(self._waiting) < _WAITING * self._max_concurrency
        return not self.is_over and has_room and running < self._max_concurrency

    @property
    def is_over(self) -> bool:
        """Whether no task is read any more."""
        return self._is_exhausted or self._failure is not None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """If reading a task fails, let those that have started finish."""
        try:
            yield
        except Exception as error:
            self._failure = self._failure or error

    def query(self, task: object) -> Query | None:
        """Return what to run for a task; None after the last one.

        Raises:
            InvalidInputError: The task is invalid.
        """
        if task is END:
            self._is_exhausted = True
            return None
        if not isinstance(task, Sequence) or isinstance(task, str) or len(task) != 3:
            raise not_tasks(task)
        query_id, query, records = task
        if not isinstance(query_id, str):
            raise InvalidInputError(
                f"The id of a query must be a string, got {query_id!r}.",
                remedy="Convert it: str(id).",
            )
        flat, lists = flattened_records(records)
        if self._journal is not None:
            self._check_ids(query_id, flat)
        self._waiting.append(Query(query_id, query, flat, lists))
        return self._waiting[-1]

    async def outcome(self, query: Query) -> Outcome:
        """Return the ranking of a query, or why there is none. Finished queries are not sent."""
        try:
            is_long = self._engine.takes_long(len(query.records))
            candidates = await offloaded(
                is_long, self._engine.candidates, query.records, query.lists
            )
            if self._journal is None:
                return await self._ranking(query, candidates)
            return await self._journaled(self._journal, query, candidates, is_long)
        except Exception as error:
            return error
        except asyncio.CancelledError as error:
            if (own := asyncio.current_task()) is None or own.cancelling():
                raise
            failure = RuntimeError(f"The scorer cancelled its own call for query {query.id!r}.")
            failure.__cause__ = error
            return failure

    def collect(self, running: dict[_Future, Query]) -> None:
        """Take over the outcomes of the queries that no longer run."""
        for future in [future for future in running if future.done()]:
            query = running.pop(future)
            query.outcome = outcome = future.result()
            query.records = []
            is_earlier = query.id in self._earlier
            if isinstance(outcome, Ranking):
                if not is_earlier:
                    self.usage += outcome.usage
            else:
                self.usage += getattr(outcome, "usage", None) or Usage()
                if not self._is_result(query) and self._failure is None:
                    self._failure = outcome
            if self._stopwatch is not None:
                self._stopwatch.count(
                    self.earlier_usage + self.usage,
                    earlier=is_earlier,
                    failed=isinstance(outcome, Exception),
                )

    def next_result(self) -> Result[Outcome] | None:
        """Return a result that is ready, the next one if they come in order; None if none is."""
        candidates = tuple(islice(self._waiting, 1)) if self._ordered else self._waiting
        query = next((query for query in candidates if self._is_result(query)), None)
        if query is None:
            return None
        self._waiting.remove(query)
        return query.id, cast(Outcome, query.outcome)

    def raise_failure(self) -> None:
        """Raise the first failure, if there is one."""
        if self._failure is not None:
            raise self._failure

    def _is_result(self, query: Query) -> bool:
        """Whether the query has an outcome that is yielded, and not raised."""
        if isinstance(query.outcome, Exception):
            is_kept = self._keeps_errors and isinstance(query.outcome, QwenRerankError)
            return is_kept and not isinstance(query.outcome, AuthenticationError)
        return query.outcome is not None

    def _check_ids(self, query_id: str, records: Sequence[Record]) -> None:
        """Raise unless the ids identify a query and its records in a journal."""
        if query_id in self._ids:
            raise InvalidInputError(f"There are two tasks with the id {query_id!r}.")
        self._ids.add(query_id)
        if not all(map(is_utf8, (query_id, *(record.id for record in records)))):
            raise not_utf8(f"The id of query {query_id!r} or of one of its records")
        fields = {record.id: record.fields for record in records}
        for record in records:
            if not record.id or record.fields != fields[record.id]:
                problem = "have one id" if record.id else "have no id"
                raise InvalidInputError(
                    f"Records of query {query_id!r} {problem}: {record.id!r}.",
                    remedy="Give each an id of its own, or pass journal=None.",
                )

    def _own_journal(self, path: str | PathLike[str]) -> Journal:
        if not isinstance(path, str | PathLike) or not path:
            raise InvalidInputError(f"journal must be the path of a file or None, got {path!r}.")
        options = {"scorer": self._engine.scorer.fingerprint, "top_n": self._top_n}
        return Journal(Path(path), {**options, **self._engine.options})

    async def _ranking(self, query: Query, candidates: Candidates) -> Ranking:
        ranking = await self._engine.arank(query.query, candidates, self._top_n)
        return ranking_of_records(query.records, ranking)

    async def _journaled(
        self, journal: Journal, query: Query, candidates: Candidates, is_long: bool
    ) -> Ranking:
        """Return the ranking in the journal, or rank the query and add it to the journal."""
        digest = await offloaded(is_long, _digest, query.query, candidates)
        if query.id in self._earlier:
            finished = await self._on_disk(journal.read, query.id)
            if finished.digest != digest:
                raise InvalidInputError(
                    f"Query {query.id!r} or its records differ from those in the journal.",
                    remedy="Pass the same tasks as before, or another journal.",
                )
            journal.check_documents(finished, {record.id for record in query.records})
            return _restored(finished, query.records)
        ranking = await self._ranking(query, candidates)
        self._unwritten.append(_finished(query.id, ranking, digest))
        await self._on_disk(self._write, journal)
        return ranking

    def _write(self, journal: Journal) -> None:
        """Write what waits, at once: one call of fsync can serve several queries.

        Raises:
            OSError: It could not be written, or what an earlier call took from here could not.
        """
        queries = []
        while self._unwritten:
            queries.append(self._unwritten.popleft())
        journal.add(*queries)

    async def _on_disk(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        working = in_thread(partial(work, *args, **kwargs), self._disk)
        # A ranking that is paid for is written, also if its query is cancelled.
        return await asyncio.shield(working)


def _digest(query: Item, candidates: Candidates) -> str:
    """Return a hash of all that a ranking depends on besides the options."""
    parts: list[object] = [query, candidates.ids, candidates.items]
    if candidates.lists is not None:  # where one ends changes the ranks in retrieval
        parts.append([len(own) for own in candidates.lists.values()])
    content = json.dumps(parts, default=_parts)
    return blake2b(content.encode(), digest_size=16).hexdigest()


def _parts(value: object) -> object:
    if isinstance(value, Content):
        return [value.text, value.image, value.video, *(value.frames or ())]
    return list(cast(Sequence[object], value))


def _finished(query_id: str, ranking: Ranking, digest: str) -> FinishedQuery:
    return FinishedQuery(
        query_id,
        [(record.id, record.score) for record in ranking],
        ranking.usage,
        unranked=ranking.unranked,
        model=ranking.model,
        skipped=ranking.skipped,
        duplicates=ranking.duplicates,
        over_budget=ranking.over_budget,
        digest=digest,
        length=len(ranking),
    )


def _restored(finished: FinishedQuery, records: Sequence[Record]) -> Ranking:
    by_id = {record.id: record for record in records}
    return Ranking(
        records=tuple(by_id[id_].scored(score) for id_, score in finished.ranking),
        usage=finished.usage,
        skipped=finished.skipped,
        duplicates=finished.duplicates,
        over_budget=finished.over_budget,
        model=finished.model,
        unranked=finished.unranked,
    )


def not_tasks(value: object) -> InvalidInputError:
    """Return the error for something that is not a task, or not an iterable of tasks."""
    return InvalidInputError(
        f"Tasks must be triples of a query id, a query and its records, got {value!r:.60}.",
        remedy='Pass for example [("q1", "What do penguins eat?", records)].',
    )

"""Rerank a run in a file, and write another; continue where an earlier attempt stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen_rerank.batch.candidates import Candidates, Job
from qwen_rerank.batch.journal import Journal, ScoredIds
from qwen_rerank.batch.many import rerank_many
from qwen_rerank.batch.progress import ProgressCallback
from qwen_rerank.batch.run_file import (
    already_exists,
    check_can_write,
    would_replace_input,
    write_run,
)
from qwen_rerank.batch.text_index import TextIndex
from qwen_rerank.batch.work import Task
from qwen_rerank.errors import ContentBlockedError, InvalidInputError
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.scorers.wrappers.fallback import FallbackScorer, KeepOrder
from qwen_rerank.usage import Usage

__all__ = ["RunFiles", "RunReranking", "keeping_refused"]

_JOURNAL = ".journal"
"""What is appended to the name of the result for the name of the journal."""

_TEXT = "text"
"""The field of a record that has the text of the document."""


class RunFiles:
    """The files of a run that is reranked.

    Args:
        candidates: What to rerank; see `Candidates`.
        out: The run to write, in TREC's format.
        queries: The texts of the queries; None if the candidates have them all.
        corpus: The texts of the documents; None if the candidates have them all.
        overwrite: Whether to replace the result if it exists.
        restart: Whether to discard what earlier attempts have paid for.

    Raises:
        InvalidInputError: The result exists, can't be a file or would replace an input, or an input
            can't be read twice.
    """

    def __init__(
        self,
        candidates: Path,
        out: Path,
        queries: Path | None = None,
        corpus: Path | None = None,
        *,
        overwrite: bool = False,
        restart: bool = False,
    ) -> None:
        self.candidates, self.queries, self.corpus = candidates, queries, corpus
        self.out = out
        self.journal = out.parent / f"{out.name}{_JOURNAL}"
        self.overwrite = overwrite
        self.restart = restart
        inputs = [file for file in (candidates, queries, corpus) if file is not None]
        check_can_write(out, inputs, overwrite=True)
        for file in inputs:
            self._check_input(file)
        if self.would_replace and (restart or not self.journal.exists()):
            raise already_exists(out)

    @property
    def would_replace(self) -> bool:
        """Whether the result exists, and must not be replaced."""
        return os.path.lexists(self.out) and not self.overwrite

    def _check_input(self, file: Path) -> None:
        """Refuse an input that can't be read twice, or that is in the place of the journal."""
        if not file.is_file() and not file.is_dir() and file.exists():
            raise InvalidInputError(
                f"{file} is a pipe or a device, but inputs are read more than once.",
                remedy="Write it to a file first.",
            )
        if file.resolve() == self.journal.resolve():
            raise would_replace_input(file)


class RunReranking:
    """A run, and what is finished of it. Everything is read and checked when you create it.

    Use it in a `with` block.

    Args:
        scorer: Scores the texts.
        files: The files.
        fields: The fields that make up the text of a document in the corpus; see
            `datasets.read_texts`.
        depth: How many documents of each query to rerank, from the first; None for all.
        top_n: How many documents of each query to keep; None for all.
        keep_refused: Whether a query that the service's content inspection refuses keeps its
            order; otherwise it is a failure.

    Attributes:
        counts: How much there is to do.
        journal: What is finished.

    Raises:
        InvalidInputError: A file is invalid, or the journal belongs to other files or options.
        OSError: A file can't be read, or the journal can't be written.
    """

    def __init__(
        self,
        scorer: Scorer,
        files: RunFiles,
        *,
        fields: Sequence[str] | None = None,
        depth: int | None = None,
        top_n: int | None = None,
        keep_refused: bool = False,
    ) -> None:
        self._files = files
        self._top_n = top_n
        self._tag = "-".join(scorer.model.split())
        self._engine = _engine(scorer, keep_refused)
        with ExitStack() as stack:
            queries, corpus = (
                None if file is None else stack.enter_context(closing(TextIndex(file, names)))
                for file, names in ((files.queries, None), (files.corpus, fields))
            )
            self._candidates = Candidates(files.candidates, queries, corpus, depth)
            self.counts = self._candidates.counts
            options = {
                "scorer": scorer.fingerprint,
                "field": fields,
                "depth": depth,
                "top_n": top_n,
                **self._candidates.digests,
            }
            journal = Journal(files.journal, options, restart=files.restart)
            self.journal = stack.enter_context(closing(journal))
            self._check_can_continue(keep_refused)
            for _ in self._rankings():
                pass  # check what is finished before more is paid for
            self._open = stack.pop_all()

    def rerank(self, *, max_concurrency: int = 8, progress: ProgressCallback | None = None) -> None:
        """Rerank the queries that are not finished, write the result, and delete the journal.

        At most `max_concurrency` queries run at once, and four times as many are in memory. After a
        failure no query is started, and those that have started are finished.

        Args:
            max_concurrency: How many queries may run at once, at least 1.
            progress: Called after each query.

        Raises:
            QwenRerankError: A query failed, or a file has changed.
            OSError: The journal or the result can't be written.
        """
        jobs = self._candidates.jobs(frozenset(self.journal.finished))
        with rerank_many(
            self._engine,
            map(_task, jobs),
            top_n=self._top_n,
            ordered=False,
            max_concurrency=max_concurrency,
            journal=self.journal,
            progress=progress or False,
        ) as rankings:
            for _ in rankings:
                pass
        self._candidates.check_unchanged()
        write_run(self._files.out, self._tag, self._rankings(), overwrite=self._files.overwrite)

    def estimate(self, scorer: Scorer) -> Usage:
        """Return what the queries that are not finished would cost, without sending anything.

        Args:
            scorer: The same scorer as for reranking, with an `EstimatingScorer` in its place.

        Raises:
            InvalidInputError: A text is invalid, or a file has changed.
        """
        jobs = self._candidates.jobs(frozenset(self.journal.finished))
        tasks = map(_task, jobs)
        engine = _engine(scorer, keep_refused=False)
        with rerank_many(engine, tasks, ordered=False, max_concurrency=1) as rankings:
            for _ in rankings:
                pass
            return rankings.usage

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def _check_can_continue(self, keep_refused: bool) -> None:
        if self._files.would_replace and len(self.journal.finished) < self.counts.queries:
            if not self.journal.finished:
                self.journal.remove()
            raise already_exists(self._files.out)
        if self.journal.unranked and not keep_refused:
            raise InvalidInputError(
                f"{self.journal.unranked:,} of the finished queries were refused by the content "
                "inspection.",
                remedy="Continue with keep_refused=True, or start over with restart=True.",
            )

    def _rankings(self) -> Iterator[tuple[str, ScoredIds]]:
        """Yield the finished queries and their rankings, in the order of the candidates."""
        for query_id, document_ids in self._candidates.document_ids():
            if query_id in self.journal.finished:
                yield query_id, self.journal.ranking(query_id, document_ids, self._top_n)


def keeping_refused(scorer: Callable[[], Scorer]) -> Scorer:
    """Return the scorer; a query that the content inspection refuses keeps its order."""
    return FallbackScorer(scorer(), KeepOrder(), on=(ContentBlockedError,))


def _engine(scorer: Scorer, keep_refused: bool) -> RerankEngine:
    if keep_refused:
        scorer = keeping_refused(lambda: scorer)
    return RerankEngine(scorer, rerank_field=_TEXT, missing="keep")


def _task(job: Job) -> Task:
    records = [Record(id_, {_TEXT: text}) for id_, text in job.documents.items()]
    return job.query_id, job.query, records

"""Reranking many queries at the same time, each into the journal as soon as it is finished."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen_rerank.cli.candidates import Candidates, Job
from qwen_rerank.cli.journal import Finished, Journal, Scored, sync_folder
from qwen_rerank.errors import ContentBlockedError
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Usage

__all__ = ["PART", "rerank_all", "write_run"]

_TEXT = "text"

PART = ".part"
"""What the name of a file ends in that is not whole yet."""


async def rerank_all(
    jobs: Iterator[Job],
    engine: RerankEngine,
    journal: Journal,
    *,
    top_n: int | None,
    keep_refused: bool,
    concurrency: int,
    progress: Callable[[], object],
) -> None:
    """Rerank what the journal does not have yet.

    At most `concurrency` queries and their texts are in memory. After a failure no query is begun,
    and those that have begun are finished, as they are paid for.

    Args:
        jobs: The queries.
        engine: Ranks the records, whose text is in the field `"text"`.
        journal: Where finished queries go.
        top_n: How many documents of each query to keep; None for all.
        keep_refused: Whether a query that the service's content inspection refuses keeps the order
            that it had; else it is a failure.
        concurrency: Queries at the same time.
        progress: Called after each query.

    Raises:
        QwenRerankError: The first failure.
        OSError: The journal can't be written.
    """
    failures: list[BaseException] = []

    async def work() -> None:
        while not failures:
            try:
                job = next(jobs, None)
                if job is None:
                    return
                journal.add(await _finished(job, engine, top_n, keep_refused))
            except Exception as error:
                failures.append(error)
            else:
                progress()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    if failures:
        raise failures[0]


async def _finished(
    job: Job, engine: RerankEngine, top_n: int | None, keep_refused: bool
) -> Finished:
    records = [Record(id_, {_TEXT: text}) for id_, text in job.documents.items()]
    try:
        ranking = await engine.arerank(job.query, records, top_n)
    except ContentBlockedError:
        if not keep_refused:
            raise
        kept = [(record.id, None) for record in records[:top_n]]
        return Finished(job.query_id, kept, Usage(), refused=True)
    return Finished(job.query_id, [(record.id, record.score) for record in ranking], ranking.usage)


def write_run(path: Path, name: str, candidates: Candidates, journal: Journal) -> None:
    """Write the journal's rankings in TREC's format, in the order of the candidates.

    The file is whole or it is not there. A document without a score, as it has no text or was
    refused, gets one that is 1 less than that of the document before it.

    Args:
        path: The file; one that is there is replaced.
        name: The run's name, the last column.
        candidates: The order of the queries.
        journal: The rankings.

    Raises:
        OSError: The file can't be written.
    """
    part = path.with_name(f"{path.name}{PART}")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_lines(name, candidates, journal))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _lines(name: str, candidates: Candidates, journal: Journal) -> Iterator[str]:
    for query_id in candidates.query_ids():
        for place, (document_id, score) in enumerate(_numbered(journal.ranking(query_id)), 1):
            yield f"{query_id} Q0 {document_id} {place} {score!r} {name}\n"


def _numbered(ranking: Scored) -> Iterator[tuple[str, float]]:
    score = 0.0
    for document_id, given in ranking:
        score = score - 1 if given is None else given
        yield document_id, score

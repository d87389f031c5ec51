"""Rerank many queries concurrently, and write each to the journal as soon as it is finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from qwen_rerank.cli.candidates import Job
from qwen_rerank.cli.journal import FinishedQuery, Journal
from qwen_rerank.errors import ContentBlockedError
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Usage

__all__ = ["TEXT", "rerank_queries"]

TEXT = "text"
"""The field of a record that has the text of the document."""


async def rerank_queries(
    jobs: Iterator[Job],
    engine: RerankEngine,
    journal: Journal,
    *,
    top_n: int | None,
    keep_refused: bool,
    concurrency: int,
    progress: Callable[[], object],
) -> None:
    """Rerank the queries.

    At most `concurrency` queries and their texts are in memory. After a failure no query is
    started, and those that have started are finished, because they are paid for.

    Args:
        jobs: The queries.
        engine: Ranks the records. Their text is in the field `TEXT`.
        journal: Where finished queries go.
        top_n: How many documents of each query to keep; None for all.
        keep_refused: Whether a query that the service's content inspection refuses keeps its
            order; otherwise it is a failure.
        concurrency: How many queries run at the same time.
        progress: Called after each query.

    Raises:
        QwenRerankError: The first failure.
        OSError: The journal can't be written.
    """
    failures: list[Exception] = []

    async def work() -> None:
        while not failures:
            try:
                job = next(jobs, None)
                if job is None:
                    return
                journal.add(await _finished_query(job, engine, top_n, keep_refused))
            except Exception as error:
                failures.append(error)
            else:
                progress()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    if failures:
        raise failures[0]


async def _finished_query(
    job: Job, engine: RerankEngine, top_n: int | None, keep_refused: bool
) -> FinishedQuery:
    records = [Record(id_, {TEXT: text}) for id_, text in job.documents.items()]
    try:
        ranking = await engine.arerank(job.query, records, top_n)
    except ContentBlockedError:
        if not keep_refused:
            raise
        in_order = [(record.id, None) for record in records[:top_n]]
        return FinishedQuery(job.query_id, in_order, Usage(), refused=True)
    scored = [(record.id, record.score) for record in ranking]
    return FinishedQuery(job.query_id, scored, ranking.usage)

"""Retrieve, rerank and measure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.comparing import build_report, check_some_judged
from qwen_rerank.evaluation.first_stage import FirstStage, RecordReader, Retriever, best_first
from qwen_rerank.evaluation.measuring import parse_measures
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import (
    BestFirst,
    Judgements,
    Run,
    judgements_by_query,
    with_string_ids,
)
from qwen_rerank.evaluation.second_stage import Reranked, Reranker, SecondStage, second_stage
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Passage, Usage
from qwen_rerank.threads import no_thread, to_thread
from qwen_rerank.validation import check_query, check_whole

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["Reranker", "aevaluate", "evaluate"]

Progress: TypeAlias = Callable[[int, int], object]
"""Called with the number of finished queries and the number of all queries."""


def evaluate(
    first_stage: FirstStage,
    reranker: Reranker | None,
    queries: Mapping[str, str],
    judgements: Judgements,
    *,
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    documents: Mapping[str, str] | None = None,
    rerank_field: RerankField | None = None,
    document_id: str | Callable[[Any], str | None] | None = None,
    names: tuple[str, str] = ("retrieved", "reranked"),
    concurrency: int = 8,
    progress: Progress | None = None,
) -> Report:
    """Measure a first stage, and what reranking changes.

    Queries run concurrently, each in a thread. The first failure ends the evaluation; a note in the
    error says which query it was. Means are over the judged queries, including those for which the
    first stage returns nothing.

    Args:
        first_stage: What retrieves documents. A run, which maps each query id to document ids, best
            first, or to their scores, or is rows, such as ir_measures.ScoredDoc; a function that
            takes the text of a query; or a LangChain or LlamaIndex retriever.
        reranker: A scorer, an engine, a LangChain compressor or a LlamaIndex postprocessor; None to
            measure the first stage alone. A `top_n` shortens the ranking that is measured, so give
            a compressor or postprocessor `top_n=None`.
        queries: The texts of the queries by id.
        judgements: The gains of documents by query id; or rows, such as ir_measures.Qrel. Queries
            without judgements are left out before anything is retrieved.
        measures: Names that ir-measures knows, such as `"nDCG@10"`, or its measures.
        documents: The texts of documents by id, for a first stage that returns only ids.
        rerank_field: For a scorer, the field of a record to score: `"content"` by default, the
            content of a framework's document. Other rerankers have an option of their own.
        document_id: The id by which a framework's document is judged: a metadata key, a function,
            or None for its own id. Of several documents with one id, the first counts.
        names: What to call the two runs.
        concurrency: How many queries run at the same time, at least 1. Use 1 for a first stage that
            is not thread-safe.
        progress: Called after each query with the number of finished queries and of all queries.

    Raises:
        InvalidInputError: An argument is invalid, or no query is judged.
        QwenRerankError: Whatever the reranker raises.
        MissingDependencyError: The extra `evaluation` is not installed.
    """
    evaluation = _Evaluation.of(
        first_stage,
        reranker,
        queries,
        judgements,
        measures,
        documents,
        rerank_field,
        document_id,
        names,
    )
    check_whole("concurrency", concurrency, at_least=1)
    _check_progress(progress)
    outcomes: dict[str, _Outcome] = {}
    has_ended = Event()

    def run_query(query_id: str) -> None:
        if has_ended.is_set():
            return
        try:
            outcomes[query_id] = evaluation.outcome(query_id)
        except BaseException:
            has_ended.set()
            raise

    with ThreadPoolExecutor(concurrency, thread_name_prefix="evaluate") as pool:
        try:
            futures = _submitted(pool, run_query, evaluation.queries)
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(futures))
        finally:
            has_ended.set()
    return evaluation.report(outcomes)


async def aevaluate(
    first_stage: FirstStage,
    reranker: Reranker | None,
    queries: Mapping[str, str],
    judgements: Judgements,
    *,
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    documents: Mapping[str, str] | None = None,
    rerank_field: RerankField | None = None,
    document_id: str | Callable[[Any], str | None] | None = None,
    names: tuple[str, str] = ("retrieved", "reranked"),
    concurrency: int = 8,
    progress: Progress | None = None,
) -> Report:
    """Do the same as `evaluate` without blocking the event loop.

    The first stage may be an asynchronous function.
    """
    evaluation = _Evaluation.of(
        first_stage,
        reranker,
        queries,
        judgements,
        measures,
        documents,
        rerank_field,
        document_id,
        names,
    )
    check_whole("concurrency", concurrency, at_least=1)
    _check_progress(progress)
    outcomes: dict[str, _Outcome] = {}
    slots = asyncio.Semaphore(concurrency)

    async def run_query(query_id: str) -> None:
        async with slots:
            outcomes[query_id] = await evaluation.aoutcome(query_id)

    tasks = [asyncio.create_task(run_query(query_id)) for query_id in evaluation.queries]
    try:
        for done, task in enumerate(asyncio.as_completed(tasks), start=1):
            await task
            if progress is not None:
                progress(done, len(tasks))
    finally:
        for unfinished in tasks:
            unfinished.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await to_thread(evaluation.report, outcomes)


def _submitted(
    pool: ThreadPoolExecutor, run_query: Callable[[str], None], query_ids: Iterable[str]
) -> list[Future[None]]:
    try:
        return [pool.submit(copy_context().run, run_query, query_id) for query_id in query_ids]
    except RuntimeError as error:
        raise no_thread(error) from error


def _check_progress(progress: Progress | None) -> None:
    if progress is not None and not callable(progress):
        raise InvalidInputError(
            f"progress must be a function, got {progress!r:.60}.",
            remedy="It gets how many queries are done, and how many there are.",
        )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of one query, without the records, which may be large."""

    before: BestFirst
    after: BestFirst
    usage: Usage | None
    unranked: bool
    fallback: str | None
    passages: dict[str, Passage]


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The checked arguments of an evaluation.

    Attributes:
        retriever: The first stage.
        second_stage: The second stage, if there is one.
        all_queries: The texts of all queries, by id.
        queries: The texts of those that are judged.
        judgements: The gains of documents by query id.
        measures: What to compute.
        names: The names of the two runs.
    """

    retriever: Retriever
    second_stage: SecondStage | None
    all_queries: Mapping[str, str]
    queries: Mapping[str, str]
    judgements: dict[str, dict[str, int]]
    measures: list[Measure]
    names: tuple[str, str]

    @classmethod
    def of(
        cls,
        first_stage: FirstStage,
        reranker: Reranker | None,
        queries: Mapping[str, str],
        judgements: Judgements,
        measures: Sequence[str | Measure],
        documents: Mapping[str, str] | None,
        rerank_field: RerankField | None,
        document_id: str | Callable[[Any], str | None] | None,
        names: tuple[str, str],
    ) -> _Evaluation:
        if not isinstance(documents, Mapping | None):
            raise InvalidInputError(f"documents must be texts by id, got {documents!r:.60}.")
        reader = RecordReader(documents, document_id)
        all_queries = with_string_ids(queries, "queries")
        gains = judgements_by_query(judgements)
        check_some_judged(all_queries, gains)
        judged = {id_: text for id_, text in all_queries.items() if id_ in gains}
        for id_, text in judged.items():
            with _noting_query(id_, text):
                check_query(text)
        are_names = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
        if not are_names or isinstance(names, str) or len(set(names)) != 2:
            raise InvalidInputError(f"names must be two different names, got {names!r}.")
        return cls(
            Retriever(first_stage, reader),
            second_stage(reranker, rerank_field, reader),
            all_queries,
            judged,
            gains,
            parse_measures(measures),
            names,
        )

    def outcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        with _noting_query(query_id, query):
            retrieved = self.retriever.retrieve(query_id, query)
            if self.second_stage is None or not retrieved:
                return _outcome(retrieved, Reranked(retrieved))
            return _outcome(retrieved, self.second_stage.rank(query, retrieved))

    async def aoutcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        with _noting_query(query_id, query):
            retrieved = await self.retriever.aretrieve(query_id, query)
            if self.second_stage is None or not retrieved:
                return _outcome(retrieved, Reranked(retrieved))
            return _outcome(retrieved, await self.second_stage.arank(query, retrieved))

    def report(self, outcomes: Mapping[str, _Outcome]) -> Report:
        """Measure both runs, or the only one."""
        first, second = self.names
        runs: dict[str, Run] = {first: {id_: outcomes[id_].before for id_ in self.queries}}
        if self.second_stage is not None:
            runs[second] = {id_: outcomes[id_].after for id_ in self.queries}
        report = build_report(runs, self.all_queries, self.judgements, self.measures)
        notes = (*report.notes, *_second_stage_notes(second, list(outcomes.values())))
        passages = {second: {id_: outcomes[id_].passages for id_ in self.queries}}
        return replace(
            report, usage=_total_usage(outcomes.values()), notes=notes, passages=passages
        )


@contextmanager
def _noting_query(query_id: str, query: str) -> Iterator[None]:
    """Add to an error a note that says which query it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was query {query_id!r}: {query!r:.200}")
        raise


def _outcome(retrieved: Iterable[Record], reranked: Reranked) -> _Outcome:
    before, after = best_first(retrieved), best_first(reranked.records)
    return _Outcome(
        before, after, reranked.usage, reranked.unranked, reranked.fallback, _passages(reranked)
    )


def _passages(reranked: Reranked) -> dict[str, Passage]:
    """Return the passages that won; of several records with one id, the first counts."""
    passages: dict[str, Passage | None] = {}
    for record in reranked.records:
        passages.setdefault(record.id, record.passage)
    return {id_: passage for id_, passage in passages.items() if passage is not None}


def _total_usage(outcomes: Iterable[_Outcome]) -> Usage | None:
    usages = [outcome.usage for outcome in outcomes if outcome.usage is not None]
    return sum(usages, Usage()) if usages else None


def _second_stage_notes(name: str, outcomes: Sequence[_Outcome]) -> Iterator[str]:
    total = f"of {len(outcomes)} queries"
    if shorter := sum(len(outcome.after) < len(outcome.before) for outcome in outcomes):
        yield (
            f"{name} has fewer documents than were retrieved for {shorter} {total}. Check top_n, "
            "min_score, max_candidates and documents without text."
        )
    ranked = [outcome for outcome in outcomes if not outcome.unranked]
    scores = [score for outcome in ranked for score in outcome.after.values()]
    if 0 < (unscored := scores.count(None)) < len(scores):
        yield (
            f"{unscored} of {len(scores)} documents in {name} have no score: they have no text, or "
            "only the first scorer of a cascade ranked them."
        )
    if unranked := len(outcomes) - len(ranked):
        yield f"{name} keeps the retrieval order for {unranked} {total}: no model ranked them."
    for model, count in Counter(outcome.fallback for outcome in ranked).items():
        if model is not None:
            yield f"{model} ranked {count} {total} in {name}, because the scorer before it failed."

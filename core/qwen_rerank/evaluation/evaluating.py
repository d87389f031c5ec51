"""Retrieve, rerank, measure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.comparing import check_judged, reported
from qwen_rerank.evaluation.first_stage import FirstStage, Reader, Search, ranking_of
from qwen_rerank.evaluation.measuring import parsed
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import BestFirst, Judgements, Run, by_id, judgements_by_query
from qwen_rerank.evaluation.second_stage import Reranked, Reranker, SecondStage, second_stage
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.ranking.records import Record
from qwen_rerank.scorers.base import Usage
from qwen_rerank.validation import check_query, check_whole

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["Reranker", "aevaluate", "evaluate"]

Progress: TypeAlias = Callable[[int, int], object]
"""Called with how many queries are done, and how many there are."""


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
    """Measure a first stage, and what reranking makes of it.

    Queries run at the same time, each in a thread. The first that fails ends the evaluation, with a
    note in the error of which it was. Means are over the judged queries, one for which nothing is
    found included.

    Args:
        first_stage: What finds documents: a run (by query id, the ids, best first, or their
            scores; or rows such as ir_measures.ScoredDoc), a function of the query's text, or a
            retriever of LangChain's or LlamaIndex'.
        reranker: A scorer, an engine, a compressor or a postprocessor; None for none. A compressor
            with a `top_n` shortens the ranking, and so what is measured: pass it `top_n=None`.
        queries: The queries' texts by their ids.
        judgements: The gains of documents by query id; or rows such as ir_measures.Qrel. Queries
            without any are left out, before anything is retrieved.
        measures: Names of ir-measures', such as `"nDCG@10"`, or its measures.
        documents: Texts by document id, where the first stage gives ids alone.
        rerank_field: Where a scorer finds a record's text: `"content"` by default, which is the
            content of a framework's document. Goes with a scorer alone.
        document_id: The id that a framework's document is judged by: a metadata key, a function, or
            None for its own. Of several documents with one id the first one counts.
        names: What the two runs are called.
        concurrency: Queries that run at the same time, at least 1. 1 for a first stage that is not
            safe to use from several threads.
        progress: Called after each query with how many are done, and how many there are.

    Raises:
        InvalidInputError: An argument that can't be used, or no judged query.
        QwenRerankError: Whatever the reranker raises.
        MissingDependencyError: The extra `evaluation` is not installed.
    """
    work = _Work.of(
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
    outcomes: dict[str, _Outcome] = {}
    is_over = Event()

    def one(query_id: str) -> None:
        if is_over.is_set():
            return
        try:
            outcomes[query_id] = work.outcome(query_id)
        except BaseException:
            is_over.set()
            raise

    with ThreadPoolExecutor(concurrency, thread_name_prefix="evaluate") as pool:
        futures = [pool.submit(copy_context().run, one, query_id) for query_id in work.queries]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(futures))
        finally:
            is_over.set()
    return work.report(outcomes)


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
    """The same as `evaluate`, without blocking the event loop.

    A function as the first stage may be asynchronous.
    """
    work = _Work.of(
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
    outcomes: dict[str, _Outcome] = {}
    slots = asyncio.Semaphore(concurrency)

    async def one(query_id: str) -> None:
        async with slots:
            outcomes[query_id] = await work.aoutcome(query_id)

    tasks = [asyncio.create_task(one(query_id)) for query_id in work.queries]
    try:
        for done, task in enumerate(asyncio.as_completed(tasks), start=1):
            await task
            if progress is not None:
                progress(done, len(tasks))
    finally:
        for unfinished in tasks:
            unfinished.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await asyncio.to_thread(work.report, outcomes)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one query. Not the records, which may be large."""

    before: BestFirst
    after: BestFirst
    usage: Usage | None
    unranked: bool
    fallback: str | None


@dataclass(frozen=True, slots=True)
class _Work:
    """What is evaluated. `queries` are those that are judged, `asked` all of them."""

    search: Search
    second: SecondStage | None
    asked: Mapping[str, str]
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
    ) -> _Work:
        reader = Reader(documents, document_id)
        asked, gains = by_id(queries, "queries"), judgements_by_query(judgements)
        check_judged(asked, gains)
        judged = {id_: text for id_, text in asked.items() if id_ in gains}
        for id_, text in judged.items():
            with _naming(id_, text):
                check_query(text)
        if isinstance(names, str) or len(set(names)) != 2:
            raise InvalidInputError(f"names must be two names, got {names!r}.")
        return cls(
            Search(first_stage, reader),
            second_stage(reranker, rerank_field, reader),
            asked,
            judged,
            gains,
            parsed(measures),
            names,
        )

    def outcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        with _naming(query_id, query):
            found = self.search.find(query_id, query)
            if self.second is None or not found:
                return _outcome(found, Reranked(found))
            return _outcome(found, self.second.rank(query, found))

    async def aoutcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        with _naming(query_id, query):
            found = await self.search.afind(query_id, query)
            if self.second is None or not found:
                return _outcome(found, Reranked(found))
            return _outcome(found, await self.second.arank(query, found))

    def report(self, outcomes: Mapping[str, _Outcome]) -> Report:
        """Measure both runs, or the one that there is."""
        first, second = self.names
        runs: dict[str, Run] = {first: {id_: outcomes[id_].before for id_ in self.queries}}
        if self.second is not None:
            runs[second] = {id_: outcomes[id_].after for id_ in self.queries}
        report = reported(runs, self.asked, self.judgements, self.measures)
        notes = (*report.notes, *_notes(second, list(outcomes.values())))
        return replace(report, usage=_total(outcomes.values()), notes=notes)


@contextmanager
def _naming(query_id: str, query: str) -> Iterator[None]:
    """What is raised says in a note which query it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This was query {query_id!r}: {query!r:.200}")
        raise


def _outcome(found: Iterable[Record], reranked: Reranked) -> _Outcome:
    before, after = ranking_of(found), ranking_of(reranked.records)
    return _Outcome(before, after, reranked.usage, reranked.unranked, reranked.fallback)


def _total(outcomes: Iterable[_Outcome]) -> Usage | None:
    known = [outcome.usage for outcome in outcomes if outcome.usage is not None]
    return sum(known, Usage()) if known else None


def _notes(name: str, outcomes: Sequence[_Outcome]) -> Iterator[str]:
    of = f"of {len(outcomes)} queries"
    if shorter := sum(len(outcome.after) < len(outcome.before) for outcome in outcomes):
        yield (
            f"{name} has fewer documents than were found for {shorter} {of}, as a top_n, a "
            "min_score, max_candidates or documents without text make it."
        )
    ranked = [outcome for outcome in outcomes if not outcome.unranked]
    scores = [score for outcome in ranked for score in outcome.after.values()]
    if 0 < (unscored := scores.count(None)) < len(scores):
        yield (
            f"{unscored} of {len(scores)} documents of {name} have no score: they have no text, or "
            "were ranked by a cascade's first scorer alone."
        )
    if unranked := len(outcomes) - len(ranked):
        yield f"{name} is the order in which they were found for {unranked} {of}: no model ranked."
    for model, count in Counter(outcome.fallback for outcome in ranked).items():
        if model is not None:
            yield f"{name} was ranked by {model} for {count} {of}: the scorer before it failed."

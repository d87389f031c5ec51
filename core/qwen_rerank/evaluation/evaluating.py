"""Retrieve, rerank, measure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_rerank.checks import check_query, check_whole
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.found import FirstStage, Ranked, Reader, Search, ranking_of
from qwen_rerank.evaluation.measuring import measured, parsed
from qwen_rerank.evaluation.ranked import Reranked, Reranker, SecondStage, second_stage
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import Judgements, Run, judgements_by_query
from qwen_rerank.fields import RerankField
from qwen_rerank.records import Record
from qwen_rerank.scoring import Usage

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["Reranker", "aevaluate", "compare", "evaluate"]

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

    Queries run at the same time, each in a thread. The first that fails ends the evaluation.

    Args:
        first_stage: What finds documents: a run (by query id, the ids, best first, or their
            scores), a function of the query's text, or a retriever of LangChain's or LlamaIndex'.
        reranker: A scorer, an engine, a compressor or a postprocessor; None for none. A compressor
            with a `top_n` shortens the ranking, and so what is measured: pass it `top_n=None`.
        queries: The queries' texts by their ids.
        judgements: The gains of documents by query id. Queries without any are left out, before
            anything is retrieved.
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
        first_stage, reranker, queries, judgements, measures, documents, rerank_field, document_id
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
    return work.report(outcomes, names)


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
        first_stage, reranker, queries, judgements, measures, documents, rerank_field, document_id
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
    return await asyncio.to_thread(work.report, outcomes, names)


def compare(
    runs: Mapping[str, Mapping[str, Ranked]],
    judgements: Judgements,
    *,
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    queries: Mapping[str, str] | None = None,
) -> Report:
    """Measure runs side by side.

    Args:
        runs: By their names, runs: by query id the documents' ids, best first, or their scores.
            The first is what the others are compared with.
        judgements: The gains of documents by query id.
        measures: Names of ir-measures', such as `"nDCG@10"`, or its measures.
        queries: The queries' texts by their ids: these are measured, as far as they are judged.
            Without them, those that are judged and that at least one run has. A query that a run
            does not have counts 0 for it.

    Raises:
        InvalidInputError: An argument that can't be used, or no judged query.
        MissingDependencyError: The extra `evaluation` is not installed.
    """
    reader = Reader()
    ranked: dict[str, Run] = {
        name: {str(id_): ranking_of(reader.records(found)) for id_, found in run.items()}
        for name, run in runs.items()
    }
    if not ranked:
        raise InvalidInputError("There is no run to measure.")
    asked = queries or {id_: "" for run in ranked.values() for id_ in run}
    return _measured(ranked, asked, judgements_by_query(judgements), parsed(measures))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one query."""

    before: dict[str, float | None]
    after: dict[str, float | None]
    usage: Usage | None
    unranked: bool


@dataclass(frozen=True, slots=True)
class _Work:
    """What is evaluated. `queries` are those that are judged, `asked` all of them."""

    search: Search
    second: SecondStage | None
    asked: Mapping[str, str]
    queries: Mapping[str, str]
    judgements: dict[str, dict[str, int]]
    measures: list[Measure]

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
    ) -> _Work:
        reader = Reader(documents, document_id)
        gains = judgements_by_query(judgements)
        judged = {id_: text for id_, text in queries.items() if id_ in gains}
        for text in judged.values():
            check_query(text)
        _check_judged(judged, queries, gains)
        return cls(
            Search(first_stage, reader),
            second_stage(reranker, rerank_field, reader),
            queries,
            judged,
            gains,
            parsed(measures),
        )

    def outcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        found = self.search.find(query_id, query)
        if self.second is None or not found:
            return _outcome(found, Reranked(found))
        return _outcome(found, self.second.rank(query, found))

    async def aoutcome(self, query_id: str) -> _Outcome:
        query = self.queries[query_id]
        found = await self.search.afind(query_id, query)
        if self.second is None or not found:
            return _outcome(found, Reranked(found))
        return _outcome(found, await self.second.arank(query, found))

    def report(self, outcomes: Mapping[str, _Outcome], names: tuple[str, str]) -> Report:
        """Measure both runs, or the one that there is."""
        first, second = names
        runs: dict[str, Run] = {first: {id_: outcomes[id_].before for id_ in self.queries}}
        if self.second is not None:
            runs[second] = {id_: outcomes[id_].after for id_ in self.queries}
        report = _measured(runs, self.asked, self.judgements, self.measures)
        notes = (*report.notes, *_notes_of_reranking(second, list(outcomes.values())))
        return replace(report, usage=_total(outcomes.values()), notes=notes)


def _outcome(found: Iterable[Record], reranked: Reranked) -> _Outcome:
    before, after = ranking_of(found), ranking_of(reranked.records)
    return _Outcome(before, after, reranked.usage, reranked.unranked)


def _total(outcomes: Iterable[_Outcome]) -> Usage | None:
    known = [outcome.usage for outcome in outcomes if outcome.usage is not None]
    return sum(known, Usage()) if known else None


def _measured(
    runs: Mapping[str, Run],
    asked: Mapping[str, str],
    judgements: Mapping[str, dict[str, int]],
    measures: list[Measure],
) -> Report:
    queries = {query_id: text for query_id, text in asked.items() if query_id in judgements}
    _check_judged(queries, asked, judgements)
    gains = {query_id: judgements[query_id] for query_id in queries}
    kept = {
        name: {query_id: run[query_id] for query_id in queries if query_id in run}
        for name, run in runs.items()
    }
    return Report(
        runs=kept,
        values={name: measured(run, gains, measures) for name, run in kept.items()},
        judgements=gains,
        queries=queries,
        notes=tuple(_notes(kept, asked, gains, len(judgements))),
    )


def _check_judged(
    judged: Mapping[str, str], asked: Mapping[str, str], judgements: Mapping[str, object]
) -> None:
    if not judged:
        raise InvalidInputError(
            f"None of the {len(asked)} queries ({_some(asked)}) is among the {len(judgements)} "
            f"judged ones ({_some(judgements)}).",
            remedy="Check that both go by the same ids.",
        )


def _some(ids: Iterable[str]) -> str:
    first = list(ids)[:4]
    return ", ".join(map(repr, first[:3])) + (", …" if len(first) > 3 else "")


def _notes(
    runs: Mapping[str, Run],
    asked: Mapping[str, str],
    gains: Mapping[str, Mapping[str, int]],
    judged: int,
) -> Iterable[str]:
    """What a reader of the figures should know of what was left out, or counted as nothing."""
    if unjudged := len(asked) - len(gains):
        yield f"{unjudged} of {len(asked)} queries are not judged and were left out."
    if unasked := judged - len(gains):
        yield f"{unasked} of {judged} judged queries were not asked for and were left out."
    for name, run in runs.items():
        if empty := sum(not run.get(query_id) for query_id in gains):
            yield f"{name} found nothing for {empty} of {len(gains)} queries: they count 0."
    for name, run in runs.items():
        if not any(id_ in gains[query_id] for query_id, ranking in run.items() for id_ in ranking):
            yield f"{name} has no document that was judged: do both go by the same ids?"


def _notes_of_reranking(name: str, outcomes: list[_Outcome]) -> Iterable[str]:
    of = f"of {len(outcomes)} queries"
    if shorter := sum(len(outcome.after) < len(outcome.before) for outcome in outcomes):
        yield (
            f"{name} has fewer documents than were found for {shorter} {of}, as a top_n, a "
            "min_score or documents without text make it."
        )
    if unranked := sum(outcome.unranked for outcome in outcomes):
        yield f"{name} is the order in which they were found for {unranked} {of}: no model ranked."

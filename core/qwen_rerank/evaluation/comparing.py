"""Measure runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.first_stage import AnyRun, RecordReader, best_first
from qwen_rerank.evaluation.measuring import compute_values, parse_measures
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import (
    Judgements,
    Run,
    judgements_by_query,
    rankings_by_query,
    sorted_by_score,
    texts_by_id,
    with_string_ids,
)
from qwen_rerank.scorers.doubts import doubt_about

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["best_first_run", "build_report", "check_some_judged", "compare", "perfect"]


def compare(
    runs: Mapping[str, AnyRun],
    judgements: Judgements,
    *,
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    queries: Mapping[str, str] | None = None,
) -> Report:
    """Measure runs side by side.

    Args:
        runs: The runs by name; the others are compared with the first. A run maps each query id to
            document ids, best first, or to their scores; or it is rows, such as
            ir_measures.ScoredDoc.
        judgements: The gains of documents by query id; or rows, such as ir_measures.Qrel.
        measures: Names that ir-measures knows, such as `"nDCG@10"`, or its measures.
        queries: The texts of the queries to measure, by id; those without judgements are left out.
            None measures all judged queries. A query that a run does not have counts as 0 for it,
            as in ir-measures and `trec_eval -c`.

    Raises:
        InvalidInputError: An argument is invalid, or no query is judged.
        MissingDependencyError: The extra `evaluation` is not installed.
    """
    normalized = {name: best_first_run(run) for name, run in with_string_ids(runs, "runs").items()}
    if not normalized:
        raise InvalidInputError("There is no run to measure.")
    gains = judgements_by_query(judgements)
    if queries is None:
        in_runs = (query_id for run in normalized.values() for query_id in run)
        texts = dict.fromkeys([*in_runs, *gains], "")
    else:
        texts = texts_by_id(queries, "queries")
    return build_report(normalized, texts, gains, parse_measures(measures))


def perfect(run: AnyRun, judgements: Judgements) -> Run:
    """Return the run in the best order that reranking could give it, with gains as scores.

    Args:
        run: The run of the first stage; see `compare`.
        judgements: The gains; a document without a judgement has a gain of 0.

    Returns:
        The documents by query id and descending gain; documents with equal gains keep their order.

    Raises:
        InvalidInputError: An argument is invalid.
    """
    gains = judgements_by_query(judgements)
    return {
        query_id: sorted_by_score(
            {id_: float(gains.get(query_id, {}).get(id_, 0)) for id_ in ranking}
        )
        for query_id, ranking in best_first_run(run).items()
    }


def best_first_run(run: AnyRun) -> Run:
    """Return a run of any form as document ids, best first, with their scores or None.

    Raises:
        InvalidInputError: It is not a run.
    """
    reader = RecordReader()
    return {
        query_id: best_first(reader.read(results))
        for query_id, results in rankings_by_query(run).items()
    }


def build_report(
    runs: Mapping[str, Run],
    queries: Mapping[str, str],
    judgements: Mapping[str, dict[str, int]],
    measures: Sequence[Measure],
) -> Report:
    """Measure the runs for the queries that are judged.

    Raises:
        InvalidInputError: None of them is judged.
    """
    check_some_judged(queries, judgements)
    measured = {query_id: text for query_id, text in queries.items() if query_id in judgements}
    gains = {query_id: judgements[query_id] for query_id in measured}
    measured_runs = {
        name: {query_id: run[query_id] for query_id in measured if query_id in run}
        for name, run in runs.items()
    }
    return Report(
        runs=measured_runs,
        values={name: compute_values(run, gains, measures) for name, run in measured_runs.items()},
        judgements=gains,
        queries=measured,
        notes=tuple(_notes(measured_runs, gains, len(queries), len(judgements))),
    )


def check_some_judged(queries: Mapping[str, str], judgements: Mapping[str, object]) -> None:
    """Raise InvalidInputError unless at least one of the queries is judged."""
    if not queries.keys() & judgements.keys():
        raise InvalidInputError(
            f"None of the {len(queries)} queries ({_first_ids(queries)}) has judgements; there "
            f"are judgements for {len(judgements)} others ({_first_ids(judgements)}).",
            remedy="Check that queries and judgements use the same ids.",
        )


def _first_ids(ids: Iterable[str]) -> str:
    first = list(ids)[:4]
    return ", ".join(map(repr, first[:3])) + (", …" if len(first) > 3 else "")


def _notes(
    runs: Mapping[str, Run],
    gains: Mapping[str, Mapping[str, int]],
    queries: int,
    judged: int,
) -> Iterator[str]:
    """Yield what was left out, or counts as 0.

    Args:
        runs: The runs by name.
        gains: The judgements of the measured queries.
        queries: How many queries there were.
        judged: How many queries have judgements.
    """
    measured = len(gains)
    if unjudged := queries - measured:
        yield f"{unjudged} of {queries} queries have no judgements and were left out."
    if not_asked := judged - measured:
        yield f"{not_asked} of {judged} judged queries are not among the queries and were left out."
    if hopeless := sum(max(of_query.values()) <= 0 for of_query in gains.values()):
        yield f"{hopeless} of {measured} queries have no relevant document and count as 0."
    for name, run in runs.items():
        if empty := sum(not run.get(query_id) for query_id in gains):
            yield f"{name} has no documents for {empty} of {measured} queries, which count as 0."
    for name, run in runs.items():
        is_judged = [id_ in gains[query_id] for query_id, ranking in run.items() for id_ in ranking]
        if is_judged and not any(is_judged):
            yield f"{name} has no judged document: check that both use the same document ids."
    for name in list(runs)[1:]:
        if doubt := doubt_about(_scores_of(run) for run in runs[name].values()):
            yield f"{name}: {doubt}"


def _scores_of(ranking: Mapping[str, float | None]) -> list[float]:
    return [score for score in ranking.values() if score is not None]

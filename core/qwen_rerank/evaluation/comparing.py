"""Measure runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.first_stage import Rankings, Reader, ranking_of
from qwen_rerank.evaluation.measuring import measured, parsed
from qwen_rerank.evaluation.report import DEFAULT_MEASURES, Report
from qwen_rerank.evaluation.runs import (
    Judgements,
    Run,
    by_id,
    by_query,
    by_score,
    judgements_by_query,
)

if TYPE_CHECKING:
    from ir_measures import Measure

__all__ = ["check_judged", "compare", "perfect", "reported"]


def compare(
    runs: Mapping[str, Rankings],
    judgements: Judgements,
    *,
    measures: Sequence[str | Measure] = DEFAULT_MEASURES,
    queries: Mapping[str, str] | None = None,
) -> Report:
    """Measure runs side by side.

    Args:
        runs: By their names, runs: by query id the documents' ids, best first, or their scores; or
            rows such as ir_measures.ScoredDoc. The first is what the others are compared with.
        judgements: The gains of documents by query id; or rows such as ir_measures.Qrel.
        measures: Names of ir-measures', such as `"nDCG@10"`, or its measures.
        queries: The queries' texts by their ids: these are measured, as far as they are judged.
            Without them, all that are judged. A query that a run does not have counts 0 for it, as
            it does by ir-measures and trec_eval -c.

    Raises:
        InvalidInputError: An argument that can't be used, or no judged query.
        MissingDependencyError: The extra `evaluation` is not installed.
    """
    ranked = {name: _read(run) for name, run in by_id(runs, "runs").items()}
    if not ranked:
        raise InvalidInputError("There is no run to measure.")
    gains = judgements_by_query(judgements)
    if queries is None:
        asked = dict.fromkeys([*(id_ for run in ranked.values() for id_ in run), *gains], "")
    else:
        asked = by_id(queries, "queries")
    return reported(ranked, asked, gains, parsed(measures))


def perfect(run: Rankings, judgements: Judgements) -> Run:
    """The same documents in the best order that reranking could give them, with gains as scores.

    Args:
        run: What the first stage found: see `compare`.
        judgements: The gains; a document without one has none.

    Returns:
        By query id the documents by falling gain, equal ones in their order.

    Raises:
        InvalidInputError: An argument that can't be used.
    """
    gains = judgements_by_query(judgements)
    return {
        query_id: by_score({id_: float(gains.get(query_id, {}).get(id_, 0)) for id_ in ranking})
        for query_id, ranking in _read(run).items()
    }


def _read(run: Rankings) -> Run:
    reader = Reader()
    return {id_: ranking_of(reader.records(found)) for id_, found in by_query(run).items()}


def reported(
    runs: Mapping[str, Run],
    asked: Mapping[str, str],
    judgements: Mapping[str, dict[str, int]],
    measures: Sequence[Measure],
) -> Report:
    """The report of those of the queries that are judged.

    Raises:
        InvalidInputError: None of them is.
    """
    check_judged(asked, judgements)
    queries = {query_id: text for query_id, text in asked.items() if query_id in judgements}
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


def check_judged(asked: Mapping[str, str], judgements: Mapping[str, object]) -> None:
    """Raise InvalidInputError unless some of the queries are judged."""
    if not asked.keys() & judgements.keys():
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
) -> Iterator[str]:
    """What a reader of the figures should know of what was left out, or counted as nothing."""
    if unjudged := len(asked) - len(gains):
        yield f"{unjudged} of {len(asked)} queries are not judged and were left out."
    if unasked := judged - len(gains):
        yield f"{unasked} of {judged} judged queries were not asked for and were left out."
    if hopeless := sum(max(of_query.values()) <= 0 for of_query in gains.values()):
        yield f"{hopeless} of {len(gains)} queries have no relevant document: they count 0."
    for name, run in runs.items():
        if empty := sum(not run.get(query_id) for query_id in gains):
            yield f"{name} found nothing for {empty} of {len(gains)} queries: they count 0."
    for name, run in runs.items():
        found = [id_ in gains[query_id] for query_id, ranking in run.items() for id_ in ranking]
        if found and not any(found):
            yield f"{name} has no document that was judged: do both go by the same ids?"

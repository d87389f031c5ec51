"""Runs and judgements: what is measured, and against what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from qwen_rerank.checks import is_finite
from qwen_rerank.errors import InvalidInputError

__all__ = ["Judgements", "Run", "by_score", "judgements_by_query", "perfect"]

Run: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""By each query's id its ranking: document ids, best first, with their scores or None."""

Judgements: TypeAlias = Mapping[str, Mapping[str, int]] | Iterable[Any]
"""By each query's id the gains of documents by theirs: whole numbers, above 0 for a relevant one.

Or rows that have a query_id, a doc_id and a relevance, as `ir_measures.Qrel` has.
"""


def by_score(ranking: Mapping[str, float]) -> dict[str, float]:
    """The documents by falling score; equal ones in the order they are in.

    Raises:
        InvalidInputError: A score that is no finite number.
    """
    for document_id, score in ranking.items():
        if not is_finite(score):
            raise InvalidInputError(
                f"The score of document {document_id!r} is {score!r}.",
                remedy="Pass a list of ids, best first, where there are no scores.",
            )
    return dict(sorted(ranking.items(), key=lambda item: -item[1]))


def judgements_by_query(judgements: Judgements) -> dict[str, dict[str, int]]:
    """The gains of documents by query.

    Raises:
        InvalidInputError: A gain that is no whole number, or something else than judgements.
    """
    if isinstance(judgements, Mapping):
        gains = {str(id_): dict(of_query) for id_, of_query in judgements.items()}
    else:
        gains = _gains_of_rows(judgements)
    for query_id, of_query in gains.items():
        for document_id, gain in of_query.items():
            if not isinstance(gain, int) or isinstance(gain, bool):
                raise InvalidInputError(
                    f"The gain of document {document_id!r} for query {query_id!r} must be a whole "
                    f"number, got {gain!r}."
                )
    return gains


def _gains_of_rows(rows: Iterable[Any]) -> dict[str, dict[str, int]]:
    gains: dict[str, dict[str, int]] = {}
    for row in rows:
        try:
            gains.setdefault(row.query_id, {})[row.doc_id] = row.relevance
        except AttributeError as error:
            raise InvalidInputError(
                f"A judgement must have query_id, doc_id and relevance, got {row!r}.",
                remedy='Pass for example {"query": {"document": 1}}.',
            ) from error
    return gains


def perfect(run: Run, judgements: Judgements) -> Run:
    """The same documents in the best order that reranking could give them, with gains as scores.

    Args:
        run: What the first stage found.
        judgements: The gains; documents without one have none.
    """
    gains = judgements_by_query(judgements)
    return {
        query_id: by_score({id_: float(gains.get(query_id, {}).get(id_, 0)) for id_ in ranking})
        for query_id, ranking in run.items()
    }

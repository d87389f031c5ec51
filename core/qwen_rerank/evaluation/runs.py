"""Runs and judgements: what is measured, and against what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, TypeAlias, TypeVar

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import is_finite

__all__ = [
    "BestFirst",
    "Judgements",
    "Run",
    "by_id",
    "by_query",
    "by_score",
    "judgements_by_query",
]

T = TypeVar("T")

Run: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""By each query's id its ranking: document ids, best first, with their scores or None."""

Judgements: TypeAlias = Mapping[str, Mapping[str, int]] | Iterable[Any]
"""By each query's id the gains of documents by theirs: whole numbers, above 0 for a relevant one.

Or rows that have a query_id, a doc_id and a relevance: ir_measures.Qrel, or a DataFrame's.
"""


class BestFirst(dict[str, float | None]):
    """A ranking: scores or None by document ids, best first, whatever the scores are.

    Any other mapping is put in the order of its scores before it is measured. This one is not: a
    first stage may give distances, and diversity is no score.
    """


def by_id(mapping: Mapping[Any, T], what: str) -> dict[str, T]:
    """The same with ids that are strings, as files and ir-measures have them.

    Raises:
        InvalidInputError: It is no mapping, or two ids are the same string; `what` names it.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInputError(f"{what} must be a mapping by id, got {mapping!r:.80}.")
    found = {str(id_): value for id_, value in mapping.items()}
    if len(found) < len(mapping):
        raise InvalidInputError(f"{what} must have each id once, as a number or as a string.")
    return found


def by_query(run: Mapping[str, T] | Iterable[Any]) -> Mapping[str, T | dict[str, Any]]:
    """The rankings of a run, which is a mapping by query id, or rows as ir_measures.ScoredDoc.

    Raises:
        InvalidInputError: It is neither, or has two scores for a document.
    """
    return by_id(run, "A run") if isinstance(run, Mapping) else _of_rows(run, "score")


def by_score(ranking: Mapping[Any, float | None]) -> dict[Any, float | None]:
    """The documents by falling score, those without one last; equal ones in the order they are in.

    Raises:
        InvalidInputError: A score that is no finite number.
    """
    for document_id, score in ranking.items():
        if score is not None and not is_finite(score):
            raise InvalidInputError(
                f"The score of document {document_id!r} is {score!r}.",
                remedy="Pass a list of ids, best first, where there are no scores.",
            )
    return dict(
        sorted(ranking.items(), key=lambda item: -inf if item[1] is None else item[1], reverse=True)
    )


def judgements_by_query(judgements: Judgements) -> dict[str, dict[str, int]]:
    """The gains of documents by query, of those queries that have any.

    Raises:
        InvalidInputError: A gain that is no whole number, or something else than judgements.
    """
    if isinstance(judgements, Mapping):
        gains: Mapping[str, Mapping[str, Any]] = {
            query_id: by_id(of_query, f"The judgements of query {query_id!r}")
            for query_id, of_query in by_id(judgements, "judgements").items()
        }
    else:
        gains = _of_rows(judgements, "relevance")
    return {
        query_id: {id_: _gain(query_id, id_, gain) for id_, gain in of_query.items()}
        for query_id, of_query in gains.items()
        if of_query
    }


def _gain(query_id: str, document_id: str, gain: object) -> int:
    if is_finite(gain) and gain == int(gain):
        return int(gain)
    raise InvalidInputError(
        f"The gain of document {document_id!r} for query {query_id!r} must be a whole number, "
        f"got {gain!r}."
    )


def _of_rows(rows: Iterable[Any], name: str) -> dict[str, dict[str, Any]]:
    """What the rows have under this name, by query id and document id."""
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(rows):
        try:
            query_id, document_id, value = str(row.query_id), str(row.doc_id), getattr(row, name)
        except AttributeError as error:
            raise InvalidInputError(
                f"A row must have query_id, doc_id and {name}, got {row!r:.80}.",
                remedy="Pass a mapping, or what read_judgements or read_run reads.",
            ) from error
        of_query = found.setdefault(query_id, {})
        if document_id in of_query and of_query[document_id] != value:
            raise InvalidInputError(
                f"Document {document_id!r} has more than one {name} for query {query_id!r}: "
                f"{of_query[document_id]!r} and {value!r}."
            )
        of_query[document_id] = value
    return found


def _rows(table: Any) -> Iterable[Any]:
    """The rows of a DataFrame, or what is rows anyway."""
    rows = table.itertuples(index=False) if hasattr(table, "itertuples") else table
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise InvalidInputError(f"There must be a mapping or rows, got {table!r:.80}.")
    return rows

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
    "judgements_by_query",
    "rankings_by_query",
    "sorted_by_score",
    "texts_by_id",
    "with_string_ids",
]

T = TypeVar("T")

Run: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""The ranking of each query, by query id: document ids, best first, with their scores or None."""

Judgements: TypeAlias = Mapping[str, Mapping[str, int]] | Iterable[Any]
"""The gains of documents, by query id and document id: integers, above 0 for a relevant document.

They can also be rows with the attributes query_id, doc_id and relevance, such as ir_measures.Qrel
or the rows of a DataFrame.
"""


class BestFirst(dict[str, float | None]):
    """A ranking: scores or None by document id, best first, whatever the scores are.

    Any other mapping is sorted by score before it is measured. This one keeps its order: a first
    stage may return distances, and a diverse ranking does not follow its scores.
    """


def with_string_ids(mapping: Mapping[Any, T], name: str) -> dict[str, T]:
    """Return the mapping with its keys as strings, as in files and in ir-measures.

    Args:
        mapping: Values by id.
        name: What to call the mapping in errors.

    Raises:
        InvalidInputError: It is not a mapping, or two ids are the same string.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInputError(f"{name} must be a mapping by id, got {mapping!r:.80}.")
    by_id = {str(id_): value for id_, value in mapping.items()}
    if len(by_id) < len(mapping):
        raise InvalidInputError(
            f"{name} has the same id as a number and as a string.", remedy="Pass each id once."
        )
    return by_id


def texts_by_id(mapping: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the texts by id; raise InvalidInputError if a value is not a string."""
    texts = with_string_ids(mapping, name)
    for id_, text in texts.items():
        if not isinstance(text, str):
            raise InvalidInputError(f"{name} must be strings by id, got {text!r:.40} for {id_!r}.")
    return texts


def rankings_by_query(run: Mapping[str, T] | Iterable[Any]) -> Mapping[str, T | dict[str, Any]]:
    """Return the rankings of a run: a mapping by query id, or rows such as ir_measures.ScoredDoc.

    Raises:
        InvalidInputError: The run is neither, or has two scores for one document.
    """
    return with_string_ids(run, "A run") if isinstance(run, Mapping) else _from_rows(run, "score")


def sorted_by_score(ranking: Mapping[Any, float | None]) -> dict[Any, float | None]:
    """Sort documents by descending score; those without a score come last, ties keep their order.

    Raises:
        InvalidInputError: A score is not a finite number.
    """
    for document_id, score in ranking.items():
        if score is not None and not is_finite(score):
            raise InvalidInputError(
                f"The score of document {document_id!r} is {score!r}, not a finite number.",
                remedy="If you have no scores, pass a list of ids, best first.",
            )
    return dict(
        sorted(ranking.items(), key=lambda item: -inf if item[1] is None else item[1], reverse=True)
    )


def judgements_by_query(judgements: Judgements) -> dict[str, dict[str, int]]:
    """Return the gains of documents by query, without the queries that have none.

    Raises:
        InvalidInputError: These are not judgements, or a gain is not an integer.
    """
    if isinstance(judgements, Mapping):
        by_query: Mapping[str, Mapping[str, Any]] = {
            query_id: with_string_ids(of_query, f"The judgements of query {query_id!r}")
            for query_id, of_query in with_string_ids(judgements, "judgements").items()
        }
    else:
        by_query = _from_rows(judgements, "relevance")
    return {
        query_id: {id_: _integer_gain(query_id, id_, gain) for id_, gain in of_query.items()}
        for query_id, of_query in by_query.items()
        if of_query
    }


def _integer_gain(query_id: str, document_id: str, gain: object) -> int:
    if is_finite(gain) and gain == int(gain):
        return int(gain)
    raise InvalidInputError(
        f"The gain of document {document_id!r} for query {query_id!r} must be an integer, "
        f"got {gain!r}."
    )


def _from_rows(rows: Iterable[Any], attribute: str) -> dict[str, dict[str, Any]]:
    """Return the values of an attribute of the rows, by query id and document id."""
    by_query: dict[str, dict[str, Any]] = {}
    for row in _iterable_rows(rows):
        try:
            query_id, document_id = str(row.query_id), str(row.doc_id)
            value = getattr(row, attribute)
        except AttributeError as error:
            raise InvalidInputError(
                f"A row must have query_id, doc_id and {attribute}, got {row!r:.80}.",
                remedy="Pass a mapping, or the result of read_judgements or read_run.",
            ) from error
        of_query = by_query.setdefault(query_id, {})
        if document_id in of_query and of_query[document_id] != value:
            raise InvalidInputError(
                f"Document {document_id!r} has more than one {attribute} for query {query_id!r}: "
                f"{of_query[document_id]!r} and {value!r}."
            )
        of_query[document_id] = value
    return by_query


def _iterable_rows(table: Any) -> Iterable[Any]:
    """Return the rows of a DataFrame, or the iterable itself."""
    rows = table.itertuples(index=False) if hasattr(table, "itertuples") else table
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise InvalidInputError(f"Expected a mapping or rows, got {table!r:.80}.")
    return rows

"""Records: documents without a framework, in one list or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, dataclass_transform

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.ranking.candidates import Lists
from qwen_rerank.scorers.base import Passage
from qwen_rerank.validation import list_of

__all__ = ["Record", "RecordLists", "flattened", "flattened_records"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _value(cls: type[T]) -> type[T]:
    """A dataclass that only type checkers see as frozen: creating one is three times as fast."""
    return dataclass(slots=True)(cls)


@_value
class Record:
    """A document to rank. The engine never changes records: it returns new ones.

    Attributes:
        id: What identifies the record; "" for no id. Two records with one id and one text are
            copies of the same record.
        fields: Named values, at least those that `rerank_field` names.
        score: The retrieval score on the way in, the relevance score on the way out, or None.
        source: An object of your own that the record stands for. Not compared.
        lists: If the record came from several lists, its rank in each, from 1, by the list's name.
        passage: The passage that the score belongs to, if the text was chunked; see PassageScorer.
    """

    id: str
    fields: Mapping[str, Any]
    score: float | None = None
    source: Any = field(default=None, compare=False, repr=False)
    lists: Mapping[str, int] | None = None
    passage: Passage | None = None

    def scored(self, score: float | None, passage: Passage | None = None) -> Record:
        """Return the record with this score; faster than `dataclasses.replace`."""
        return Record(self.id, self.fields, score, self.source, self.lists, passage)

    def in_lists(self, lists: Mapping[str, int]) -> Record:
        """Return the record with its ranks in these lists."""
        return Record(self.id, self.fields, self.score, self.source, lists, self.passage)


RecordLists: TypeAlias = Iterable[Record] | Mapping[str, Iterable[Record]]
"""Records in one list, or in several by name."""


def flattened_records(records: RecordLists) -> tuple[list[Record], Lists | None]:
    """Return all records in one list, and the indices of each named list's records in it.

    Raises:
        InvalidInputError: A value is not a Record, or two lists have the same name.
    """
    remedy = 'Convert each, for example to Record("an id", {"text": "…"}).'
    return flattened(records, lambda own: list_of("records", own, Record, remedy))


def flattened(
    documents: Iterable[T] | Mapping[str, Iterable[T]],
    checked: Callable[[Iterable[T]], list[T]],
) -> tuple[list[T], Lists | None]:
    """Return all documents in one list, and the indices of each named list's documents in it.

    Args:
        documents: Documents in one list, or in several by name.
        checked: Converts documents to a list, or raises.

    Raises:
        InvalidInputError: The names of two lists are the same string.
    """
    if not isinstance(documents, Mapping):
        return checked(documents), None
    everything: list[T] = []
    lists: dict[str, range] = {}
    for name, own in documents.items():
        start = len(everything)
        everything += checked(own)
        lists[str(name)] = range(start, len(everything))
    if len(lists) < len(documents):
        raise InvalidInputError(
            f"The names of two lists are the same string: {', '.join(map(repr, documents))}.",
            remedy="Give each list its own name.",
        )
    return everything, lists

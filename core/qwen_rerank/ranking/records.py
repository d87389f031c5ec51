"""What enters the engine: records, in one list or in several, known by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, dataclass_transform

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.base import Passage
from qwen_rerank.validation import listed

__all__ = [
    "Lists",
    "Record",
    "as_lists",
    "fair_order",
    "identity",
    "place_ids",
    "ranks",
    "retrieval_order",
]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _value(cls: type[T]) -> type[T]:
    """A dataclass, frozen for type checkers alone: else it takes three times as long to make."""
    return dataclass(slots=True)(cls)


@_value
class Record:
    """One thing to rank. The engine changes none: what it returns are new ones.

    Attributes:
        id: What the record is known by; two records with one id are the same record. "" is no id.
        fields: Named values, at least those that `rerank_field` names.
        score: The retrieval score on the way in, the relevance score on the way out, or None.
        source: The framework's own object, for a plugin to find it again. Not compared.
        lists: Where the record came from, if from several lists: their names, and its rank in each,
            from 1.
        passage: The part of its text that the score is of, if it was split: see PassageScorer.
    """

    id: str
    fields: Mapping[str, Any]
    score: float | None = None
    source: Any = field(default=None, compare=False, repr=False)
    lists: Mapping[str, int] | None = None
    passage: Passage | None = None

    def scored(self, score: float | None, passage: Passage | None = None) -> Record:
        """The same record with this score; faster than `dataclasses.replace`."""
        return Record(self.id, self.fields, score, self.source, self.lists, passage)

    def found_in(self, lists: Mapping[str, int]) -> Record:
        """The same record, with the lists that it came from."""
        return Record(self.id, self.fields, self.score, self.source, lists, self.passage)


Lists: TypeAlias = Mapping[str, Sequence[Record]]
"""The lists of several first stages, by name."""


def place_ids(ids: Iterable[Any]) -> list[str]:
    """The ids as strings; None and "" become the place, in a form that no other id has."""
    ids = list(ids)
    if None not in ids and "" not in ids:
        return [str(id_) for id_ in ids]
    own = {str(id_) for id_ in ids if id_ not in (None, "")}
    mark = "#"
    while any(id_.startswith(mark) for id_ in own):
        mark += "#"
    return [f"{mark}{place}" if id_ in (None, "") else str(id_) for place, id_ in enumerate(ids)]


def as_lists(records: Iterable[Record] | Mapping[str, Iterable[Record]]) -> Lists:
    """The lists by their names; a single one has the name "".

    Raises:
        InvalidInputError: Something that is no record, or two names that are the same as strings.
    """
    if not isinstance(records, Mapping):
        return {"": _checked(records)}
    lists = {str(name): _marked(str(name), _checked(found)) for name, found in records.items()}
    if len(lists) < len(records):
        raise InvalidInputError(
            f"Two lists have the same name as a string, of {', '.join(map(repr, records))}.",
            remedy="Give each a name of its own.",
        )
    return lists


def _checked(records: Iterable[Record]) -> list[Record]:
    remedy = 'Make one of each, such as Record("an id", {"text": "…"}).'
    return listed("records", records, Record, remedy)


def _marked(name: str, records: Iterable[Record]) -> list[Record]:
    """The records; those without an id, which no other list can have, know their place at once."""
    return [
        record if record.id else record.found_in({name: rank})
        for rank, record in enumerate(records, 1)
    ]


def ranks(lists: Lists, wanted: Iterable[Record]) -> list[dict[str, int]]:
    """For each of the wanted records its rank, from 1, in every list that has it."""
    ranks_of: dict[object, dict[str, int]] = {identity(record): {} for record in wanted}
    for name, records in lists.items():
        for rank, record in enumerate(records, 1):
            if (found := ranks_of.get(identity(record))) is not None:
                found.setdefault(name, rank)
    return [ranks_of[identity(record)] for record in wanted]


def identity(record: Record) -> object:
    """What tells the record from others: its id, or if that is "", that it is itself."""
    return record.id or id(record)


_RRF = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


def retrieval_order(records: Sequence[Record], lists: Lists) -> list[int]:
    """The places of the records in the order of the lists that they came from, best first.

    Several lists are fused by reciprocal rank: a record's worth is the sum of 1 / (60 + rank) over
    the lists that have it. Records of equal worth stay as they came.
    """
    places = list(range(len(records)))
    if len(lists) < 2:
        return places
    worths = list(map(_worth, ranks(lists, records)))
    return sorted(places, key=worths.__getitem__, reverse=True)


def fair_order(records: Sequence[Record], lists: Lists) -> list[int]:
    """The places of the records as the lists give them in turn, each its best one first.

    So the first n of k lists' records have at least the first n // k of each list, or all of a
    shorter one: none is crowded out by a longer one, or by two that agree. Where records have the
    same best rank, that of more worth by `retrieval_order` comes first.
    """
    places = list(range(len(records)))
    if len(lists) < 2:
        return places
    keys = [(min(found.values()), -_worth(found)) for found in ranks(lists, records)]
    return sorted(places, key=keys.__getitem__)


def _worth(found: Mapping[str, int]) -> float:
    return sum(1 / (_RRF + rank) for rank in found.values())

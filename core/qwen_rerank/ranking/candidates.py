"""Candidates: what the first stages retrieved, each document once, ready to be scored."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from types import NoneType
from typing import NamedTuple, TypeAlias, cast

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item

__all__ = ["Candidates", "Lists", "UniqueDocuments", "unique_documents", "usable_ids"]

_log = logging.getLogger(__name__)

Lists: TypeAlias = Mapping[str, range]
"""The indices of each named list's documents, in the list's order."""


class Candidates(NamedTuple):
    """Documents to rank, known to the engine by their indices.

    Attributes:
        items: The text or `Content` to score per document; None if it is missing or blank.
        ids: Each document's own id, as `usable_ids` returns it; None or "" if it does not have one.
        lists: The named lists that the documents come from, one after another; None for a single
            list without a name.
        contents: The content of each document, which identifies it among several lists if it does
            not have an id; None if it is what is scored.
    """

    items: Sequence[Item | None]
    ids: Sequence[Hashable]
    lists: Lists | None = None
    contents: Sequence[Hashable] | None = None


@dataclass(frozen=True, slots=True)
class UniqueDocuments:
    """The distinct documents, as indices in input order.

    Attributes:
        indices: The documents that have something to score.
        blank: The documents that have nothing to score in any of their copies.
        duplicates: How many other copies there were.
        lists: The named lists, as in `Candidates`.
        copies: All copies of each document that has several, by the document's index.
    """

    indices: Sequence[int]
    blank: list[int]
    duplicates: int = 0
    lists: Lists | None = None
    copies: Mapping[int, list[int]] = field(default_factory=dict)

    @property
    def has_several_lists(self) -> bool:
        """Whether the documents come from more than one list."""
        return self.lists is not None and len(self.lists) > 1

    def ranks(self, indices: Iterable[int]) -> list[Mapping[str, int]]:
        """Return each document's rank, from 1, in every named list that has it."""
        if self.lists is None:
            return []
        names = list(chain.from_iterable(map(repeat, self.lists, map(len, self.lists.values()))))
        ranks = _list_ranks(self.lists)
        result: list[Mapping[str, int]] = []
        for index in indices:
            copies = self.copies.get(index, (index,))
            by_name = {names[copy]: ranks[copy] for copy in reversed(copies)}  # the first counts
            result.append(by_name if len(copies) == 1 else dict(reversed(by_name.items())))
        return result


def usable_ids(ids: Sequence[object]) -> Sequence[Hashable]:
    """Return the ids, with None for each that can't identify anything, such as NaN or pandas.NA.

    Raises:
        InvalidInputError: An id is a list or another value that has no hash.
    """
    if {*map(type, ids)} <= {str, NoneType}:
        return cast(Sequence[str | None], ids)
    return [_usable_id(index, id_) for index, id_ in enumerate(ids)]


def _usable_id(index: int, id_: object) -> Hashable:
    try:
        return id_ if hash(id_) is not None and id_ == id_ else None
    except (TypeError, ValueError) as error:
        if isinstance(id_, Hashable):  # pandas.NA, which is neither equal nor unequal to itself
            return None
        raise InvalidInputError(
            f"The id of the document at index {index} must be a string, got {type(id_).__name__}."
        ) from error


def unique_documents(candidates: Candidates) -> UniqueDocuments:
    """Drop copies of documents: the same id with the same text.

    The best-ranked copy is kept. Documents with the same id and different texts are distinct, and a
    warning says so. A document without an id counts as a copy only in several lists, of a document
    with the same content.
    """
    items, lists = candidates.items, candidates.lists
    keys = candidates.ids if lists is None else _document_keys(candidates)
    if _are_distinct(keys):
        return UniqueDocuments(*_scorable_and_blank(range(len(items)), items), lists=lists)
    if lists is None:  # documents without an id need a key only now
        keys = _document_keys(candidates)
    first: dict[_Document, int] = {}
    copies: dict[int, list[int]] = {}
    for index, document in enumerate(zip(keys, items, strict=True)):
        original = first.setdefault(document, index)
        if original != index:
            copies.setdefault(original, [original]).append(index)
    _merge_blank_copies(first, copies)
    if len({*keys}) < len(first):
        _warn_of_shared_ids(first)
    best = _best_copies(copies, candidates)
    kept = [best.get(index, index) for index in first.values()]
    own = {best[index]: indices for index, indices in copies.items()}
    return UniqueDocuments(*_scorable_and_blank(kept, items), len(items) - len(kept), lists, own)


_Document: TypeAlias = tuple[Hashable, Item | None]
"""What identifies a document, and its item."""


def _scorable_and_blank(
    indices: Sequence[int], items: Sequence[Item | None]
) -> tuple[Sequence[int], list[int]]:
    """Return the documents that have something to score, and those that don't."""
    if None not in items:
        return indices, []
    texts = [index for index in indices if items[index] is not None]
    return texts, [index for index in indices if items[index] is None]


def _are_distinct(ids: Sequence[Hashable]) -> bool:
    own = {*ids}
    if None in own or "" in own:
        return len(own - {None, ""}) == len(ids) - ids.count(None) - ids.count("")
    return len(own) == len(ids)


def _document_keys(candidates: Candidates) -> Sequence[Hashable]:
    """Return each document's key: its id, else its content in several lists, else its index."""
    ids = candidates.ids
    if None not in ids and "" not in ids:
        return ids
    own = [None if id_ in _NO_ID else id_ for id_ in ids]
    if candidates.lists is None or len(candidates.lists) < 2:
        return [_KeyWithoutId(index) if id_ is None else id_ for index, id_ in enumerate(own)]
    contents = _contents(candidates)
    owners: dict[Hashable, Hashable] = {}
    for id_, content in zip(own, contents, strict=True):
        if id_ is not None:
            owners.setdefault(content, id_)
    return [
        owners.get(content, _KeyWithoutId(content)) if id_ is None else id_
        for id_, content in zip(own, contents, strict=True)
    ]


_NO_ID = (None, "")


def _contents(candidates: Candidates) -> list[Hashable]:
    """Return each document's content; if it is blank, what is scored, or else its index."""
    if candidates.contents is None:
        return [index if item is None else item for index, item in enumerate(candidates.items)]
    columns = zip(candidates.contents, candidates.items, strict=True)
    return [
        content if content and not str(content).isspace() else item or index
        for index, (content, item) in enumerate(columns)
    ]


class _KeyWithoutId(NamedTuple):
    """The key of a document without an id: its content or its index."""

    value: Hashable


def _merge_blank_copies(first: dict[_Document, int], copies: dict[int, list[int]]) -> None:
    """Count a blank document as a copy of the first document that has its id and a text."""
    blank = [document for document in first if document[1] is None]
    texts: dict[Hashable, int] = {}
    for (key, item), index in first.items() if blank else ():
        if item is not None:
            texts.setdefault(key, index)
    for document in blank:
        original = texts.get(document[0])
        if original is not None:
            index = first.pop(document)
            copies[original] = sorted(copies.get(original, [original]) + copies.pop(index, [index]))


def _warn_of_shared_ids(first: Mapping[_Document, int]) -> None:
    counts = Counter(key for key, _ in first if not isinstance(key, _KeyWithoutId))
    if len(counts) == counts.total():  # others have the same content, but no ids
        return
    _log.warning(
        "Documents with different texts share an id; ids shared: %d, for example %r. The documents "
        "are ranked separately. Give every document its own id.",
        sum(count > 1 for count in counts.values()),
        counts.most_common(1)[0][0],
    )


def _best_copies(copies: Mapping[int, list[int]], candidates: Candidates) -> dict[int, int]:
    """Map the first copy of each document to its best-ranked copy that has something to score."""
    if not copies:
        return {}
    items, lists = candidates.items, candidates.lists
    ranks: Sequence[int] = range(len(items)) if lists is None else _list_ranks(lists)
    if None not in items:
        return {index: min(own, key=ranks.__getitem__) for index, own in copies.items()}
    best: dict[int, int] = {}
    for index, own in copies.items():
        scorable = [copy for copy in own if items[copy] is not None]
        best[index] = min(scorable or own, key=ranks.__getitem__)
    return best


def _list_ranks(lists: Lists) -> Sequence[int]:
    """Return each document's rank in its list, from 1."""
    return list(chain.from_iterable(range(1, len(own) + 1) for own in lists.values()))

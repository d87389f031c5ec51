"""Candidates: what the first stages retrieved, each document once, ready to be scored."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import NamedTuple, TypeAlias

from qwen_rerank.inputs.content import Item

__all__ = ["Candidates", "Lists", "UniqueDocuments", "unique_documents"]

_log = logging.getLogger(__name__)

Lists: TypeAlias = Mapping[str, range]
"""Named lists: for each the indices of its documents, in its order."""


class Candidates(NamedTuple):
    """Documents to rank, known to the engine by their indices.

    Attributes:
        items: Per document the text or `Content` to score; None where that is missing or blank.
        ids: Per document its own id; None or "" where it does not have one.
        lists: The named lists that the documents are from, one after the other; None for one list
            without a name.
        contents: Per document what identifies it in named lists if it does not have an id; None if
            only an id does.
    """

    items: Sequence[Item | None]
    ids: Sequence[Hashable]
    lists: Lists | None = None
    contents: Sequence[Hashable] | None = None


@dataclass(frozen=True, slots=True)
class UniqueDocuments:
    """The documents that remain when each is counted once, by their indices in input order.

    Attributes:
        indices: The documents that have something to score.
        blank: The documents that do not, and of which no copy does.
        duplicates: How many other copies there were.
        lists: The named lists, as in `Candidates`.
        copies: By the index of a document all its copies, if it has more than one.
    """

    indices: Sequence[int]
    blank: list[int]
    duplicates: int = 0
    lists: Lists | None = None
    copies: Mapping[int, list[int]] = field(default_factory=dict)

    def ranks(self, indices: Iterable[int]) -> list[Mapping[str, int]]:
        """Per document its rank, from 1, in each named list that has it."""
        if self.lists is None:
            return []
        names = list(chain.from_iterable(map(repeat, self.lists, map(len, self.lists.values()))))
        ranks = list(chain.from_iterable(map(_ranks_in, self.lists.values())))
        own: list[Mapping[str, int]] = []
        for index in indices:
            copies = sorted(self.copies.get(index, (index,)), reverse=True)  # the first one counts
            by_name = {names[copy]: ranks[copy] for copy in copies}
            own.append(dict(reversed(by_name.items())))  # in the order of the lists
        return own


def unique_documents(candidates: Candidates) -> UniqueDocuments:
    """Drop the copies of a document: one id with one text.

    Of several copies the one with the best rank stays. One id with different texts is several
    documents, and a warning says so. A document without an id is a copy only in named lists, of one
    with the same content.
    """
    items, lists = candidates.items, candidates.lists
    if lists is None and _have_distinct_ids(candidates.ids):
        return UniqueDocuments(*_by_text(range(len(items)), items))
    first: dict[_Document, int] = {}
    copies: dict[int, list[int]] = {}
    for index, document in enumerate(zip(_keys(candidates), items, strict=True)):
        original = first.setdefault(document, index)
        if original != index:
            copies.setdefault(original, [original]).append(index)
    _merge_blank_copies(first, copies)
    _warn_of_shared_ids(first)
    best = _best_copies(copies, candidates)
    kept = [best.get(index, index) for index in first.values()]
    own = {best[index]: indices for index, indices in copies.items()}
    return UniqueDocuments(*_by_text(kept, items), len(items) - len(kept), lists, own)


_Document: TypeAlias = tuple[Hashable, Item | None]
"""What identifies a document, and its item."""


def _by_text(
    indices: Sequence[int], items: Sequence[Item | None]
) -> tuple[Sequence[int], list[int]]:
    """The documents that have something to score, and those that do not."""
    if None not in items:
        return indices, []
    texts = [index for index in indices if items[index] is not None]
    return texts, [index for index in indices if items[index] is None]


def _have_distinct_ids(ids: Sequence[Hashable]) -> bool:
    own = {*ids}
    if None in own or "" in own:
        return len(own - {None, ""}) == len(ids) - ids.count(None) - ids.count("")
    return len(own) == len(ids)


def _keys(candidates: Candidates) -> Iterable[Hashable]:
    """What identifies each document: its id, else in named lists its content, else its index."""
    ids, contents = candidates.ids, candidates.contents
    if None not in ids and "" not in ids:
        return ids
    if candidates.lists is None or contents is None:
        return (id_ or _Nameless(index) for index, id_ in enumerate(ids))
    owners: dict[Hashable, Hashable] = {}
    for id_, content in zip(ids, contents, strict=True):
        if id_:
            owners.setdefault(content, id_)
    return (
        id_ or owners.get(content) or _Nameless(content)
        for id_, content in zip(ids, contents, strict=True)
    )


class _Nameless(NamedTuple):
    """The key of a document without an id."""

    content: Hashable


def _merge_blank_copies(first: dict[_Document, int], copies: dict[int, list[int]]) -> None:
    """Count a blank document as a copy of the first one with a text that has its id."""
    blank = [document for document in first if document[1] is None]
    texts: dict[Hashable, int] = {}
    for (key, item), index in first.items() if blank else ():
        if item is not None:
            texts.setdefault(key, index)
    for document in blank:
        original = texts.get(document[0])
        if original is not None:
            index = first.pop(document)
            copies.setdefault(original, [original]).extend(copies.pop(index, [index]))


def _warn_of_shared_ids(first: Mapping[_Document, int]) -> None:
    keys = {key for key, _ in first}
    if len(keys) == len(first):
        return
    counts = Counter(key for key, _ in first)
    _log.warning(
        "Documents with different texts share an id; ids shared: %d, for example %r. Each document "
        "is ranked on its own. Give every document its own id.",
        sum(count > 1 for count in counts.values()),
        counts.most_common(1)[0][0],
    )


def _best_copies(copies: Mapping[int, list[int]], candidates: Candidates) -> dict[int, int]:
    """By the first copy of a document the one with the best rank that has something to score."""
    if not copies:
        return {}
    ranks: Sequence[int] = range(len(candidates.items))
    if candidates.lists is not None:
        ranks = list(chain.from_iterable(map(_ranks_in, candidates.lists.values())))
    items = candidates.items
    return {
        index: min(own, key=lambda copy: (items[copy] is None, ranks[copy], copy))
        for index, own in copies.items()
    }


def _ranks_in(indices: range) -> range:
    """The rank of each document in its list, from 1."""
    return range(1, len(indices) + 1)

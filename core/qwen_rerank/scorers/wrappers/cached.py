"""CachedScorer: no text is scored twice for one query."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from pydantic import ConfigDict, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Content, Item
from qwen_rerank.scorers.base import Passage, Scorer, Scores, Usage
from qwen_rerank.scorers.wrappers.wrapper import Way, Wrapper

__all__ = ["CachedScorer", "Store"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Store(Protocol):
    """Where scores are kept: a mapping from strings to strings, of which two methods are used.

    What it was given as a string it may give back as bytes; what it no longer has is None.
    """

    def get(self, key: str, /) -> Any: ...
    def __setitem__(self, key: str, value: str, /) -> None: ...


class CachedScorer(Wrapper):
    """Keeps the scores of a scorer: what it scored before, for the same query, is not sent again.

    Only what the store does not have is sent. The usage counts the others as `cache_hits`; where
    nothing had to be sent, there is no request and the cost is 0. A score is kept under the SHA-256
    of the scorer's fingerprint, the query and the text, so the store holds none of them, and any
    number of scorers can share it. With the score of a passage its place is kept.

    A store that fails, or is full, is logged once and passed by: the texts are scored as if it had
    nothing. Calls that miss the same text at the same time both send it. Stores need not be
    thread-safe, as they are used by one thread at a time; in an event loop by a worker thread,
    unless the store is a dict.

    Only scores of the scorer's own model are kept: those whose `Scores.model` is None. Where a
    FallbackScorer inside answers by another one, it is asked anew for all texts, those too that the
    store has. Around the cache, FallbackScorer(CachedScorer(first, store), second), it need not be.

    Pickling takes the store along: a dict is copied, and a diskcache.Cache opens the same folder. A
    store that can't be pickled makes a scorer that can't be. Closing leaves the store open.

    Args:
        scorer: Gives the scores that are missing.
        store: Keeps them: a dict, which only grows, a cachetools.TTLCache, a diskcache.Cache, a
            redis.Redis, or another mapping. How long, and how many, is up to it.

    Raises:
        InvalidInputError: A scorer whose scores depend on which texts come along, such as
            EmbeddedScorer and CascadeScorer, or a store that is no mapping.
    """

    def __init__(self, scorer: Scorer, store: Store) -> None:
        super().__init__(scorer)
        if not scorer.pointwise:
            raise InvalidInputError(
                f"{scorer!r} can't be cached: its scores depend on which texts come along.",
                remedy="Put the cache inside, around the scorers that it wraps, if it wraps some.",
            )
        if not (hasattr(store, "get") and hasattr(store, "__setitem__")):
            raise InvalidInputError(
                f"store must be a mapping, got {type(store).__name__}.",
                remedy="Pass for example a dict, or a diskcache.Cache.",
            )
        self._scorer = scorer
        self._store = store
        self._lock = _lock_of(store)
        self._has_failed = False

    @property
    def model(self) -> str:
        """That of the scorer."""
        return self._scorer.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """That of the scorer: its scores are the same with and without a cache."""
        return self._scorer.fingerprint

    async def _score(self, query: Item, texts: Sequence[Item], way: Way) -> Scores:
        keys, known = await self._do(way, partial(self._look_up, query, texts))
        if len(known) == len(texts):
            return _scores(known, Usage(cost=0.0))
        scores = await way.ask(self._scorer, query, _missed(texts, known))
        if known and not _are_own(scores):  # two models' scores side by side are no order
            lost, known = scores.usage, {}
            scores = await way.ask(self._scorer, query, texts)
            scores = replace(scores, usage=lost + scores.usage)
        if not _are_own(scores):
            return scores
        new = dict(zip(_missed(range(len(texts)), known), _entries(scores), strict=True))
        await self._do(way, partial(self._keep, {keys[place]: new[place] for place in new}))
        return _scores(known, scores.usage, new)

    async def _do(self, way: Way, work: Callable[[], T]) -> T:
        """Do what the store is needed for; only a dict never waits for a disk or a network."""
        return work() if type(self._store) is dict else await way.do(work)

    def _look_up(self, query: Item, texts: Sequence[Item]) -> tuple[list[str], dict[int, _Entry]]:
        """The keys of the texts, and by its place what the store has of each."""
        keys = list(_keys(self.fingerprint, query, texts))
        known = {}
        with self._turn():
            for place, key in enumerate(keys):
                if (entry := _Entry.read(self._store.get(key))) is not None:
                    known[place] = entry
        return keys, known

    def _keep(self, entries: Mapping[str, _Entry]) -> None:
        with self._turn():
            for key, entry in entries.items():
                self._store[key] = entry.written()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Have the store alone, until it fails."""
        with self._lock:
            try:
                yield
            except Exception as error:  # whatever it is, the scores can be had without
                if not self._has_failed:
                    self._has_failed = True
                    _log.warning("The cache is passed by: its store raised %s", _name(error))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._scorer!r}, {type(self._store).__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._scorer, self._store)


class _Entry(NamedTuple):
    """What is kept of a text: its score, and the passage that it is of."""

    value: float
    passage: Passage | None

    def written(self) -> str:
        """As JSON: a number, or a list of it and the passage's start and end."""
        return json.dumps(self.value if self.passage is None else (self.value, *self.passage))

    @classmethod
    def read(cls, written: Any) -> _Entry | None:
        """What was written; None where there is nothing, or nothing that makes sense."""
        if not isinstance(written, str | bytes):
            return None
        try:
            read = _written.validate_json(written)
        except ValidationError:
            return None
        return cls(read, None) if isinstance(read, float) else cls(read[0], Passage(*read[1:]))


_written: TypeAdapter[float | tuple[float, int, int]] = TypeAdapter(
    FiniteFloat | tuple[FiniteFloat, NonNegativeInt, NonNegativeInt],
    config=ConfigDict(strict=True),
)

_locks: WeakValueDictionary[int, Lock] = WeakValueDictionary()
"""The lock of every store in use, for the scorers that share it. A dict can't be referred to."""

_finding_a_lock = Lock()


def _lock_of(store: Store) -> Lock:
    with _finding_a_lock:
        return _locks.setdefault(id(store), Lock())


def _keys(fingerprint: tuple[Any, ...], query: Item, texts: Sequence[Item]) -> Iterator[str]:
    """The keys of the texts. JSON ends where it ends, so no other query and text have the same."""
    head = sha256(json.dumps([fingerprint, _plain(query)]).encode())
    for text in texts:
        key = head.copy()
        key.update(_bytes(text))
        yield key.hexdigest()


def _plain(item: Item) -> str | tuple[str | None, ...]:
    return (item.text, item.image, item.video) if isinstance(item, Content) else item


def _bytes(item: Item) -> bytes:
    """What no other item has: a text in UTF-8, all else behind a byte that is not in any."""
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    return b"\xff" + json.dumps(_plain(item)).encode()


def _missed(things: Sequence[T], known: Mapping[int, _Entry]) -> Sequence[T]:
    """The things at those places that are not known."""
    if not known:
        return things
    return [thing for place, thing in enumerate(things) if place not in known]


def _are_own(scores: Scores) -> bool:
    """Whether they are of the scorer's own model, all of them, and so may stand beside others."""
    return scores.model is None and scores.tiers is None and not scores.unranked


def _entries(scores: Scores) -> Iterable[_Entry]:
    passages = scores.passages or [None] * len(scores.values)
    return map(_Entry, scores.values, passages)


def _scores(
    known: Mapping[int, _Entry], usage: Usage, new: Mapping[int, _Entry] | None = None
) -> Scores:
    """The scores of all texts, in their order, and what the new ones cost."""
    entries = [entry for _, entry in sorted({**known, **(new or {})}.items())]
    passages = [entry.passage for entry in entries]
    return Scores(
        [entry.value for entry in entries],
        usage + Usage(cache_hits=len(known)),
        passages=passages if any(passages) else None,
    )


def _name(error: Exception) -> str:
    """Its full name; its text may hold anything, a password of the store's too."""
    return f"{type(error).__module__}.{type(error).__qualname__}"

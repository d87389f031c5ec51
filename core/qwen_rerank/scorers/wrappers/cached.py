"""CachedScorer: scores no text twice for the same query."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import repeat
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from pydantic import ConfigDict, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import Passage, Scorer, Scores, Usage
from qwen_rerank.scorers.wrappers.stores import GuardedStore, Store
from qwen_rerank.scorers.wrappers.wrapper import Runner, Wrapper
from qwen_rerank.validation import check_seconds

__all__ = ["CachedScorer", "Store"]

T = TypeVar("T")


class CachedScorer(Wrapper):
    """Keeps the scores of a scorer, and only sends texts that it has no score for.

    The usage counts the other texts as `cache_hits`. If no text has to be sent, there is no request
    and the cost is 0. The key of a score is the SHA-256 of the scorer's fingerprint, the query and
    the text, so the store holds no text, and any number of scorers can share it. The passage that a
    score belongs to is kept with it.

    If the store fails, is full, or takes too long, the texts are scored as if it were empty, and it
    is left alone for a while. The first failure is logged. Two calls that miss the same text at the
    same time both send it. A store need not be thread-safe: one thread at a time uses it, unless it
    is known to be safe (dict, diskcache, redis). An event loop uses any store but a dict from a
    worker thread.

    Only scores of the scorer's own model are kept (those whose `Scores.model` is None). If a
    FallbackScorer inside the cache returns another model's scores, it is asked again for all texts,
    including those in the store. `FallbackScorer(CachedScorer(first, store), second)` avoids that.

    Pickling includes the store: a dict is copied, a diskcache.Cache opens the same folder. Closing
    the scorer leaves the store open.

    Args:
        scorer: Scores the texts that are not in the store.
        store: A dict (which only grows), a cachetools.TTLCache, a diskcache.Cache, a redis.Redis or
            another mapping. The store decides how many scores it keeps, and for how long.
        timeout: How long a call waits for the store, in seconds; once to read and once to write.
            A single operation can only be cut short in an event loop: if you make sync calls, give
            a store on the network a timeout of its own.
        cooldown: How long the store is left alone after a failure, in seconds.
        clock: Returns the time in seconds. For tests.

    Raises:
        InvalidInputError: The scorer's scores depend on the other texts in the call, as those of
            EmbeddedScorer and CascadeScorer do; the store is not a mapping; or `timeout` or
            `cooldown` is not a number above 0.
    """

    def __init__(
        self,
        scorer: Scorer,
        store: Store,
        *,
        timeout: float = 1.0,
        cooldown: float = 30.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(scorer)
        if not scorer.pointwise:
            raise InvalidInputError(
                f"{scorer!r} can't be cached: its scores depend on the other texts in the call.",
                remedy="If it wraps scorers, put the cache around those instead.",
            )
        if not (hasattr(store, "get") and hasattr(store, "__setitem__")):
            raise InvalidInputError(
                f"store must be a mapping, got {type(store).__name__}.",
                remedy="Pass for example a dict or a diskcache.Cache.",
            )
        check_seconds("timeout", timeout)
        check_seconds("cooldown", cooldown)
        self._scorer = scorer
        self._store = store
        self._options: dict[str, Any] = {"timeout": timeout, "cooldown": cooldown}
        self._guarded_store = GuardedStore(store, timeout, cooldown, clock)

    @property
    def model(self) -> str:
        """The model of the wrapped scorer."""
        return self._scorer.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The fingerprint of the wrapped scorer: a cache does not change its scores."""
        return self._scorer.fingerprint

    async def _score(self, query: Item, texts: Sequence[Item], runner: Runner) -> Scores:
        keys = list(_cache_keys(self.fingerprint, query, texts))
        cached = _valid_entries(await self._guarded_store.read(keys, runner))
        if len(cached) == len(texts):
            return _merged(cached, {}, Usage(cost=0.0))
        scores = await runner.score(self._scorer, query, _missing(texts, cached))
        if cached and not _are_own(scores):  # the scores of two models can't be compared
            wasted, cached = scores.usage, {}
            scores = await runner.score(self._scorer, query, texts)
            scores = replace(scores, usage=wasted + scores.usage)
        if not _are_own(scores):
            return scores
        new = dict(zip(_missing(range(len(texts)), cached), _new_entries(scores), strict=True))
        await self._guarded_store.write({keys[i]: new[i].to_json() for i in new}, runner)
        return _merged(cached, new, scores.usage)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._scorer!r}, {type(self._store).__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._options), (self._scorer, self._store)


class _CacheEntry(NamedTuple):
    """What is kept of a text: its score, the score's passage, and its tie-breaker."""

    value: float
    passage: Passage | None = None
    tie_breaker: float | None = None

    def to_json(self) -> str:
        """The score, or a list of it, the passage's start and end, and the tie-breaker."""
        if self.passage is None and self.tie_breaker is None:
            return json.dumps(self.value)
        return json.dumps((self.value, *(self.passage or (None, None)), self.tie_breaker))

    @classmethod
    def from_json(cls, stored: Any) -> _CacheEntry | None:
        """Read what a store returned; None if it is not an entry."""
        if not isinstance(stored, str | bytes):
            return None
        try:
            parsed = _stored.validate_json(stored)
        except ValidationError:
            return None
        if isinstance(parsed, float):
            return cls(parsed)
        value, start, end, tie_breaker = parsed
        has_passage = start is not None and end is not None
        return cls(value, Passage(start, end) if has_passage else None, tie_breaker)


_Offset = NonNegativeInt | None
_stored: TypeAdapter[Any] = TypeAdapter(
    FiniteFloat | tuple[FiniteFloat, _Offset, _Offset, FiniteFloat | None],
    config=ConfigDict(strict=True),
)


def _cache_keys(fingerprint: tuple[Any, ...], query: Item, texts: Sequence[Item]) -> Iterator[str]:
    """The key of each text. No other query and text have the same: JSON marks its own end."""
    head = sha256(json.dumps([fingerprint, _as_json(query)]).encode())
    for text in texts:
        key = head.copy()
        key.update(_bytes(text))
        yield key.hexdigest()


def _as_json(item: Item) -> str | tuple[str | None, ...]:
    if isinstance(item, str):
        return item
    return item.text, item.image, item.video, *(item.frames or ())


def _bytes(item: Item) -> bytes:
    """The item as unique bytes: a text in UTF-8, a Content behind a byte that UTF-8 never has."""
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    return b"\xff" + json.dumps(_as_json(item)).encode()


def _valid_entries(stored: Mapping[int, Any]) -> dict[int, _CacheEntry]:
    """The valid entries among what a store returned, by the indices of their texts."""
    entries = ((index, _CacheEntry.from_json(value)) for index, value in stored.items())
    return {index: entry for index, entry in entries if entry is not None}


def _missing(items: Sequence[T], cached: Mapping[int, _CacheEntry]) -> Sequence[T]:
    """The items at the indices that are not cached."""
    if not cached:
        return items
    return [item for index, item in enumerate(items) if index not in cached]


def _are_own(scores: Scores) -> bool:
    """Whether all scores are of the scorer's own model, and can be compared with cached ones."""
    return scores.model is None and scores.tiers is None and not scores.unranked


def _new_entries(scores: Scores) -> Iterable[_CacheEntry]:
    passages = scores.passages or repeat(None)
    return map(_CacheEntry, scores.values, passages, scores.tie_breakers or repeat(None))


def _merged(
    cached: Mapping[int, _CacheEntry], new: Mapping[int, _CacheEntry], usage: Usage
) -> Scores:
    """The cached and the new scores, in the order of the texts."""
    entries = [entry for _, entry in sorted({**cached, **new}.items())]
    passages = [entry.passage for entry in entries]
    tie_breakers = [each for entry in entries if (each := entry.tie_breaker) is not None]
    return Scores(
        [entry.value for entry in entries],
        usage + Usage(cache_hits=len(cached)),
        passages=passages if any(passages) else None,
        tie_breakers=tie_breakers if len(tie_breakers) == len(entries) else None,
    )

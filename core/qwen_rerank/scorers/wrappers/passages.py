"""PassageScorer: long texts, scored by their passages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.http.batching import byte_bound
from qwen_rerank.scorers.wrappers.wrapper import Way, Wrapper
from qwen_rerank.text.chunking import MIN_PASSAGE_TOKENS, Passage, check_chunker, passages_of
from qwen_rerank.text.tokenizer import count_tokens
from qwen_rerank.validation import check_whole, not_utf8

__all__ = ["Aggregate", "PassageScorer"]

Aggregate: TypeAlias = Literal["max", "mean", "first"]
"""The score of a text: its best passage's, the mean of its three best ones', its first one's."""


class PassageScorer(Wrapper):
    """Scores a long text by its passages, so that nothing of it goes unread.

    A text of more than `max_tokens` is cut at the ends of paragraphs or sentences, in any script;
    within a sentence only where that alone is too long. The passages of all texts go to the scorer
    in one call, equal ones once. A text that is not longer goes as it is, and so does a Content
    with an image or a video.

    `Scores.passages` says which passage of a text scored best. Its offsets are characters of the
    text. Tokens are Qwen's. They are counted only in a text of more bytes than `max_tokens`, the
    others cost next to nothing.

    Args:
        scorer: Gives the passages their scores.
        max_tokens: Tokens of a passage at most; at least 16.
        overlap: Tokens that a passage repeats of the one before it at most, less than `max_tokens`.
            Only whole sentences are repeated, or whatever else the passages are made of.
        aggregate: The score of a text: `"max"` is its best passage's; `"mean"` the mean of its
            three best ones'; `"first"` its first one's, and the others are not scored.

    Raises:
        InvalidInputError: An argument that can't be used.
        MissingDependencyError: The extra `passages` is not installed.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        max_tokens: int = 512,
        overlap: int = 64,
        aggregate: Aggregate = "max",
    ) -> None:
        super().__init__(scorer)
        check_whole("max_tokens", max_tokens, at_least=MIN_PASSAGE_TOKENS)
        check_whole("overlap", overlap, at_least=0)
        if overlap >= max_tokens:
            raise InvalidInputError(
                f"overlap must be less than max_tokens={max_tokens}, got {overlap}."
            )
        if aggregate not in get_args(Aggregate):
            raise InvalidInputError(
                f"aggregate must be one of {', '.join(get_args(Aggregate))}, got {aggregate!r}."
            )
        check_chunker()
        self._scorer = scorer
        self._max_tokens = max_tokens
        self._overlap = overlap
        self._aggregate = aggregate

    @property
    def model(self) -> str:
        """That of the scorer."""
        return self._scorer.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The options, and the fingerprint of the scorer."""
        options = (self._max_tokens, self._overlap, self._aggregate)
        return (type(self).__qualname__, *options, *self._scorer.fingerprint)

    @property
    def pointwise(self) -> bool:
        """Whether the scorer is."""
        return self._scorer.pointwise

    async def _score(self, query: Item, texts: Sequence[Item], way: Way) -> Scores:
        part = partial(self._parted, texts)
        parted = part() if all(map(self._surely_fits, texts)) else await way.do(part)
        return self._joined(parted, await way.ask(self._scorer, query, parted.parts))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._scorer!r}, max_tokens={self._max_tokens}, "
            f"overlap={self._overlap}, aggregate={self._aggregate!r})"
        )

    def _surely_fits(self, item: Item) -> bool:
        """Whether it is a text no longer than a passage, as its bytes tell, or more than a text."""
        try:
            return not isinstance(item, str) or byte_bound(item) <= self._max_tokens
        except UnicodeEncodeError:
            raise not_utf8("A text") from None

    def _parted(self, texts: Sequence[Item]) -> _Parted:
        """What to score of the texts."""
        places: dict[Item, int] = {}

        def part(item: Item, passage: Passage | None) -> _Part:
            found = passage.of(text_of(item)) if passage else item
            return _Part(passage, places.setdefault(found, len(places)))

        parts = [[part(text, passage) for passage in self._passages(text)] for text in texts]
        return _Parted(parts, list(places))

    def _passages(self, item: Item) -> Sequence[Passage | None]:
        """What to score of a text: its passages, or None for all of it."""
        text = text_of(item)
        if self._surely_fits(item) or count_tokens(text) <= self._max_tokens:
            return [None]
        found = passages_of(text, self._max_tokens, self._overlap)
        # White space alone has no passage: it is left to the scorer.
        return list(islice(found, 1 if self._aggregate == "first" else None)) or [None]

    def _joined(self, parted: _Parted, scores: Scores) -> Scores:
        """The scores of the texts, made of those of their parts."""
        best = [_best(parts, scores) for parts in parted.texts]
        count = 3 if self._aggregate == "mean" else 1
        saved = sum(map(len, parted.texts)) - len(parted.parts)
        return replace(
            scores,
            values=[_mean(parts[:count], scores) for parts in best],
            passages=[_passage(parts[0], scores) for parts in best],
            tiers=scores.tiers and [scores.tiers[parts[0].place] for parts in best],
            usage=scores.usage + Usage(duplicate_texts=saved),
        )


class _Part(NamedTuple):
    """A passage of a text, or None for all of it; and its place among the different parts."""

    passage: Passage | None
    place: int


class _Parted(NamedTuple):
    """The parts of each text, in order; and the different parts of all of them."""

    texts: list[list[_Part]]
    parts: list[Item]


def _best(parts: list[_Part], scores: Scores) -> list[_Part]:
    """The parts of the lowest tier, best first."""
    if (tiers := scores.tiers) is not None:
        lowest = min(tiers[part.place] for part in parts)
        parts = [part for part in parts if tiers[part.place] == lowest]
    return sorted(parts, key=lambda part: scores.values[part.place], reverse=True)


def _mean(parts: list[_Part], scores: Scores) -> float:
    return math.fsum(scores.values[part.place] for part in parts) / len(parts)


def _passage(part: _Part, scores: Scores) -> Passage | None:
    """The passage that the part is, or the one that the scorer found in it."""
    outer = part.passage
    inner = None if scores.passages is None else scores.passages[part.place]
    if outer is None or inner is None:
        return outer or inner
    return Passage(outer.start + inner.start, outer.start + inner.end)

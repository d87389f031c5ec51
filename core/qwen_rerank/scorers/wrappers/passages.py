"""PassageScorer: scores long texts by their passages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from itertools import islice, zip_longest
from threading import Event
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.scorers.base import Scorer, Scores, Usage, class_name
from qwen_rerank.scorers.http.batching import byte_bound
from qwen_rerank.scorers.wrappers.wrapper import Runner, Wrapper
from qwen_rerank.text.chunking import MIN_PASSAGE_TOKENS, Passage, check_chunker, passages_of
from qwen_rerank.text.tokenizer import count_tokens
from qwen_rerank.validation import check_choice, check_whole, not_utf8

__all__ = ["Aggregate", "PassageScorer"]

Aggregate: TypeAlias = Literal["max", "mean", "first"]
"""How a text's score is computed from its passages' scores: the best one, the mean of the best
three, or the first one."""

T = TypeVar("T")

_COUNTED_CHARACTERS = 16
"""Characters per token of a passage up to which a text's tokens are counted; English has 4."""


class PassageScorer(Wrapper):
    """Scores a long text by its passages, so that the model reads all of it.

    A text of more than `max_tokens` is cut at the ends of paragraphs or sentences, in any script. A
    sentence is only cut if it is too long for a passage. All passages go to the scorer in one call,
    without duplicates. A shorter text is scored whole, and so is a Content with an image or video.

    `Scores.passages` names the best passage of each text, in characters of the text. Tokens are
    Qwen's. They are only counted in texts of more than `max_tokens` bytes.

    Args:
        scorer: Scores the passages.
        max_tokens: The maximum length of a passage in tokens; at least 16.
        overlap: The maximum number of tokens that a passage repeats from the one before it; less
            than `max_tokens`. Only whole sentences (or other units of the chunking) are repeated.
        aggregate: The score of a text: `"max"` for its best passage's, `"mean"` for the mean of its
            three best, `"first"` for its first passage's; the others are then not scored.

    Raises:
        InvalidInputError: An argument is not valid.
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
        check_choice("aggregate", aggregate, get_args(Aggregate))
        check_chunker()
        self._scorer = scorer
        self._max_tokens = max_tokens
        self._overlap = overlap
        self._aggregate = aggregate

    @property
    def model(self) -> str:
        """The model of the wrapped scorer."""
        return self._scorer.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The options, and the fingerprint of the wrapped scorer."""
        options = (self._max_tokens, self._overlap, self._aggregate)
        return (class_name(type(self)), *options, *self._scorer.fingerprint)

    @property
    def pointwise(self) -> bool:
        """Whether the wrapped scorer is pointwise."""
        return self._scorer.pointwise

    async def _score(self, query: Item, texts: Sequence[Item], runner: Runner) -> Scores:
        is_over = Event()
        chunk = partial(self._chunk, texts, is_over)
        try:
            surely_fit = all(map(self._surely_fits, texts))
            chunked = chunk() if surely_fit else await runner.run(chunk)
        finally:
            is_over.set()
        scores = await runner.score(self._scorer, query, chunked.items)
        return self._aggregated(chunked, scores)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._scorer!r}, max_tokens={self._max_tokens}, "
            f"overlap={self._overlap}, aggregate={self._aggregate!r})"
        )

    def _surely_fits(self, item: Item) -> bool:
        """Whether an item is scored whole without counting its tokens."""
        try:
            return not isinstance(item, str) or byte_bound(item) <= self._max_tokens
        except UnicodeEncodeError:
            raise not_utf8("A text") from None

    def _chunk(self, texts: Sequence[Item], is_over: Event) -> _Chunked:
        """Chunk the texts. Stops with CancelledError when the call is over."""
        parts = [
            [
                (passage, passage.of(text_of(text)) if passage else text)
                for passage in self._passages_of(text, is_over)
            ]
            for text in texts
        ]
        # A long text must not push the next one down: their first passages come one after another.
        rows = zip_longest(*parts) if self._scorer.uses_order else parts
        items = dict.fromkeys(part[1] for row in rows for part in row if part is not None)
        indices = {item: index for index, item in enumerate(items)}
        chunks = [[_Chunk(passage, indices[item]) for passage, item in own] for own in parts]
        return _Chunked(chunks, list(items))

    def _passages_of(self, item: Item, is_over: Event) -> Sequence[Passage | None]:
        """The passages of an item, or None if it is scored whole."""
        if self._surely_fits(item):
            return [None]
        text = text_of(item)
        is_countable = len(text) <= _COUNTED_CHARACTERS * self._max_tokens
        if is_countable and count_tokens(text) <= self._max_tokens:
            return [None]
        passages = _until_over(is_over, passages_of(text, self._max_tokens, self._overlap))
        # White space has no passages: it is left to the scorer.
        return list(islice(passages, 1 if self._aggregate == "first" else None)) or [None]

    def _aggregated(self, chunked: _Chunked, scores: Scores) -> Scores:
        """The scores of the texts, from those of their chunks."""
        best = [_best_first(chunks, scores) for chunks in chunked.texts]
        count = 3 if self._aggregate == "mean" else 1
        duplicates = sum(map(len, chunked.texts)) - len(chunked.items)
        return replace(
            scores,
            values=[_mean(chunks[:count], scores) for chunks in best],
            passages=None if scores.unranked else [_passage(chunks[0], scores) for chunks in best],
            tiers=_at_best(scores.tiers, best),
            tie_breakers=_at_best(scores.tie_breakers, best),
            usage=scores.usage + Usage(duplicate_texts=duplicates),
        )


class _Chunk(NamedTuple):
    """A passage of a text, or None for the whole text, and the index of its item to score."""

    passage: Passage | None
    item_index: int


class _Chunked(NamedTuple):
    """The chunks of each text, and the distinct items to score for all of them."""

    texts: list[list[_Chunk]]
    items: list[Item]


def _until_over(is_over: Event, passages: Iterator[Passage]) -> Iterator[Passage]:
    for passage in passages:
        if is_over.is_set():
            raise CancelledError
        yield passage


def _best_first(chunks: list[_Chunk], scores: Scores) -> list[_Chunk]:
    """The chunks in the lowest tier, best first."""
    if (tiers := scores.tiers) is not None:
        lowest = min(tiers[chunk.item_index] for chunk in chunks)
        chunks = [chunk for chunk in chunks if tiers[chunk.item_index] == lowest]
    tie_breakers = scores.tie_breakers or scores.values

    def key(chunk: _Chunk) -> tuple[float, float]:
        return scores.values[chunk.item_index], tie_breakers[chunk.item_index]

    return sorted(chunks, key=key, reverse=True)


def _at_best(values: list[T] | None, best: list[list[_Chunk]]) -> list[T] | None:
    """The value at the best chunk of each text."""
    return values and [values[chunks[0].item_index] for chunks in best]


def _mean(chunks: list[_Chunk], scores: Scores) -> float:
    return math.fsum(scores.values[chunk.item_index] for chunk in chunks) / len(chunks)


def _passage(chunk: _Chunk, scores: Scores) -> Passage | None:
    """The passage that a chunk is, or the passage that the scorer found within it."""
    outer = chunk.passage
    inner = None if scores.passages is None else scores.passages[chunk.item_index]
    if outer is None or inner is None:
        return outer or inner
    return Passage(outer.start + inner.start, outer.start + inner.end)

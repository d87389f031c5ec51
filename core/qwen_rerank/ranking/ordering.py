"""From scores to an order of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.ranking.candidates import UniqueDocuments
from qwen_rerank.ranking.fusion import fused_order
from qwen_rerank.scorers.base import Scores
from qwen_rerank.validation import check_share, is_finite

if TYPE_CHECKING:
    from qwen_rerank.text.word_vectors import Vectors

__all__ = ["Ordering", "Prepared", "reordered"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query and the documents to score for it.

    A document is known here by its position in `indices`.

    Attributes:
        query: The query, checked and well-formed.
        items: The distinct texts and Contents to score, in the order in which the scorer gets them.
        indices: The documents to score, by their indices in the input, in input order.
        item_indices: The index in `items` of each document's item.
        unique: All documents, each once.
        over_budget: How many documents with something to score are left out, because of
            max_candidates.
        top_n: How many documents to return; None for all.
    """

    query: Item
    items: Sequence[Item]
    indices: Sequence[int]
    item_indices: Sequence[int]
    unique: UniqueDocuments
    over_budget: int
    top_n: int | None

    @property
    def arguments(self) -> tuple[str, list[str]]:
        """The arguments of `Scorer.score`: Contents only if the scorer accepts them."""
        return cast(tuple[str, list[str]], (self.query, self.items))

    def retrieval_order(self) -> Sequence[int]:
        """Return the positions in the first stages' order, best first."""
        if not self.unique.has_several_lists:
            return range(len(self.indices))
        return fused_order(self.unique.ranks(self.indices))


class Ordering:
    """Puts documents in the order that their scores and these options give them.

    Args:
        min_score: See `RankingOptions`, also for the others.
        blend: The weight of the retrieval order.
        diversity: How much the documents should differ.

    Raises:
        InvalidInputError: An argument cannot be used.
        MissingDependencyError: `diversity` is set, but the extra `embedded` is not installed.
    """

    def __init__(
        self, min_score: float | None, blend: float | None, diversity: float | None
    ) -> None:
        if min_score is not None and not is_finite(min_score):
            raise InvalidInputError(
                f"min_score must be a finite number or None, got {min_score!r}."
            )
        check_share("blend", blend)
        check_share("diversity", diversity)
        self._min_score = min_score
        self._blend = blend
        self._diversity = diversity
        if diversity:
            _word_vectors()  # fails here, not at the first query, if the package is missing

    def with_min_score(self, min_score: float | None) -> Ordering:
        """Return an ordering that differs only in its `min_score`."""
        return Ordering(min_score, self._blend, self._diversity)

    @property
    def is_slow(self) -> bool:
        """Whether it would block an event loop for too long."""
        return bool(self._diversity)

    @property
    def needs_all_scores(self) -> bool:
        """Whether the scores beyond the best `top_n` change the order."""
        return bool(self._blend or self._diversity)

    def best(
        self, prepared: Prepared, scores: Scores
    ) -> tuple[Sequence[int], list[float | None], Sequence[int]]:
        """Return the order of the documents that were scored, at most `top_n`.

        Returns:
            Three columns, best document first: its position, its score (None if no model scored
            it), and the index of its entry in `scores`.
        """
        top_n = prepared.top_n
        if scores.unranked:
            order = list(prepared.retrieval_order()[:top_n])
            return order, [None] * len(order), reordered(prepared.item_indices, order)
        positions, entries = _scored(prepared, scores)
        relevance = _values_at(scores.values, entries)
        values: Sequence[float] = relevance
        if self._blend:
            values = _blended(relevance, prepared.retrieval_order(), self._blend)
        order = sorted(range(len(values)), key=_sort_key(values, scores, entries), reverse=True)
        unscored: list[int] = []
        if scores.tiers is not None:
            order, unscored = _tier_0_and_others(order, _values_at(scores.tiers, entries))
        if self._min_score is not None and order:  # without scores there is nothing to compare
            order, unscored = [i for i in order if relevance[i] >= self._min_score], []
        if self._diversity:
            texts = [text_of(prepared.items[prepared.item_indices[i]]) for i in order]
            chosen = _diverse([values[i] for i in order], texts, self._diversity, top_n)
            order = [order[i] for i in chosen]
        order = order[:top_n]
        shown: list[float | None] = list(map(values.__getitem__, order))
        if unscored:
            order = (order + unscored)[:top_n]
            shown += [None] * (len(order) - len(shown))
        return reordered(positions, order), shown, reordered(entries, order)


def reordered(indices: Sequence[int], order: Sequence[int]) -> Sequence[int]:
    """Return the indices at these positions. In a range from 0, the two are the same."""
    return order if isinstance(indices, range) else [indices[i] for i in order]


def _values_at(values: Sequence[T], entries: Sequence[int]) -> Sequence[T]:
    """Return the value of each entry. A range stands for all of them."""
    return values if isinstance(entries, range) else [values[entry] for entry in entries]


def _scored(prepared: Prepared, scores: Scores) -> tuple[Sequence[int], Sequence[int]]:
    """Return the positions of the documents that have a score, and the scores' indices."""
    if scores.indices is None:
        return range(len(prepared.indices)), prepared.item_indices
    entry_of = {index: entry for entry, index in enumerate(scores.indices)}
    positions = [i for i, item in enumerate(prepared.item_indices) if item in entry_of]
    return positions, [entry_of[prepared.item_indices[i]] for i in positions]


def _sort_key(
    values: Sequence[float], scores: Scores, entries: Sequence[int]
) -> Callable[[int], float | tuple[float, float]]:
    """Return the key for a descending sort, which is stable: ties keep their order."""
    if scores.tie_breakers is None:
        return values.__getitem__
    tie_breakers = _values_at(scores.tie_breakers, entries)
    return lambda i: (values[i], tie_breakers[i])


def _tier_0_and_others(order: list[int], tiers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the order of tier 0, and of the other tiers."""
    by_tier = sorted(order, key=tiers.__getitem__)  # stable: the order within a tier stays
    end = sum(tier == 0 for tier in tiers)
    return by_tier[:end], by_tier[end:]


def _blended(scores: Sequence[float], order: Iterable[int], weight: float) -> list[float]:
    """Return each score blended with the reciprocal of its rank in `order`, by this weight."""
    mixed = [0.0] * len(scores)
    for rank, index in enumerate(order, 1):
        mixed[index] = (1 - weight) * scores[index] + weight / rank
    return mixed


def _diverse(
    scores: Sequence[float], texts: Sequence[str], weight: float, count: int | None
) -> list[int]:
    """Return the indices of at most `count` texts, each chosen by maximal marginal relevance.

    That is (1 - weight) · score - weight · the largest cosine with one already chosen
    (Carbonell and Goldstein, SIGIR 1998).
    """
    if not texts:
        return []
    import numpy

    directions = _word_vectors().directions(texts)
    relevance = (1 - weight) * numpy.array(scores)
    nearest = numpy.zeros(len(texts))
    chosen: list[int] = []
    for _ in texts[:count]:
        best = int((relevance - weight * nearest).argmax())
        chosen.append(best)
        relevance[best] = -numpy.inf
        nearest = numpy.maximum(nearest, directions @ directions[best])
    return chosen


def _word_vectors() -> Vectors:
    from qwen_rerank.text.word_vectors import offline_vectors  # lazy: it reads 16 MB

    return offline_vectors()

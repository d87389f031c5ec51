"""From scores to an order of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.ranking.records import Lists, Record, retrieval_order
from qwen_rerank.scorers.base import Scores
from qwen_rerank.validation import check_share, is_finite

if TYPE_CHECKING:
    from qwen_rerank.text.word_vectors import Vectors

__all__ = ["Ordering", "Prepared"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query and its records, ready to be scored.

    Attributes:
        query: The query, checked and well-formed.
        items: The different texts and Contents to score, all of them well-formed.
        records: The records that have one, in input order.
        places: The place in `items` of that of each of those records.
        textless: The records without anything to score, in input order.
        lists: All records that were passed in, by the names of their lists.
        duplicates: How many records came after one with the same id.
        over_budget: How many records with something to score are left out.
        top_n: How many records to return; None for all.
    """

    query: Item
    items: list[Item]
    records: list[Record]
    places: list[int]
    textless: list[Record]
    lists: Lists
    duplicates: int
    over_budget: int
    top_n: int | None

    @property
    def arguments(self) -> tuple[str, list[str]]:
        """What `Scorer.score` gets. A Content is among it only where the scorer takes it."""
        return cast(tuple[str, list[str]], (self.query, self.items))

    def retrieval_order(self) -> list[int]:
        """The places of the records in the retrievers' order, best first."""
        return retrieval_order(self.records, self.lists)


class Ordering:
    """Puts records in the order that their scores, and these options, give them.

    Args:
        min_score: See `RerankEngine`, as for the others.
        blend: The weight of the retrieval order.
        diversity: How much records should differ.

    Raises:
        InvalidInputError: An argument that can't be used.
        MissingDependencyError: Diversity without the extra `embedded`.
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
            _offline_vectors()  # that they are missing shows here

    @property
    def takes_long(self) -> bool:
        """Whether an event loop should not have to wait for it."""
        return bool(self._diversity)

    def best(self, prepared: Prepared, scores: Scores) -> list[Record]:
        """The records that have a text, each with its score, best first; at most `top_n`."""
        records, places, top_n = prepared.records, prepared.places, prepared.top_n
        if scores.unranked:
            return [records[place] for place in prepared.retrieval_order()[:top_n]]
        relevances = [scores.values[place] for place in places]
        values = relevances
        if self._blend:
            values = _blended(relevances, prepared.retrieval_order(), self._blend)
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)  # ties stay
        order, unscored = _split(order, places, scores.tiers)
        if self._min_score is not None and order:  # else it has nothing to be compared with
            order, unscored = [i for i in order if relevances[i] >= self._min_score], []
        if self._diversity:
            texts = [text_of(prepared.items[places[i]]) for i in order]
            chosen = _diverse([values[i] for i in order], texts, self._diversity, top_n)
            order = [order[i] for i in chosen]
        passages = scores.passages
        best = [
            records[i].scored(values[i], passages[places[i]] if passages else None)
            for i in order[:top_n]
        ]
        room = None if top_n is None else top_n - len(best)
        return best + [records[i].scored(None) for i in unscored[:room]]


def _split(
    order: list[int], places: Sequence[int], tiers: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """The order of tier 0, and of the others."""
    if tiers is None:
        return order, []
    by_tier = sorted(order, key=lambda i: tiers[places[i]])  # the order stays in each
    end = sum(tiers[place] == 0 for place in places)
    return by_tier[:end], by_tier[end:]


def _blended(scores: Sequence[float], order: Iterable[int], weight: float) -> list[float]:
    """Each score mixed with the reciprocal of its rank in the order, which has this weight."""
    mixed = [0.0] * len(scores)
    for rank, place in enumerate(order, 1):
        mixed[place] = (1 - weight) * scores[place] + weight / rank
    return mixed


def _diverse(
    scores: Sequence[float], texts: Sequence[str], weight: float, count: int | None
) -> list[int]:
    """Places of texts, as many as wanted, each the best one left by maximal marginal relevance.

    That is (1 - weight) · score - weight · the largest cosine with one that was chosen before
    (Carbonell and Goldstein, SIGIR 1998).
    """
    if not texts:
        return []
    import numpy

    directions = _offline_vectors().directions(texts)
    worths = (1 - weight) * numpy.array(scores)
    nearest = numpy.zeros(len(texts))
    chosen: list[int] = []
    for _ in texts[:count]:
        best = int((worths - weight * nearest).argmax())
        chosen.append(best)
        worths[best] = -numpy.inf
        nearest = numpy.maximum(nearest, directions @ directions[best])
    return chosen


def _offline_vectors() -> Vectors:
    from qwen_rerank.text.word_vectors import offline_vectors  # late: it reads 16 MB

    return offline_vectors()

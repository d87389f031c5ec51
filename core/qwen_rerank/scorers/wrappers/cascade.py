"""CascadeScorer: a cheap scorer sees all texts, a dear one the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import Passage, Scorer, Scores, Usage
from qwen_rerank.scorers.wrappers.wrapper import Way, Wrapper
from qwen_rerank.validation import check_whole

__all__ = ["CascadeScorer"]


class CascadeScorer(Wrapper):
    """Lets a first scorer choose what a second one scores: the order of the second is the result.

    The texts that the second scored come first. The others follow in the order of the first, with
    no score in a ranking, as their scores are on another scale: so a `min_score`, which is one of
    the second's, leaves them out. Of texts that the first scores the same, the earlier is chosen.

    Where there are no more than `keep` texts, the second sees all, and the first is not asked.
    What the second did not have to score is counted in the usage as `skipped_by_cascade`.

    Where a KeepOrder answers for the first, the earliest texts are chosen. Where one answers for
    the second, the order of the first stands, for all texts and without scores; a `min_score` then
    has nothing to be compared with, and leaves out nothing.

    Args:
        first: The cheap scorer, such as EmbeddedScorer.
        second: The dear one.
        keep: How many texts the second sees at most; at least 1.

    Raises:
        InvalidInputError: An argument that can't be used.
    """

    def __init__(self, first: Scorer, second: Scorer, keep: int) -> None:
        super().__init__(first, second)
        check_whole("keep", keep, at_least=1)
        self._first = first
        self._second = second
        self._keep = keep

    @property
    def model(self) -> str:
        """That of the second scorer."""
        return self._second.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """Those of both scorers, and how many texts the second sees."""
        name = type(self).__qualname__
        return (name, self._first.fingerprint, self._second.fingerprint, self._keep)

    @property
    def pointwise(self) -> bool:
        """False: which texts the second scores depends on the others."""
        return False

    async def _score(self, query: Item, texts: Sequence[Item], way: Way) -> Scores:
        if len(texts) <= self._keep:
            second = await way.ask(self._second, query, texts)
            if second.unranked:
                return self._alone(await way.ask(self._first, query, texts), second.usage)
            return second
        first = await way.ask(self._first, query, texts)
        chosen = _order(first)[: self._keep]
        second = await way.ask(self._second, query, [texts[place] for place in chosen])
        spared = Usage(skipped_by_cascade=len(texts) - len(chosen))
        if second.unranked:
            return self._alone(first, second.usage + spared)
        return _joined(first, second, chosen, first.usage + second.usage + spared)

    def _alone(self, first: Scores, usage: Usage) -> Scores:
        """The first's order for all texts, where the second gave none."""
        return replace(
            first,
            usage=first.usage + usage,
            model=first.model or self._first.model,
            tiers=[1 + tier for tier in _tiers(first)],
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._first!r}, {self._second!r}, keep={self._keep})"


def _tiers(scores: Scores) -> list[int]:
    return scores.tiers or [0] * len(scores.values)


def _order(scores: Scores) -> list[int]:
    """The places of the texts, best first; a KeepOrder's numbers leave them as they came."""
    tiers = _tiers(scores)
    return sorted(range(len(tiers)), key=lambda place: (tiers[place], -scores.values[place]))


def _joined(first: Scores, second: Scores, chosen: Sequence[int], usage: Usage) -> Scores:
    """The second's scores of what was chosen, in tiers above the first's of the rest."""
    values = [*first.values]
    above = _tiers(second)
    tiers = [1 + max(above) + tier for tier in _tiers(first)]
    passages: list[Passage | None] = [None] * len(values)
    for rank, place in enumerate(chosen):
        values[place] = second.values[rank]
        tiers[place] = above[rank]
        passages[place] = second.passages[rank] if second.passages else None
    kept = passages if second.passages else None
    return Scores(values, usage, model=second.model, passages=kept, tiers=tiers)

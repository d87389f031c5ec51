"""CascadeScorer: a cheap scorer for all texts, an expensive one for the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import Passage, Scorer, Scores, Usage, class_name
from qwen_rerank.scorers.wrappers.wrapper import Runner, Wrapper
from qwen_rerank.validation import check_whole

__all__ = ["CascadeScorer", "best_first"]


class CascadeScorer(Wrapper):
    """Scores all texts with a cheap scorer, and rescores only the best with an expensive one.

    The texts that the second scorer scored come first, in its order. The others follow in the order
    of the first scorer. They have no score in a ranking, because the two scales differ, so a
    `min_score` removes them. If texts tie in the first scorer, the earlier one is rescored.

    If there are at most `keep` texts, the second scorer scores them all, and the first is not
    called. Texts that the second scorer did not score count as `skipped_by_cascade` in the usage.

    If the first scorer falls back to a KeepOrder, the first `keep` texts are rescored. If the
    second one does, all texts keep the order of the first, without scores; a `min_score` then
    removes none.

    Args:
        first: The cheap scorer, such as EmbeddedScorer.
        second: The expensive scorer.
        keep: The maximum number of texts to rescore; at least 1.

    Raises:
        InvalidInputError: An argument is not valid.
    """

    def __init__(self, first: Scorer, second: Scorer, keep: int) -> None:
        super().__init__(first, second)
        check_whole("keep", keep, at_least=1)
        self._first = first
        self._second = second
        self._keep = keep

    @property
    def model(self) -> str:
        """The model of the second scorer."""
        return self._second.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The fingerprints of both scorers, and `keep`."""
        name = class_name(type(self))
        return (name, self._first.fingerprint, self._second.fingerprint, self._keep)

    @property
    def pointwise(self) -> bool:
        """False: the other texts decide whether a text is rescored."""
        return False

    async def _score(self, query: Item, texts: Sequence[Item], runner: Runner) -> Scores:
        if len(texts) <= self._keep:
            second = await runner.score_top(self._second, query, texts)
            if second.unranked:
                first = await runner.score(self._first, query, texts)
                return self._first_alone(first, second.usage)
            return second
        first = await runner.score(self._first, query, texts)
        kept = best_first(first)[: self._keep]
        second = await runner.score(self._second, query, [texts[index] for index in kept])
        skipped = Usage(skipped_by_cascade=len(texts) - len(kept))
        if second.unranked:
            return self._first_alone(first, second.usage + skipped)
        return _joined(first, second, kept, first.usage + second.usage + skipped)

    def _first_alone(self, first: Scores, usage: Usage) -> Scores:
        """The order of the first scorer for all texts, since the second gave none."""
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


def _tie_breakers(scores: Scores) -> list[float]:
    return [*(scores.tie_breakers or [0.0] * len(scores.values))]


def best_first(scores: Scores) -> list[int]:
    """The indices of the texts, best first. Scores of a KeepOrder leave them in their order."""
    tiers, tie_breakers = _tiers(scores), _tie_breakers(scores)

    def key(index: int) -> tuple[int, float, float]:
        return tiers[index], -scores.values[index], -tie_breakers[index]

    return sorted(range(len(tiers)), key=key)


def _joined(first: Scores, second: Scores, kept: Sequence[int], usage: Usage) -> Scores:
    """The second scorer's scores of the kept texts, in tiers above the first's of the others."""
    values, tie_breakers = [*first.values], _tie_breakers(first)
    second_tiers, second_tie_breakers = _tiers(second), _tie_breakers(second)
    tiers = [1 + max(second_tiers) + tier for tier in _tiers(first)]
    passages: list[Passage | None] = [None] * len(values)
    for i, index in enumerate(kept):
        values[index] = second.values[i]
        tie_breakers[index] = second_tie_breakers[i]
        tiers[index] = second_tiers[i]
        passages[index] = second.passages[i] if second.passages else None
    return Scores(
        values,
        usage,
        model=second.model,
        passages=passages if second.passages else None,
        tiers=tiers,
        tie_breakers=tie_breakers if any(tie_breakers) else None,
    )

"""A scorer that adds up what another one cost: a scorer of your own is two methods."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_rerank import Scorer, Scores, Usage


class Metered(Scorer):
    """Scores as the given scorer does; `usage` is what all calls so far have cost."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.usage = Usage()

    @property
    def model(self) -> str:
        return self.scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        scores = self.scorer.score(query, texts)
        self.usage += scores.usage
        return scores

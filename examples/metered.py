"""A scorer that adds up what another one cost: policies are scorers around scorers."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from qwen_rerank import Scorer, Scores, Usage


class Metered(Scorer):
    """Scores as the given scorer does; `usage` is what all calls so far have cost."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.usage = Usage()
        self._lock = Lock()

    @property
    def model(self) -> str:
        return self.scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return self._counted(self.scorer.score(query, texts))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        return self._counted(await self.scorer.ascore(query, texts))

    def close(self) -> None:
        self.scorer.close()

    def _counted(self, scores: Scores) -> Scores:
        with self._lock:
            self.usage += scores.usage
        return scores

"""A scorer that wraps another one and adds up its usage."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from qwen_rerank import Scorer, Scores, Usage


class MeteredScorer(Scorer):
    """Scores with another scorer. `usage` is the total of all calls so far."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.usage = Usage()
        self._lock = Lock()

    @property
    def model(self) -> str:
        return self.scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return self._with_usage_added(self.scorer.score(query, texts))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        return self._with_usage_added(await self.scorer.ascore(query, texts))

    def close(self) -> None:
        self.scorer.close()

    def _with_usage_added(self, scores: Scores) -> Scores:
        with self._lock:
            self.usage += scores.usage
        return scores

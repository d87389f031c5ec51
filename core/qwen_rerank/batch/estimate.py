"""What reranking would cost, found without sending anything."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.http.scorer import HttpScorer

__all__ = ["EstimatingScorer"]


class EstimatingScorer(Scorer):
    """Stands in for a scorer: sends nothing, and reports the usage that the scorer would have.

    All scores are 0. Scorers that run on this machine would send no requests and cost nothing.

    Args:
        scorer: The scorer that would be used.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    @property
    def model(self) -> str:
        """The name of the scorer's model."""
        return self._scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Return a score of 0 per text, with the usage that the scorer would have."""
        if isinstance(self._scorer, HttpScorer):
            usage = self._scorer.estimate(query, texts)
        else:
            usage = Usage(texts_sent=len(texts), cost=0.0)
        return Scores([0.0] * len(texts), usage)

    def close(self) -> None:
        """Close the scorer."""
        self._scorer.close()

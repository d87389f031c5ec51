"""Scorers for tests that more than one framework's tests need."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_rerank import Scorer, Scores


class AsyncOnly(Scorer):
    """Scores by length, and only when awaited."""

    @property
    def model(self) -> str:
        return "async-only"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise AssertionError("blocks the event loop")

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([float(len(text)) for text in texts])

"""Scorers that the tests of several frameworks need."""

from __future__ import annotations

from collections.abc import Sequence

from qwen_rerank import Scorer, Scores


class AsyncOnly(Scorer):
    """Scores by length, and only in an event loop."""

    @property
    def model(self) -> str:
        return "async-only"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise AssertionError("blocks the event loop")

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([float(len(text)) for text in texts])


class Recorder(Scorer):
    """Scores by length, and remembers what it received."""

    model = "recorder"

    def __init__(self) -> None:
        self.received: list[list[str]] = []

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.received.append(list(texts))
        return Scores([float(len(text)) for text in texts])

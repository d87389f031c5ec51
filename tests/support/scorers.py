"""Scorers that the tests of several frameworks need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from qwen_rerank import InvalidInputError, Scorer, Scores


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


class ByLength(Scorer):
    """Scores by length, and can refuse a query."""

    model = "by-length"

    def __init__(self, refused: str | None = None) -> None:
        self.refused = refused

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        if query == self.refused:
            raise InvalidInputError(f"{query} is refused.")
        return Scores([float(len(text)) for text in texts])


class Paid(ByLength):
    """Takes a while, and writes a line per query when it is paid for."""

    def __init__(self, log: str, seconds: float) -> None:
        super().__init__()
        self.log = log
        self.seconds = seconds

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        time.sleep(self.seconds)  # the service's time
        with open(self.log, "a") as file:
            file.write(f"{query}\n")
        return super().score(query, texts)


def paid(log: Path) -> list[str]:
    """The queries that `Paid` was paid for."""
    return log.read_text().splitlines() if log.exists() else []

"""Scorers that wrap scorers, nested in each other, and small scorers for them to wrap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any
from zlib import crc32

from qwen_rerank import (
    CachedScorer,
    CascadeScorer,
    EmbeddedScorer,
    FallbackScorer,
    KeepOrder,
    Passage,
    PassageScorer,
    Scorer,
    Scores,
    ServiceError,
    Usage,
)

__all__ = ["NESTED", "WRAPS", "Down", "Piecewise", "Pointwise", "nested"]


class Pointwise(Scorer):
    """Gives each query and text a score of its own in [0, 1), and records what it is asked."""

    def __init__(self, model: str = "pointwise") -> None:
        self._model = model
        self.asked: list[Sequence[str]] = []
        self.closed = 0

    @property
    def model(self) -> str:
        return self._model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        return ("Pointwise", self._model)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.asked.append(texts)
        usage = Usage(requests=1, tokens=10, texts_sent=len(texts), cost=0.5)
        return Scores([self.score_of(query, text) for text in texts], usage)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        await asyncio.sleep(0)
        return self.score(query, texts)

    def close(self) -> None:
        self.closed += 1

    def score_of(self, query: str, text: str) -> float:
        asked = f"{self._model}\0{query}\0{text}"
        return crc32(asked.encode("utf-8", "surrogatepass")) / 2**32

    def __repr__(self) -> str:
        return self._model


class Piecewise(Pointwise):
    """Returns as passage all but the first character of a text, if there is more."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        passages = [Passage(1, len(text)) if len(text) > 1 else None for text in texts]
        return replace(super().score(query, texts), passages=passages)


class Down(Pointwise):
    """Fails in every call."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.asked.append(texts)
        raise ServiceError(f"No answer to {query!r}.", code="Down", status=503, request_id="r-1")


WRAPS: dict[str, Callable[[Scorer], Scorer]] = {
    "cached": lambda scorer: CachedScorer(scorer, {}),
    "fallback": lambda scorer: FallbackScorer(scorer, KeepOrder()),
    "cascade": lambda scorer: CascadeScorer(EmbeddedScorer(), scorer, keep=4),
    "passages": lambda scorer: PassageScorer(scorer),
}
"""Wrappers that don't change the scores of up to four texts."""


def nested(names: Sequence[str], scorer: Scorer) -> Scorer:
    """Wrap the scorer in these wrappers, the first one outermost."""
    for name in reversed(names):
        scorer = WRAPS[name](scorer)
    return scorer


def _make_sense(names: Sequence[str]) -> bool:
    """A cache can't be around a scorer whose scores depend on the other texts."""
    return "cached" not in names or "cascade" not in names[names.index("cached") :]


NESTED = [
    *(names for size in (1, 2) for names in permutations(WRAPS, size) if _make_sense(names)),
    ("fallback", "cascade", "cached", "passages"),
]
"""Each wrapper alone, every pair in every order that makes sense, and all of them together."""

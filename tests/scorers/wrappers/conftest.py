"""Both ways to ask a scorer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from qwen_rerank import Scorer, Scores

Score = Callable[[Scorer, str, Sequence[str]], Scores]


def _sync(scorer: Scorer, query: str, texts: Sequence[str]) -> Scores:
    return scorer.score(query, texts)


def _async(scorer: Scorer, query: str, texts: Sequence[str]) -> Scores:
    return asyncio.run(scorer.ascore(query, texts))


WAYS: list[Score] = [_sync, _async]


@pytest.fixture(params=WAYS, ids=["sync", "async"])
def score(request: pytest.FixtureRequest) -> Score:
    """Score, and ascore in a loop of its own."""
    chosen: Score = request.param
    return chosen

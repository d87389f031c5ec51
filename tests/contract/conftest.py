"""Both scorers, each with what it is asked to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from qwen_rerank import DashScopeScorer, EmbeddedScorer, Scorer, Scores


@dataclass
class Watched(Scorer):
    """A scorer whose work is another's, and which keeps the texts that it was given."""

    scorer: Scorer
    sent: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent += texts
        return self.scorer.score(query, texts)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent += texts
        return await self.scorer.ascore(query, texts)


@pytest.fixture(params=[DashScopeScorer, EmbeddedScorer])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    if request.param is DashScopeScorer:
        request.getfixturevalue("dashscope")
    made: Scorer = request.param()
    return made


@pytest.fixture
def watched(scorer: Scorer) -> Watched:
    return Watched(scorer)

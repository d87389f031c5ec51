"""Images through the scorers that wrap scorers: taken where all of them take them, and whole."""

from __future__ import annotations

import pytest

from qwen_rerank import (
    CachedScorer,
    CascadeScorer,
    Content,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    PassageScorer,
    Record,
    RerankEngine,
    Scorer,
)
from tests.support.loopback import LoopbackDashScope

MODEL = "qwen3-vl-rerank"

CONTENTS = [
    Content(image="https://images.example/a.png?score=0.4"),
    Content("a penguin", "https://images.example/a.png?score=0.9"),
    "score=0.6",
]


def order(scorer: Scorer) -> list[str]:
    records = [Record(str(place), {"content": each}) for place, each in enumerate(CONTENTS)]
    engine = RerankEngine(scorer, rerank_field="content")
    return [record.id for record in engine.rerank("penguins", records)]


def test_they_go_through_all_wrappers(dashscope: LoopbackDashScope) -> None:
    whole = FallbackScorer(PassageScorer(DashScopeScorer(MODEL)), KeepOrder())
    cached = CachedScorer(whole, {})
    scorer = CascadeScorer(cached, DashScopeScorer(MODEL), 2)
    assert order(scorer) == ["1", "2", "0"]
    sent = len(dashscope.received)
    assert order(cached) == ["1", "2", "0"]
    assert len(dashscope.received) == sent


def test_an_image_is_not_taken_for_its_text_nor_for_another_image(
    dashscope: LoopbackDashScope,
) -> None:
    scorer = CachedScorer(DashScopeScorer(MODEL), {})
    images = [
        Content("a", "https://images.example/a.png?score=0.1"),
        Content("a", "https://images.example/a.png?score=0.2"),
        Content(None, "https://images.example/a.png?score=0.2"),
        "a",
        '["a", "https://images.example/a.png?score=0.2", null]',
    ]
    for image in images:
        assert scorer.score("penguins", [image]).usage.cache_hits == 0
    assert scorer.score("penguins", images).usage.cache_hits == len(images)


def test_a_query_with_an_image_has_its_own_scores(dashscope: LoopbackDashScope) -> None:
    scorer = CachedScorer(DashScopeScorer(MODEL), {})
    scorer.score("a", ["score=0.1"])
    query = Content("a", "https://images.example/a.png?score=0.1")
    assert scorer.score(query, ["score=0.1"]).usage.cache_hits == 0


def test_they_are_refused_where_one_of_the_scorers_takes_only_texts(
    dashscope: LoopbackDashScope,
) -> None:
    for scorer in (
        FallbackScorer(DashScopeScorer(MODEL), EmbeddedScorer()),
        CascadeScorer(EmbeddedScorer(), DashScopeScorer(MODEL), 2),
    ):
        with pytest.raises(InvalidInputError, match="holds an image"):
            order(scorer)
    assert not dashscope.received

"""Images in scorers that wrap scorers: accepted if all the wrapped scorers accept them."""

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
from qwen_rerank.testing.loopback import LoopbackDashScope

MODEL = "qwen3-vl-rerank"

CONTENTS = [
    Content(image="https://images.example/a.png?score=0.4"),
    Content("a penguin", "https://images.example/a.png?score=0.9"),
    "score=0.6",
]


def order(scorer: Scorer) -> list[str]:
    records = [Record(str(index), {"content": item}) for index, item in enumerate(CONTENTS)]
    engine = RerankEngine(scorer, rerank_field="content")
    return [record.id for record in engine.rerank("penguins", records)]


def test_images_pass_through_all_wrappers(dashscope: LoopbackDashScope) -> None:
    whole = FallbackScorer(PassageScorer(DashScopeScorer(MODEL)), KeepOrder())
    cached = CachedScorer(whole, {})
    scorer = CascadeScorer(cached, DashScopeScorer(MODEL), 2)
    assert order(scorer) == ["1", "2", "0"]
    sent = len(dashscope.received)
    assert order(cached) == ["1", "2", "0"]
    assert len(dashscope.received) == sent


def test_the_cache_tells_images_from_texts_and_other_images(
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


def test_the_cache_tells_a_query_with_an_image_from_its_text(dashscope: LoopbackDashScope) -> None:
    scorer = CachedScorer(DashScopeScorer(MODEL), {})
    scorer.score("a", ["score=0.1"])
    query = Content("a", "https://images.example/a.png?score=0.1")
    assert scorer.score(query, ["score=0.1"]).usage.cache_hits == 0


def test_images_are_refused_if_one_of_the_scorers_accepts_only_text(
    dashscope: LoopbackDashScope,
) -> None:
    for scorer in (
        FallbackScorer(DashScopeScorer(MODEL), EmbeddedScorer()),
        CascadeScorer(EmbeddedScorer(), DashScopeScorer(MODEL), 2),
    ):
        with pytest.raises(InvalidInputError, match="holds an image"):
            order(scorer)
    assert not dashscope.received

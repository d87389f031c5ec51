"""Images and videos with qwen3-vl-rerank: the bytes of requests, and their batching."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwen_rerank import (
    Content,
    DashScopeScorer,
    InvalidInputError,
    Limits,
    QwenReRanker,
    Record,
    Scores,
    ServerScorer,
)
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.http.batching import plan
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope, token_count
from tests.support.media import MP4, PNG, PNG_URI

MODEL = "qwen3-vl-rerank"

Score = Callable[[DashScopeScorer, Item, Sequence[Item]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Score, or await a score."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, items: asyncio.run(scorer.ascore(query, items))


def image(score: float, text: str | None = None) -> Content:
    """An image to which the loopback service gives this score."""
    return Content(text, f"https://images.example/a.png?score={score}")


def video(score: float) -> Content:
    return Content(video=f"https://videos.example/a.mp4?score={score}")


# --- Requests


def body(query: str, documents: str) -> bytes:
    """Return the bytes of a request."""
    return (
        f'{{"model":"{MODEL}","input":{{"query":{query},"documents":[{documents}]}},'
        '"parameters":{"return_documents":false}}'
    ).encode()


@pytest.mark.parametrize(
    ("query", "item", "sent"),
    [
        ("q", "é", body('{"text":"q"}', '{"text":"é"}')),
        ("q", Content("é"), body('{"text":"q"}', '{"text":"é"}')),
        (
            "q",
            Content(image="https://a.example/é.png?k=1&l=2"),
            body('{"text":"q"}', '{"image":"https://a.example/é.png?k=1&l=2"}'),
        ),
        ("q", Content(image=PNG), body('{"text":"q"}', f'{{"image":"{PNG_URI}"}}')),
        (
            "q",
            Content("a", PNG),
            body('{"text":"q"}', f'{{"text":"a","image":"{PNG_URI}"}}'),
        ),
        (
            "q",
            Content(video="https://a.example/b.mp4"),
            body('{"text":"q"}', '{"video":"https://a.example/b.mp4"}'),
        ),
        (
            "q",
            Content(video=MP4),
            body(
                '{"text":"q"}', '{"video":"data:video/mp4;base64,AAAAGGZ0eXBtcDQyAAAAAG1wNDJpc29t"}'
            ),
        ),
        (Content(image=PNG), "a", body(f'{{"image":"{PNG_URI}"}}', '{"text":"a"}')),
        (Content("q", PNG), "a", body(f'{{"text":"q","image":"{PNG_URI}"}}', '{"text":"a"}')),
        (
            Content(video="https://a.example/b.mp4"),
            Content(image=PNG),
            body('{"video":"https://a.example/b.mp4"}', f'{{"image":"{PNG_URI}"}}'),
        ),
    ],
)
def test_the_request_has_exactly_these_bytes(
    dashscope: LoopbackDashScope, score: Score, query: Item, item: Item, sent: bytes
) -> None:
    score(DashScopeScorer(MODEL), query, [item])
    assert [request.raw for request in dashscope.received] == [sent]


def test_a_file_is_read_when_the_content_is_made(
    dashscope: LoopbackDashScope, tmp_path: Path
) -> None:
    file = tmp_path / "penguin.png"
    file.write_bytes(PNG)
    content = Content(image=file)
    file.unlink()
    DashScopeScorer(MODEL).score("q", [content])
    assert dashscope.received[0].documents == [{"image": PNG_URI}]


def test_a_large_image_is_sent_whole_also_when_retried(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    large = Content(image=PNG + bytes(3 * 2**20))
    dashscope.faults.append(refuses(503, "ServiceUnavailable"))
    assert score(DashScopeScorer(MODEL), "q", [large]).usage.retries == 1
    assert [request.documents for request in dashscope.received] == [[{"image": large.image}]] * 2


def test_scores_are_in_the_order_of_the_items(dashscope: LoopbackDashScope, score: Score) -> None:
    items = ["text score=0.1", image(0.9), video(0.4), image(0.2, "with text"), "text score=0.5"]
    scores = score(DashScopeScorer(MODEL), "q", items)
    assert scores.values == [0.1, 0.9, 0.4, 0.2, 0.5]
    assert (scores.usage.requests, scores.usage.texts_sent) == (3, 5)


def test_images_are_ranked_through_a_reranker(dashscope: LoopbackDashScope) -> None:
    fields = [{"x": "score=0.3"}, {"x": image(0.7)}, {"x": [image(0.5), "caption"]}]
    records = [Record(str(index), each) for index, each in enumerate(fields)]
    reranker = QwenReRanker(Content(image=PNG), model=MODEL, rerank_field="x")
    assert [record.id for record in reranker.rerank([records])] == ["1", "2", "0"]
    assert {json.dumps(request.query) for request in dashscope.received} == {
        json.dumps({"image": PNG_URI})
    }
    assert repr(reranker).startswith("QwenReRanker(query=Content(image=data:image/png;base64,…")


# --- Batching


def test_texts_images_and_videos_are_in_separate_requests_within_their_own_limits(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    items: list[Item] = [f"{index} score=0.5" for index in range(101)]
    items += [image(index / 1_000, str(index) if index % 2 else None) for index in range(41)]
    items += [video(index / 1_000) for index in range(5)]
    score(DashScopeScorer(MODEL, max_concurrency=1), "q", items[::-1])
    kinds = [
        Counter("video" in each or ("image" in each and "image") for each in request.documents)
        for request in dashscope.received
    ]
    assert all(len(kind) == 1 for kind in kinds)
    assert sorted(sum(kind.values()) for kind in kinds) == [2, 3, 20, 21, 50, 51]


def test_your_own_limits_apply_to_images_and_videos_too(dashscope: LoopbackDashScope) -> None:
    scorer = DashScopeScorer(MODEL, limits=Limits(images=2, videos=1), max_concurrency=1)
    scorer.score("q", [image(index / 10) for index in range(4)] + [video(0.1), video(0.2)])
    assert sorted(len(request.documents) for request in dashscope.received) == [1, 1, 2, 2]


def test_the_item_limit_applies_to_the_text_with_an_image(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    DashScopeScorer(MODEL).score("q", [image(0.2), image(0.1, "word " * 8_001)])
    assert "1 of 3 items (the query and the texts) exceed the 8000 tokens" in caplog.text


def test_a_query_over_the_item_limit_counts_once_with_several_kinds_of_items() -> None:
    found = [image(0.2), "text", video(0.1), "word " * 21]
    assert plan("word " * 21, found, Limits(item_tokens=20), 1, token_count).oversized == [0, 4]


items = st.lists(
    st.text("ab ", min_size=1)
    | st.builds(image, st.floats(0, 1), st.none() | st.text("ab ", max_size=30))
    | st.builds(video, st.floats(0, 1)),
    max_size=40,
)
limits = st.builds(
    Limits,
    documents=st.integers(1, 9),
    item_tokens=st.integers(1, 20),
    request_tokens=st.integers(1, 60),
    images=st.integers(1, 5),
    videos=st.integers(1, 2),
)


@given(items, limits, st.integers(1, 5), st.booleans())
def test_every_item_is_in_one_request_of_its_kind_within_the_limits(
    items: list[Item], limits: Limits, concurrency: int, exact: bool
) -> None:
    planned = plan("q", items, limits, concurrency, token_count, exact=exact)
    assume(not planned.oversized)
    assert sorted(chain.from_iterable(planned.requests)) == list(range(len(items)))
    for request in planned.requests:
        held = {kind(items[index]) for index in request}
        assert len(held) == 1
        assert len(request) <= getattr(limits, held.pop())


def kind(item: Item) -> str:
    """Return the name of the limit for an item."""
    if isinstance(item, str) or item.modalities == {"text"}:
        return "documents"
    return "videos" if item.video else "images"


# --- Models and servers that read texts only


@pytest.mark.parametrize("asked", [("q", [image(0.1)]), (Content("q", PNG), ["a"])])
def test_an_image_is_refused_for_a_model_that_reads_only_texts(
    dashscope: LoopbackDashScope, score: Score, asked: Any
) -> None:
    with pytest.raises(InvalidInputError, match="which qwen3-rerank does not accept"):
        score(DashScopeScorer("qwen3-rerank"), *asked)
    server = ServerScorer(f"{dashscope.root}/v1/rerank")
    with pytest.raises(InvalidInputError, match="holds an image"):
        server.score(*asked)
    assert not dashscope.received


def test_a_surrogate_among_images_is_named_by_its_index() -> None:
    with pytest.raises(InvalidInputError, match="Text 1"):
        plan("q", [image(0.1), "\ud800"], Limits(), 1, token_count)

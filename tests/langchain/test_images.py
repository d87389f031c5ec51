"""Images: content blocks in the metadata, Contents, and a query that is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.messages.content import create_image_block, create_text_block

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import Content, InvalidInputError
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.media import PNG, PNG_URI

Compress = Callable[..., list[Document]]

URL = "https://images.example/a.png"


def reranker(**options: Any) -> QwenRerank:
    return QwenRerank(model="qwen3-vl-rerank", **options)


MESSAGE = HumanMessage([create_text_block("A"), create_image_block(url=URL)])


@pytest.mark.parametrize(
    ("rerank_field", "document"),
    [
        ("photo", {"image": URL}),
        ("blocks", {"text": "A", "image": URL}),
        ("openai", {"text": "A", "image": PNG_URI}),
        (["title", "photo"], {"text": "title: T", "image": URL}),
        ("{content} ({title}){photo}", {"text": "body (T)", "image": URL}),
        (lambda found: Content(found.page_content, image=PNG), {"text": "body", "image": PNG_URI}),
        (lambda found: found.metadata["blocks"], {"text": "A", "image": URL}),
        (None, {"text": "body"}),
    ],
)
def test_image_blocks_in_the_metadata_are_sent(
    dashscope: LoopbackDashScope, compress: Compress, rerank_field: Any, document: Any
) -> None:
    metadata = {
        "title": "T",
        "photo": {"type": "image", "url": URL},
        "blocks": MESSAGE.content_blocks,
        "openai": [
            {"type": "text", "text": "A"},
            {"type": "image_url", "image_url": {"url": PNG_URI}},
        ],
    }
    found = Document(page_content="body", metadata=metadata)
    (ranked,) = compress(reranker(rerank_field=rerank_field), [found], "q")
    assert [request.documents for request in dashscope.received] == [[document]]
    assert ranked.metadata == {**metadata, "relevance_score": 0.0}


def test_texts_and_images_are_ranked_together(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [
        Document(page_content="", id=str(score), metadata={"x": value})
        for score, value in (
            (0.3, "score=0.3"),
            (0.9, {"type": "image", "url": f"{URL}?score=0.9"}),
            (0.5, Content("text", f"{URL}?score=0.5")),
        )
    ]
    ranked = compress(reranker(rerank_field="x"), found, "q")
    assert [document.id for document in ranked] == ["0.9", "0.5", "0.3"]


def test_contents_are_ranked_without_documents(
    dashscope: LoopbackDashScope, rank: Callable[..., list[dict[str, Any]]]
) -> None:
    given = ["score=0.3", Content(image=f"{URL}?score=0.9"), {"page_content": "score=0.5"}]
    assert [entry["index"] for entry in rank(reranker(), given, Content(image=PNG))] == [1, 2, 0]


class Runs(BaseCallbackHandler):
    """Keeps what the runs were given."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **_: Any) -> None:
        self.inputs.append(inputs)


def test_a_query_with_an_image_is_sent_and_told_without_its_data(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    runs = Runs()
    found = [Document(page_content="score=0.3")]
    compress(reranker(), found, Content("q", PNG), callbacks=[runs])
    assert [request.query for request in dashscope.received] == [{"text": "q", "image": PNG_URI}]
    told = f"Content(text='q', image=data:image/png;base64,… ({len(PNG_URI)} characters))"
    assert runs.inputs == [{"query": told, "documents": found}]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"type": "image", "url": URL}, "Document 'd1' holds an image, which qwen3-rerank"),
        ({"type": "audio", "url": URL}, "x of document 'd1': A content block of type 'audio'"),
    ],
)
def test_an_image_that_cannot_be_ranked_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, compress: Compress, value: Any, named: str
) -> None:
    found = [Document(page_content="a", id="d1", metadata={"x": value})]
    with pytest.raises(InvalidInputError, match=named):
        compress(QwenRerank(rerank_field="x"), found, "q")
    assert not dashscope.received

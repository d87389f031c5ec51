"""Images and videos of nodes, and the image of a query."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.schema import (
    BaseNode,
    ImageDocument,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

from llamaindex_qwen_rerank import QwenRerank
from qwen_rerank import Content, EmbeddedScorer, InvalidInputError
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.media import MP4, PNG, PNG_URI

Postprocess = Callable[..., list[NodeWithScore]]

URL = "https://images.example/a.png"
BASE64 = b64encode(PNG).decode()
VIDEO_URI = f"data:video/mp4;base64,{b64encode(MP4).decode()}"


@pytest.fixture
def penguin(tmp_path: Path) -> Path:
    file = tmp_path / "penguin.png"
    file.write_bytes(PNG)
    return file


def reranker(**options: Any) -> QwenRerank:
    return QwenRerank(model="qwen3-vl-rerank", **options)


def sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, node: BaseNode, **options: Any
) -> Any:
    """What the service got of a node."""
    (ranked,) = postprocess(reranker(**options), [NodeWithScore(node=node)], query_str="q")
    assert ranked.node is node
    ((document,),) = [request.documents for request in dashscope.received]
    return document


def resource(**held: Any) -> MediaResource:
    return MediaResource(**held)


@pytest.mark.parametrize(
    ("node", "document"),
    [
        (ImageNode(image=BASE64), {"image": PNG_URI}),
        (ImageNode(image=BASE64, image_mimetype="image/png"), {"image": PNG_URI}),
        (ImageNode(image_url=URL), {"image": URL}),
        (ImageNode(image=BASE64, image_url=URL), {"image": PNG_URI}),
        (ImageNode(text="A penguin", image_url=URL), {"text": "A penguin", "image": URL}),
        (ImageNode(text="A penguin"), {"text": "A penguin"}),
        (Node(image_resource=resource(data=PNG)), {"image": PNG_URI}),
        (Node(image_resource=resource(url=URL)), {"image": URL}),
        (
            Node(text_resource=resource(text="A"), image_resource=resource(url=URL)),
            {"text": "A", "image": URL},
        ),
        (Node(video_resource=resource(data=MP4)), {"video": VIDEO_URI}),
        (
            Node(video_resource=resource(url="https://a.example/b")),
            {"video": "https://a.example/b"},
        ),
        (Node(text_resource=resource(text="A")), {"text": "A"}),
        (ImageDocument(text="A", image=BASE64), {"text": "A", "image": PNG_URI}),
        (TextNode(text="A"), {"text": "A"}),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseNode) else "",
)
def test_a_node_is_sent_with_its_image_or_video(
    dashscope: LoopbackDashScope, postprocess: Postprocess, node: BaseNode, document: Any
) -> None:
    assert sent(dashscope, postprocess, node) == document


def test_a_file_is_read_if_it_is_in_an_allowed_folder(
    dashscope: LoopbackDashScope, postprocess: Postprocess, penguin: Path
) -> None:
    for node in (
        ImageNode(image_path=str(penguin), image_url=URL),
        Node(image_resource=resource(path=penguin, url=URL)),
    ):
        with pytest.raises(InvalidInputError, match=r"Node '.*penguin\.png'.*allowed_media="):
            sent(dashscope, postprocess, node)
        assert dashscope.received == []
        allowed = [penguin.parent]
        document = sent(dashscope, postprocess, node, allowed_media=allowed)
        assert document == {"image": PNG_URI}
        dashscope.received.clear()


def test_a_node_may_not_name_an_address_of_the_local_network(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    url = "http://169.254.169.254/latest/meta-data"
    for node in (ImageNode(image_url=url), Node(video_resource=resource(url=url))):
        with pytest.raises(InvalidInputError, match=r"Node '.*local network.*allowed_media="):
            sent(dashscope, postprocess, node)
    assert dashscope.received == []


def test_the_text_is_that_of_the_metadata_mode(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    node = ImageNode(text="A", image_url=URL, metadata={"page": 7})
    assert sent(dashscope, postprocess, node) == {"text": "page: 7\n\nA", "image": URL}
    dashscope.received.clear()
    document = sent(dashscope, postprocess, node, metadata_mode=MetadataMode.NONE)
    assert document == {"text": "A", "image": URL}


@pytest.mark.parametrize(
    ("rerank_field", "document"),
    [
        ("title", {"text": "T"}),
        (["title", "content"], {"text": "title: T\ncontent: A", "image": URL}),
        ("{title}: {content}", {"text": "T: A", "image": URL}),
        (lambda scored: scored.node.text, {"text": "A"}),
        (lambda scored: Content(image=scored.node.image_url), {"image": URL}),
        ("photo", {"image": "https://images.example/b.png"}),
    ],
)
def test_rerank_field_says_whether_the_image_is_sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, rerank_field: Any, document: Any
) -> None:
    photo = [{"type": "image", "url": "https://images.example/b.png"}]
    node = ImageNode(text="A", image_url=URL, metadata={"title": "T", "photo": photo})
    options = {"rerank_field": rerank_field, "metadata_mode": MetadataMode.NONE}
    assert sent(dashscope, postprocess, node, **options) == document


def test_nodes_of_all_kinds_are_ranked_together(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    nodes = [
        TextNode(text="score=0.3", id_="text"),
        ImageNode(image_url=f"{URL}?score=0.7", id_="image"),
        ImageNode(image_url=f"{URL}?score=0.7", text="again", id_="image and text"),
        Node(video_resource=resource(url=f"{URL}?score=0.5"), id_="video"),
    ]
    found = [NodeWithScore(node=node) for node in nodes]
    ranked = postprocess(reranker(top_n=None), found, query_str="q")
    assert [scored.node.node_id for scored in ranked] == [
        "image",
        "image and text",
        "video",
        "text",
    ]
    assert [scored.score for scored in ranked] == [0.7, 0.7, 0.5, 0.3]


@pytest.mark.parametrize("text", ["q", ""])
def test_the_image_of_a_query_is_sent_and_its_text_told(
    dashscope: LoopbackDashScope, postprocess: Postprocess, penguin: Path, text: str
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    query = QueryBundle(text, image_path=str(penguin))
    rerank = reranker(callback_manager=CallbackManager([debug]))
    postprocess(rerank, [NodeWithScore(node=TextNode(text="score=0.3"))], query_bundle=query)
    expected = {"text": text, "image": PNG_URI} if text else {"image": PNG_URI}
    assert [request.query for request in dashscope.received] == [expected]
    ((start, _),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (start.payload or {})[EventPayload.QUERY_STR] == text


IMAGE = ImageNode(image_url=URL, id_="n1")


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (IMAGE, "'n1' holds an image, which qwen3-rerank does not accept"),
        (ImageNode(image_path="gone.png", id_="n2"), r"Node 'n2': .* file 'gone\.png'"),
        (ImageNode(image="?", id_="n3"), "Node 'n3': The base64 data"),
        (Node(image_resource=resource(data=b"%PDF-1.7 "), id_="n4"), "Node 'n4': image must be a "),
        (
            Node(image_resource=resource(url=URL), video_resource=resource(url=URL), id_="n5"),
            "Node 'n5': .* only one of image, video and frames",
        ),
    ],
    ids=lambda each: each.node_id if isinstance(each, BaseNode) else "",
)
def test_an_image_that_cannot_be_ranked_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, node: BaseNode, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=named):
        postprocess(QwenRerank(), [NodeWithScore(node=node)], query_str="q")
    assert not dashscope.received


def test_a_scorer_of_texts_ranks_image_nodes_by_their_texts_if_told_to(
    postprocess: Postprocess,
) -> None:
    found = [
        NodeWithScore(node=ImageNode(text=text, image_url=URL))
        for text in ("markets fell", "penguins swim")
    ]
    by_text = QwenRerank(scorer=EmbeddedScorer(), rerank_field=lambda scored: scored.node.text)
    assert [scored.text for scored in postprocess(by_text, found, query_str="penguins")] == [
        "penguins swim",
        "markets fell",
    ]


def test_a_query_with_an_image_needs_a_model_that_takes_it(
    dashscope: LoopbackDashScope, postprocess: Postprocess, penguin: Path
) -> None:
    found = [NodeWithScore(node=TextNode(text="a"))]
    with pytest.raises(InvalidInputError, match="The query holds an image"):
        postprocess(QwenRerank(), found, query_bundle=QueryBundle("q", image_path=str(penguin)))
    assert not dashscope.received

"""QwenRerank for LlamaIndex: nodes in, the same nodes out, best first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)

from llamaindex_qwen_rerank import QwenRerank
from qwen_rerank import InvalidInputError, KeepOrder, Passage, Scorer, Scores, ServiceError
from qwen_rerank.testing import FakeScorer, PostprocessorTests
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.scorers import AsyncOnly

Postprocess = Callable[..., list[NodeWithScore]]

QUERY = "What do penguins eat?"


def node(text: str, score: float | None = None, **options: Any) -> NodeWithScore:
    return NodeWithScore(node=TextNode(text=text, **options), score=score)


def scored(score: float, **metadata: Any) -> NodeWithScore:
    """A node that the loopback service gives this score."""
    return node(f"score={score} ", metadata=metadata)


def scores(nodes: list[NodeWithScore]) -> list[float | None]:
    return [found.score for found in nodes]


class TestPostprocessor(PostprocessorTests):
    @pytest.fixture
    def postprocessor(self) -> BaseNodePostprocessor:
        return QwenRerank(scorer=FakeScorer())


def test_equal_scores_keep_the_order_of_the_nodes(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = [node(f"score=0.5 {name}", id_=name) for name in "cab"]
    ranked = postprocess(QwenRerank(top_n=2), found, query_str=QUERY)
    assert [result.node.node_id for result in ranked] == ["c", "a"]


@pytest.mark.parametrize("query", [{"query_str": QUERY}, {"query_bundle": QueryBundle(QUERY)}])
def test_the_query_reaches_the_service(
    dashscope: LoopbackDashScope, postprocess: Postprocess, query: dict[str, Any]
) -> None:
    postprocess(QwenRerank(), [scored(0.1)], **query)
    assert [request.query for request in dashscope.received] == [QUERY]


def test_the_nodes_passed_in_are_not_changed(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = [node("score=0.2 ", 0.77, metadata={"page": 1}), node("score=0.9 ")]
    before = copy.deepcopy(found)
    for keep in (False, True):
        postprocess(QwenRerank(keep_retrieval_score=keep), found, query_str=QUERY)
    assert found == before


@pytest.mark.parametrize("keep", [False, True])
def test_identity_metadata_and_relationships_are_kept(
    dashscope: LoopbackDashScope, postprocess: Postprocess, keep: bool
) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="document")}
    found = node("score=0.2 ", id_="n1", metadata={"page": 1}, relationships=source)
    rerank = QwenRerank(keep_retrieval_score=keep)
    (ranked,) = postprocess(rerank, [found], query_str=QUERY)
    assert ranked.node.node_id == "n1"
    assert ranked.node.metadata["page"] == 1
    assert ranked.node.ref_doc_id == "document"
    assert ranked.node.hash == found.node.hash or keep


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "special",
    [
        ImageNode(text="score=0.4 ", image_url="https://images.example/penguin.png"),
        IndexNode(text="score=0.4 ", index_id="manual", obj=TextNode(text="whole chapter")),
        Document(text="score=0.4 "),
    ],
    ids=lambda special: type(special).__name__,
)
def test_nodes_of_every_kind_survive(
    dashscope: LoopbackDashScope, postprocess: Postprocess, special: Any, keep: bool
) -> None:
    rerank = QwenRerank(model="qwen3-vl-rerank", keep_retrieval_score=keep)
    (ranked,) = postprocess(rerank, [NodeWithScore(node=special, score=0.1)], query_str=QUERY)
    assert type(ranked.node) is type(special)
    kept = ranked.node.model_copy(
        update={
            "metadata": special.metadata,
            "excluded_llm_metadata_keys": special.excluded_llm_metadata_keys,
            "excluded_embed_metadata_keys": special.excluded_embed_metadata_keys,
        }
    )
    assert kept == special
    assert ranked.score == 0.4


@pytest.mark.parametrize(("top_n", "expected"), [(1, 1), (3, 3), (50, 5), (None, 5)])
def test_top_n_bounds_the_answer(
    dashscope: LoopbackDashScope, postprocess: Postprocess, top_n: int | None, expected: int
) -> None:
    found = [scored(number / 10) for number in range(5)]
    ranked = postprocess(QwenRerank(top_n=top_n), found, query_str=QUERY)
    assert scores(ranked) == [0.4, 0.3, 0.2, 0.1, 0.0][:expected]


def test_nodes_under_min_score_are_left_out(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = [scored(0.49), scored(0.5), scored(0.9)]
    assert scores(postprocess(QwenRerank(min_score=0.5), found, query_str=QUERY)) == [0.9, 0.5]


@pytest.mark.parametrize(
    "blank",
    [
        node(""),
        node(" \n\t"),
        node("\u3000"),
    ],
    ids=["empty", "blank", "wide blank"],
)
def test_a_node_without_text_is_skipped(
    dashscope: LoopbackDashScope, postprocess: Postprocess, blank: NodeWithScore
) -> None:
    ranked = postprocess(QwenRerank(), [blank, scored(0.1)], query_str=QUERY)
    assert scores(ranked) == [0.1]
    assert dashscope.received[0].documents == ["score=0.1 "]


def test_nodes_without_text_are_kept_at_the_end_without_a_score(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    blanks = [node("", 0.99, id_="y"), node("", 0.98, id_="x")]
    ranked = postprocess(QwenRerank(missing="keep"), [*blanks, scored(0.1)], query_str=QUERY)
    assert [result.node.node_id for result in ranked[1:]] == ["y", "x"]
    assert scores(ranked) == [0.1, None, None]


def test_a_node_without_text_is_an_error_when_asked(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    with pytest.raises(InvalidInputError, match="empty-one"):
        postprocess(
            QwenRerank(missing="error"), [scored(0.1), node(" ", id_="empty-one")], query_str=QUERY
        )
    assert not dashscope.received


@pytest.mark.parametrize("found", [[], [node(" ")]])
def test_nothing_to_rank_makes_no_request(
    dashscope: LoopbackDashScope, postprocess: Postprocess, found: list[NodeWithScore]
) -> None:
    assert postprocess(QwenRerank(), found, query_str=QUERY) == []
    assert not dashscope.received


def test_no_node_of_an_iterator_is_lost(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = [scored(0.2), scored(0.9)]
    assert scores(postprocess(QwenRerank(), iter(found), query_str=QUERY)) == [0.9, 0.2]


@pytest.mark.parametrize("query", [{}, {"query_str": ""}, {"query_bundle": QueryBundle(" \n")}])
def test_a_missing_query_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, query: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError, match="query"):
        postprocess(QwenRerank(), [scored(0.1)], **query)
    assert not dashscope.received


def test_copies_of_a_node_are_one_and_different_texts_of_one_id_are_two(
    dashscope: LoopbackDashScope, postprocess: Postprocess, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = [node(f"score=0.{number} ", id_="same") for number in (3, 8, 3)]
    assert scores(postprocess(QwenRerank(), chunks, query_str=QUERY)) == [0.8, 0.3]
    assert "'same'" in caplog.text


def test_equal_texts_are_sent_once_and_all_come_back(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = [node("score=0.3 ", id_="a"), node("score=0.3 ", id_="b")]
    ranked = postprocess(QwenRerank(), found, query_str=QUERY)
    assert [result.node.node_id for result in ranked] == ["a", "b"]
    assert dashscope.received[0].documents == ["score=0.3 "]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, "title: Krill\nurl: /krill\n\nbody"),
        ({"metadata_mode": MetadataMode.EMBED}, "title: Krill\nurl: /krill\n\nbody"),
        ({"metadata_mode": MetadataMode.LLM}, "title: Krill\npage: 7\n\nbody"),
        ({"metadata_mode": MetadataMode.ALL}, "title: Krill\npage: 7\nurl: /krill\n\nbody"),
        ({"metadata_mode": MetadataMode.NONE}, "body"),
        ({"metadata_mode": "none"}, "body"),
    ],
)
def test_metadata_mode_says_which_metadata_are_sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, options: Any, sent: str
) -> None:
    found = node(
        "body",
        metadata={"title": "Krill", "page": 7, "url": "/krill"},
        excluded_embed_metadata_keys=["page"],
        excluded_llm_metadata_keys=["url"],
    )
    postprocess(QwenRerank(**options), [found], query_str=QUERY)
    assert dashscope.received[0].documents == [sent]


@pytest.mark.parametrize(
    ("rerank_field", "sent"),
    [
        ("content", "body"),
        ("title", "Title"),
        (["title", "summary"], "title: Title\nsummary: Summary"),
        (("title", "content"), "title: Title\ncontent: body"),
        (["title", "absent", "content"], "title: Title\ncontent: body"),
        ("{title}: {content}", "Title: body"),
        (lambda found: f"{found.node.metadata['title']}! {found.score}", "Title! 0.5"),
    ],
)
def test_rerank_field_says_what_is_sent(
    dashscope: LoopbackDashScope, postprocess: Postprocess, rerank_field: Any, sent: str
) -> None:
    metadata = {"title": "Title", "summary": "Summary", "content": "hidden by the node's own"}
    found = node("body", 0.5, metadata=metadata)
    rerank = QwenRerank(rerank_field=rerank_field, metadata_mode=MetadataMode.NONE)
    postprocess(rerank, [found], query_str=QUERY)
    assert dashscope.received[0].documents == [sent]


def test_the_retrieval_score_is_not_kept_unless_asked(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    (ranked,) = postprocess(QwenRerank(), [node("score=0.2 ", 0.77)], query_str=QUERY)
    assert ranked.node.metadata == {}


def test_a_kept_retrieval_score_is_out_of_the_models_sight(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    found = node("score=0.2 ", 0.77, metadata={"page": 1}, excluded_llm_metadata_keys=["page"])
    rerank = QwenRerank(keep_retrieval_score=True)
    (ranked,) = postprocess(rerank, [found], query_str=QUERY)
    assert ranked.score == 0.2
    assert ranked.node.metadata == {"page": 1, "retrieval_score": 0.77}
    assert ranked.node.get_content(MetadataMode.LLM) == "score=0.2 "
    assert ranked.node.get_content(MetadataMode.EMBED) == "page: 1\n\nscore=0.2"


def test_a_retrieval_score_of_numpy_is_returned_as_a_float(postprocess: Postprocess) -> None:
    found = node("krill", 0.0)
    found.score = numpy.float32(0.5)
    for scorer in (FakeScorer(), KeepOrder()):
        rerank = QwenRerank(scorer=scorer, keep_retrieval_score=True)
        (ranked,) = postprocess(rerank, [found], query_str=QUERY)
        assert {type(ranked.score), type(ranked.metadata["retrieval_score"])} == {float}
    assert ranked.score == 0.5


def test_a_second_reranking_sends_no_kept_score(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    rerank = QwenRerank(keep_retrieval_score=True)
    first = postprocess(rerank, [node("score=0.2 ", 0.77)], query_str=QUERY)
    (second,) = postprocess(rerank, first, query_str=QUERY)
    assert [request.documents for request in dashscope.received] == [["score=0.2 "]] * 2
    assert second.node.excluded_llm_metadata_keys == ["retrieval_score"]


class Cut(Scorer):
    """Scores the middle of each text."""

    model = "cut"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([0.5] * len(texts), passages=[Passage(1, len(text) - 1) for text in texts])


def test_the_passage_that_won_is_kept_when_asked(postprocess: Postprocess) -> None:
    found = [node("(krill)")]
    (kept,) = postprocess(QwenRerank(scorer=Cut(), keep_passage=True), found, query_str=QUERY)
    assert kept.node.metadata == {"passage": [1, 6]}
    assert kept.node.get_content(MetadataMode.LLM) == "(krill)"
    (plain,) = postprocess(QwenRerank(scorer=Cut()), found, query_str=QUERY)
    assert plain.node is found[0].node


def test_a_failure_of_the_service_is_raised(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError) as caught:
        postprocess(QwenRerank(max_retries=0), [scored(0.1)], query_str=QUERY)
    assert (caught.value.code, caught.value.status) == ("InternalError", 500)


async def test_the_asynchronous_method_awaits_the_scorer() -> None:
    rerank = QwenRerank(scorer=AsyncOnly())
    ranked = await rerank.apostprocess_nodes([node("a"), node("abc")], query_str=QUERY)
    assert scores(ranked) == [3.0, 1.0]

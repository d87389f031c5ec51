"""QwenReRanker: the interface of zvec, and a real zvec collection that uses it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import zvec

from qwen_rerank import EmbeddedScorer, InvalidInputError, QwenReRanker, Record
from qwen_rerank.testing.loopback import LoopbackDashScope


def doc(id_: str, content: str | None, score: float = 0.0) -> zvec.Doc:
    return zvec.Doc(id=id_, score=score, fields={"content": content, "other": f"{id_} of {score}"})


def test_it_has_zvecs_properties_and_defaults(dashscope: LoopbackDashScope) -> None:
    reranker = QwenReRanker("my query")
    assert (reranker.query, reranker.topn) == ("my query", 10)
    assert (reranker.rerank_field, reranker.model) == ("content", "gte-rerank-v2")


@pytest.mark.parametrize("results", ["dict", "list"])
@pytest.mark.parametrize("run", ["rerank", "arerank"])
def test_the_documents_of_all_lists_are_ranked_together_and_returned_once(
    dashscope: LoopbackDashScope, results: str, run: str
) -> None:
    dense = [doc("a", "score=0.2", 0.9), doc("b", "score=0.7", 0.8), doc("c", "", 0.7)]
    sparse = [doc("b", "score=0.7", 0.1), doc("d", "score=0.5", 0.1), doc("e", None)]
    both: Any = {"dense": dense, "sparse": sparse} if results == "dict" else [dense, sparse]
    reranker = QwenReRanker("q")
    ranked = reranker.rerank(both) if run == "rerank" else asyncio.run(reranker.arerank(both))
    assert [(each.id, each.score) for each in ranked] == [("b", 0.7), ("d", 0.5), ("a", 0.2)]
    assert all(isinstance(each, zvec.Doc) for each in ranked)
    assert ranked[0].field("other") == "b of 0.1"  # the better-ranked copy
    assert dense[1].score == 0.8
    assert [len(request.documents) for request in dashscope.received] == [3]


@dataclass(frozen=True)
class Frozen:
    id: str
    score: float
    fields: dict[str, Any]


class Row(NamedTuple):
    id: int
    score: float
    fields: dict[str, Any]


@pytest.mark.parametrize(
    "document",
    [
        Record("1", {"content": "score=0.5"}, 0.1),
        Frozen("1", 0.1, {"content": "score=0.5"}),
        Row(1, 0.1, {"content": "score=0.5"}),
        SimpleNamespace(id=None, score=None, fields={"content": "score=0.5"}),
    ],
    ids=lambda document: type(document).__name__,
)
def test_any_document_with_an_id_a_score_and_fields_is_returned_as_a_scored_copy(
    dashscope: LoopbackDashScope, document: Any
) -> None:
    before = repr(document)
    (ranked,) = QwenReRanker("q").rerank([[document]])
    assert (type(ranked), ranked.id, ranked.score) == (type(document), document.id, 0.5)
    assert repr(document) == before


@pytest.mark.parametrize("results", [[], {}, [[], []], {"dense": []}, [[doc("a", " ")]]])
def test_nothing_to_rank_gives_an_empty_list_without_a_request(
    dashscope: LoopbackDashScope, results: Any
) -> None:
    assert QwenReRanker("q").rerank(results) == []
    assert dashscope.received == []


def test_topn_of_the_call_overrides_that_of_the_reranker(dashscope: LoopbackDashScope) -> None:
    documents = [[doc(str(number), f"score=0.{number}") for number in range(1, 6)]]
    reranker = QwenReRanker("q", topn=2)
    assert [each.id for each in reranker.rerank(documents)] == ["5", "4"]
    assert [each.id for each in reranker.rerank(documents, 1)] == ["5"]
    with pytest.raises(InvalidInputError, match="got 0"):
        reranker.rerank(documents, 0)


def test_options_reach_the_service(dashscope: LoopbackDashScope) -> None:
    reranker = QwenReRanker(
        "q",
        rerank_field=["other", "content"],
        model="qwen3-rerank",
        instruct="Find.",
        min_score=0.4,
    )
    ranked = reranker.rerank([[doc("a", "score=0.5", 3.0), doc("b", "score=0.3", 3.0)]])
    assert [each.id for each in ranked] == ["a"]
    (request,) = dashscope.received
    assert (request.model, request.parameters["instruct"]) == ("qwen3-rerank", "Find.")
    assert request.documents[0] == "other: a of 3.0\ncontent: score=0.5"


def test_a_scorer_can_replace_the_service() -> None:
    reranker = QwenReRanker("where do penguins live", scorer=EmbeddedScorer())
    documents = [[doc("a", "Stocks fell."), doc("b", "Penguins live on the ice.")]]
    assert reranker.model == "embedded"
    assert [each.id for each in reranker.rerank(documents)] == ["b", "a"]


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        ({"query": ""}, "query"),
        ({"query": " "}, "query"),
        ({"query": None}, "query"),
        ({"query": "q", "topn": 0}, "topn"),
        ({"query": "q", "rerank_field": ""}, "rerank_field"),
        ({"query": "q", "rerank_field": 5}, "rerank_field"),
        ({"query": "q", "min_scores": 1}, "Did you mean 'min_score'"),
        ({"query": "q", "top_n": 5}, "Did you mean 'topn'"),
        ({"query": "q", "model": "qwen3-vl-rerank", "scorer": EmbeddedScorer()}, "model"),
    ],
)
def test_unusable_arguments_are_value_errors(
    dashscope: LoopbackDashScope, arguments: dict[str, Any], naming: str
) -> None:
    with pytest.raises(ValueError, match=naming):
        QwenReRanker(**arguments)


def test_no_key_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="DASHSCOPE_API_KEY"):
        QwenReRanker("q")


@pytest.mark.parametrize(
    "results", [[doc("a", "x")], ["ab"], 7, [[object()]], [[SimpleNamespace(id="a")]]]
)
def test_results_of_another_shape_are_refused(dashscope: LoopbackDashScope, results: Any) -> None:
    with pytest.raises(InvalidInputError, match="lists of documents"):
        QwenReRanker("q").rerank(results)


@pytest.fixture
def collection(tmp_path: Path) -> zvec.Collection:
    """Each document has two vectors: `a` is near the first query, and `c` near the second."""
    schema = zvec.CollectionSchema(
        name="passages",
        fields=zvec.FieldSchema("content", zvec.DataType.STRING),
        vectors=[
            zvec.VectorSchema(name, zvec.DataType.VECTOR_FP32, dimension=2)
            for name in ("title_vector", "body_vector")
        ],
    )
    collection = zvec.create_and_open(path=str(tmp_path / "collection"), schema=schema)
    near, far = [1.0, 0.0], [0.0, 1.0]
    for id_, content, title, body in [
        ("a", "the first stage likes this score=0.1", near, far),
        ("b", "the best of them score=0.9", [0.7, 0.7], [0.7, 0.7]),
        ("c", "so does it this score=0.5", far, near),
    ]:
        vectors = {"title_vector": title, "body_vector": body}
        collection.insert(zvec.Doc(id=id_, fields={"content": content}, vectors=vectors))
    collection.flush()
    return collection


def test_a_zvec_collection_can_use_it(
    dashscope: LoopbackDashScope, collection: zvec.Collection
) -> None:
    queries = [zvec.Query(name, vector=[1.0, 0.0]) for name in ("title_vector", "body_vector")]
    ranked = collection.query(queries, topk=2, reranker=QwenReRanker("which is best?"))
    assert [(document.id, document.score) for document in ranked] == [("b", 0.9), ("c", 0.5)]
    assert "the best of them" in ranked[0].field("content")
    assert len(dashscope.received) == 1

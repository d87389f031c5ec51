"""What is not a list of documents is refused by every face, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import InvalidInputError, QwenReRanker, Record, RerankEngine
from tests.support.scorers import Recorder

QUERY = "query"


async def asynchronous(*documents: Any) -> AsyncIterator[Any]:
    for document in documents:
        yield document


def compressor(scorer: Recorder, documents: Any) -> None:
    langchain_qwen_rerank.QwenRerank(scorer=scorer).compress_documents(documents, QUERY)


def acompressor(scorer: Recorder, documents: Any) -> None:
    face = langchain_qwen_rerank.QwenRerank(scorer=scorer)
    asyncio.run(face.acompress_documents(documents, QUERY))


def indices(scorer: Recorder, documents: Any) -> None:
    langchain_qwen_rerank.QwenRerank(scorer=scorer).rerank(documents, QUERY)


def postprocessor(scorer: Recorder, nodes: Any) -> None:
    face = llamaindex_qwen_rerank.QwenRerank(scorer=scorer)
    face.postprocess_nodes(nodes, query_str=QUERY)


def apostprocessor(scorer: Recorder, nodes: Any) -> None:
    face = llamaindex_qwen_rerank.QwenRerank(scorer=scorer)
    asyncio.run(face.apostprocess_nodes(nodes, query_str=QUERY))


def reranker(scorer: Recorder, lists: Any) -> None:
    QwenReRanker(QUERY, scorer=scorer).rerank(lists)


def engine(scorer: Recorder, records: Any) -> None:
    RerankEngine(scorer, rerank_field="content").rerank(QUERY, records)


FACES = (compressor, acompressor, indices, postprocessor, apostprocessor, reranker, engine)

ANYWHERE = (None, 42, 1.5, object(), True)
"""Never documents."""

NODE = TextNode(text="a text")
WITH_BAD_TEMPLATE = TextNode(text="a text", metadata={"a": 1}, text_template="{unknown}")
WITHOUT_METADATA = Document("a text")
WITHOUT_METADATA.metadata = None  # type: ignore[assignment]  # which langchain-core does not check
ROW = SimpleNamespace(id="a", score=0.1, fields=42)


class Fixed:
    """A document that can't get another score."""

    id, fields = "b", {"content": "another text"}

    @property
    def score(self) -> float:
        return 0.1


FIXED = Fixed()

CASES: list[tuple[Callable[[Recorder, Any], None], Any]] = [
    *((face, documents) for face in FACES for documents in ANYWHERE),
    *((face, asynchronous(Document("a text"))) for face in FACES),
    *((face, ["a text", None]) for face in (compressor, acompressor, engine, postprocessor)),
    *((face, [NODE]) for face in (compressor, engine, postprocessor, apostprocessor)),
    *((face, [Document("a text")]) for face in (postprocessor, engine)),
    *((face, [Document("a text"), WITHOUT_METADATA]) for face in (compressor, acompressor)),
    (compressor, {"one": None}),
    (compressor, {"one": [Document("a text")], "two": 7}),
    (indices, [Document("a text"), None]),
    (indices, [7]),
    (reranker, {"vectors": 7}),
    (reranker, [[ROW]]),
    (reranker, [[Record("a", {"content": "a text"}), SimpleNamespace(id="b", score=1)]]),
    (reranker, [["a text"]]),
    (reranker, [[Record("a", {"content": "a text"}), FIXED]]),
    (reranker, [[Record("a", {"content": "a text"}, 0.1), SimpleNamespace(score=1, fields={})]]),
    (engine, [Record("a", 42)]),  # type: ignore[arg-type]
    (engine, [Record("a", None)]),  # type: ignore[arg-type]
    (engine, [Record(["a"], {"content": "a text"})]),  # type: ignore[arg-type]
    (postprocessor, [NodeWithScore(node=NODE), NODE]),
    (postprocessor, [NodeWithScore(node=WITH_BAD_TEMPLATE)]),
]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_it_is_refused_by_name(face: Callable[[Recorder, Any], None]) -> None:
    scorer = Recorder()
    for documents in [documents for each, documents in CASES if each is face]:
        with pytest.raises(InvalidInputError) as failure:
            face(scorer, documents)
        assert failure.value.message, documents
    assert scorer.received == []


@pytest.mark.parametrize("query", [42, "a text"])
@pytest.mark.parametrize("face", ["postprocess_nodes", "apostprocess_nodes"])
def test_a_query_that_is_not_a_bundle_is_refused(face: str, query: Any) -> None:
    scorer = Recorder()
    rerank = llamaindex_qwen_rerank.QwenRerank(scorer=scorer)

    async def call() -> None:
        ranked = getattr(rerank, face)([NodeWithScore(node=NODE)], query_bundle=query)
        if asyncio.iscoroutine(ranked):
            await ranked

    with pytest.raises(InvalidInputError, match="query_bundle"):
        asyncio.run(call())
    assert scorer.received == []


@pytest.mark.parametrize(
    "ids",
    [[float("nan")] * 3, [None] * 3, [float("nan"), None, "nan"], [pandas.NA] * 3, [0, None, ""]],
    ids=repr,
)
def test_ids_that_are_not_ids_are_no_reason_to_drop_a_document(ids: list[Any]) -> None:
    rows = [Record(id_, {"content": f"text {number}"}) for number, id_ in enumerate(ids)]
    same = [Record(id_, {"content": "text"}) for id_ in ids]
    for each in (rows, same):
        assert len(QwenReRanker(QUERY, scorer=Recorder()).rerank([each])) == 3
        assert len(RerankEngine(Recorder(), rerank_field="content").rerank(QUERY, each)) == 3


def test_zero_is_an_id_beside_documents_without_one() -> None:
    records = [Record(id_, {"content": "text"}) for id_ in (0, None, 0)]  # type: ignore[arg-type]
    assert len(RerankEngine(Recorder(), rerank_field="content").rerank(QUERY, records)) == 2


@pytest.mark.parametrize("name", ["", "dense", " "])
def test_a_list_of_any_name_is_kept(name: str) -> None:
    documents = [Document("a text", id="a")]
    face = langchain_qwen_rerank.QwenRerank(scorer=Recorder(), keep_lists=True)
    for lists in ({name: documents}, {name: documents, "other": documents}):
        (ranked,) = face.compress_documents(lists, QUERY)
        assert ranked.metadata["retrieval_lists"] == dict.fromkeys(lists, 1)

"""Several retrievers at once, and what the metadata keep of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import ValidationError

from langchain_qwen_rerank import QwenRerank, QwenRerankRetriever
from qwen_rerank import KeepOrder, Passage, Scorer, Scores
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.langchain.test_retrievers import Invoke, invoke, texts_of  # noqa: F401

Compress = Callable[..., list[Document]]

QUERY = "What do penguins eat?"


class Found(BaseRetriever):
    """Finds these documents, whatever is asked, as many as are wanted."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, most: int = 100
    ) -> list[Document]:
        return self.documents[:most]


def documents(*scores: float, ids: bool = False) -> list[Document]:
    return [
        Document(page_content=f"score={score} ", id=f"{score}" if ids else None) for score in scores
    ]


def several(**options: Any) -> QwenRerankRetriever:
    lists = {"vectors": documents(0.1, 0.7, 0.3), "words": documents(0.7, 0.2)}
    return QwenRerankRetriever(
        base_retriever={name: Found(documents=found) for name, found in lists.items()},
        compressor=QwenRerank(keep_lists=True, top_n=None, **options),
    )


def test_the_documents_of_all_are_ranked_together(
    dashscope: LoopbackDashScope,
    invoke: Invoke,  # noqa: F811
) -> None:
    found = invoke(several(), QUERY)
    assert [document.metadata for document in found] == [
        {"relevance_score": 0.7, "retrieval_lists": {"vectors": 2, "words": 1}},
        {"relevance_score": 0.3, "retrieval_lists": {"vectors": 3}},
        {"relevance_score": 0.2, "retrieval_lists": {"words": 2}},
        {"relevance_score": 0.1, "retrieval_lists": {"vectors": 1}},
    ]


def test_a_budget_takes_from_each(dashscope: LoopbackDashScope, invoke: Invoke) -> None:  # noqa: F811
    found = invoke(several(max_candidates=2), QUERY)
    assert texts_of(found) == ["score=0.7 ", "score=0.1 "]
    assert len(dashscope.received[0].documents) == 2


def test_options_of_the_call_reach_each(dashscope: LoopbackDashScope) -> None:
    assert texts_of(several().invoke(QUERY, most=1)) == ["score=0.7 ", "score=0.1 "]


def test_documents_of_two_stores_that_number_alike_are_all_ranked(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    lists = {
        "one": [Document(page_content="score=0.4 ", id="x")],
        "two": [Document(page_content="score=0.9 ", id="x")],
    }
    ranked = compress(QwenRerank(keep_lists=True), lists, QUERY)
    assert [document.page_content for document in ranked] == ["score=0.9 ", "score=0.4 "]
    assert [document.metadata["retrieval_lists"] for document in ranked] == [{"two": 1}, {"one": 1}]


@pytest.mark.parametrize("ids", [("x", None), (None, "x")])
def test_a_document_without_an_id_is_one_with_that_of_its_content(
    dashscope: LoopbackDashScope, compress: Compress, ids: tuple[str | None, str | None]
) -> None:
    lists = {
        name: [Document(page_content="score=0.4 ", id=id_), *documents(0.1)]
        for name, id_ in zip(("one", "two"), ids, strict=True)
    }
    found = compress(QwenRerank(keep_lists=True), lists, QUERY)
    assert [document.id for document in found] == [ids[0], None]
    assert [document.metadata["retrieval_lists"] for document in found] == [
        {"one": 1, "two": 1},
        {"one": 2, "two": 2},
    ]


def test_documents_without_ids_that_differ_in_what_is_ranked_are_all_kept(
    dashscope: LoopbackDashScope, compress: Compress, caplog: pytest.LogCaptureFixture
) -> None:
    def titled(content: str, *titles: str | None) -> list[Document]:
        return [Document(page_content=content, metadata={"title": title}) for title in titles]

    compressor = QwenRerank(rerank_field="title", missing="keep", top_n=None)
    lists = {"one": titled("the same", "score=0.4", "score=0.3"), "two": titled(" ", None, None)}
    assert len(compress(compressor, lists, QUERY)) == 4
    assert caplog.records == []


def test_they_run_at_the_same_time(dashscope: LoopbackDashScope) -> None:
    both = threading.Barrier(2, timeout=20)

    def find(query: str) -> list[Document]:
        both.wait()
        return documents(0.5)

    stage = {"one": RunnableLambda(find), "two": RunnableLambda(find)}
    retriever = QwenRerankRetriever(base_retriever=stage, compressor=QwenRerank())
    assert len(retriever.invoke(QUERY)) == 1
    assert len(asyncio.run(retriever.ainvoke(QUERY))) == 1


class Other(BaseDocumentCompressor):
    """A compressor that knows nothing of lists."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        return documents


@pytest.mark.parametrize("stage", [{}, {"one": Found(documents=[])}])
def test_they_need_a_compressor_that_takes_lists(stage: dict[str, BaseRetriever]) -> None:
    compressor = Other() if stage else QwenRerank(api_key="sk-key")
    with pytest.raises(ValidationError, match="base_retriever"):
        QwenRerankRetriever(base_retriever=stage, compressor=compressor)


class Cut(Scorer):
    """Scores the middle of each text."""

    model = "cut"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([0.5] * len(texts), passages=[Passage(1, len(text) - 1) for text in texts])


def test_the_passage_that_won_is_kept_when_asked(compress: Compress) -> None:
    found = [Document(page_content="(krill)")]
    (kept,) = compress(QwenRerank(scorer=Cut(), keep_passage=True), found, QUERY)
    assert kept.metadata == {"relevance_score": 0.5, "passage": [1, 6]}
    assert kept.page_content[slice(*kept.metadata["passage"])] == "krill"
    (plain,) = compress(QwenRerank(scorer=Cut()), found, QUERY)
    assert plain.metadata == {"relevance_score": 0.5}


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"relevance_score": 0.25, "score": 0.75}, 0.25),
        ({"score": 0.75}, 0.75),
        ({"relevance_score": "high", "score": 3}, 3),
        ({"score": float("nan")}, None),
        ({}, None),
    ],
)
def test_the_retrieval_score_is_kept_when_asked(
    compress: Compress, metadata: dict[str, Any], kept: float | None
) -> None:
    found = [Document(page_content="x", metadata=metadata)]
    (ranked,) = compress(QwenRerank(scorer=Cut(), keep_retrieval_score=True), found, QUERY)
    assert ranked.metadata == {**metadata, "relevance_score": 0.5, "retrieval_score": kept}
    (plain,) = compress(QwenRerank(scorer=Cut()), found, QUERY)
    assert "retrieval_score" not in plain.metadata


def test_a_retrieval_score_of_numpy_is_returned_as_a_float_that_can_be_saved(
    compress: Compress,
) -> None:
    found = [Document(page_content="x", metadata={"relevance_score": numpy.float32(0.5)})]
    serializer = JsonPlusSerializer()
    for scorer in (Cut(), KeepOrder()):
        ranked = compress(QwenRerank(scorer=scorer, keep_retrieval_score=True), found, QUERY)
        assert serializer.loads_typed(serializer.dumps_typed(ranked)) == ranked
        assert {type(value) for value in ranked[0].metadata.values()} == {float}

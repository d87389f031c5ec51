"""The compressor in LangChain's own chains, retrievers and tools."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from langchain_qwen_rerank import QwenRerank, QwenRerankRetriever
from qwen_rerank import EmbeddedScorer
from qwen_rerank.testing import FakeScorer
from qwen_rerank.testing.loopback import LoopbackDashScope

Compress = Callable[..., list[Document]]
Invoke = Callable[..., Any]

QUERY = "What do penguins eat?"
TEXTS = [f"score=0.{number} " for number in (3, 1, 9, 5, 7)]
BEST_FIRST = [f"score=0.{number} " for number in (9, 7, 5)]


@pytest.fixture(params=["sync", "async"])
def invoke(request: pytest.FixtureRequest) -> Invoke:
    """Invoke, and ainvoke in a loop of its own."""

    def call(runnable: Runnable[Any, Any], *args: Any) -> Any:
        if request.param == "sync":
            return runnable.invoke(*args)
        return asyncio.run(runnable.ainvoke(*args))

    return call


def in_store(texts: list[str] = TEXTS) -> VectorStoreRetriever:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(texts)
    return store.as_retriever(search_kwargs={"k": len(texts)})


def contextual(found: BaseRetriever) -> BaseRetriever:
    return ContextualCompressionRetriever(base_compressor=QwenRerank(), base_retriever=found)


def own(found: BaseRetriever) -> BaseRetriever:
    return QwenRerankRetriever(compressor=QwenRerank(), base_retriever=found)


retrievers = pytest.mark.parametrize("retriever", [contextual, own])
Retriever = Callable[[Any], BaseRetriever]


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


class TestRetriever(RetrieversIntegrationTests):
    """LangChain's own tests of retrievers. The number of results is that of the first stage."""

    @property
    def retriever_constructor(self) -> Any:
        return self._retriever

    @property
    def retriever_query_example(self) -> str:
        return QUERY

    def _retriever(self, k: int = 4) -> BaseRetriever:
        store = in_store()
        store.search_kwargs["k"] = k
        rerank = QwenRerank(scorer=FakeScorer(), top_n=None)
        return QwenRerankRetriever(base_retriever=store, compressor=rerank)


@retrievers
def test_a_vector_stores_documents_come_back_best_first(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    assert texts_of(invoke(retriever(in_store()), QUERY)) == BEST_FIRST


class Prompts(BaseCallbackHandler):
    """Keeps what language models are asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_llm_start(self, serialized: Any, prompts: list[str], **_: Any) -> None:
        self.seen += prompts


@retrievers
def test_a_chain_gives_the_llm_the_best_documents_first(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    context = retriever(in_store()) | (lambda found: "|".join(texts_of(found)))
    chain = (
        {"context": context, "question": RunnablePassthrough()}
        | PromptTemplate.from_template("{context} {question}")
        | FakeListLLM(responses=["krill"])
    )
    prompts = Prompts()
    assert invoke(chain, QUERY, {"callbacks": [prompts]}) == "krill"
    assert prompts.seen == [f"{'|'.join(BEST_FIRST)} {QUERY}"]


@retrievers
def test_a_batch_answers_each_query(dashscope: LoopbackDashScope, retriever: Retriever) -> None:
    found = retriever(in_store(["krill and fish", "stocks and bonds"])).batch(["krill", "stocks"])
    assert [texts_of(documents)[0] for documents in found] == ["krill and fish", "stocks and bonds"]


@retrievers
async def test_an_asynchronous_batch_answers_each_query(
    dashscope: LoopbackDashScope, retriever: Retriever
) -> None:
    store = in_store(["krill and fish", "stocks and bonds"])
    found = await retriever(store).abatch(["krill", "stocks"])
    assert [texts_of(documents)[0] for documents in found] == ["krill and fish", "stocks and bonds"]


@retrievers
def test_a_tool_gives_the_best_documents_first(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    tool = create_retriever_tool(retriever(in_store()), "search", "Searches the manual.")
    assert invoke(tool, {"query": QUERY}) == "\n\n".join(BEST_FIRST)


@retrievers
def test_a_tools_artifact_has_the_scores(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    tool = create_retriever_tool(
        retriever(in_store()), "search", "Searches.", response_format="content_and_artifact"
    )
    call = {"type": "tool_call", "id": "1", "name": "search", "args": {"query": QUERY}}
    artifact = invoke(tool, call).artifact
    assert [document.metadata["relevance_score"] for document in artifact] == [0.9, 0.7, 0.5]


@retrievers
def test_a_runnable_can_be_the_first_stage(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    found = RunnableLambda(lambda query: [Document(page_content=text) for text in TEXTS])
    assert texts_of(invoke(retriever(found), QUERY)) == BEST_FIRST


def test_an_asynchronous_first_stage_is_awaited(dashscope: LoopbackDashScope) -> None:
    def find(query: str) -> list[Document]:
        raise AssertionError("blocks the event loop")

    async def afind(query: str) -> list[Document]:
        return [Document(page_content=text) for text in TEXTS]

    found = asyncio.run(own(RunnableLambda(find, afind)).ainvoke(QUERY))  # type: ignore[arg-type]
    assert texts_of(found) == BEST_FIRST


@retrievers
def test_nothing_found_makes_no_request(
    dashscope: LoopbackDashScope, invoke: Invoke, retriever: Retriever
) -> None:
    assert invoke(retriever(RunnableLambda(lambda query: [])), QUERY) == []
    assert not dashscope.received


@pytest.mark.parametrize("missing", ["base_retriever", "compressor"])
def test_a_retriever_needs_both_stages(missing: str) -> None:
    stages = {"base_retriever": in_store(), "compressor": QwenRerank(scorer=EmbeddedScorer())}
    del stages[missing]
    with pytest.raises(ValidationError, match=missing):
        QwenRerankRetriever(**stages)


def test_two_thousand_documents_come_back_whole_and_in_order(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    positions = random.Random(0).sample(range(2_000), 2_000)
    documents = [
        Document(page_content=f"score={index / 2_000} {'word ' * 90}") for index in positions
    ]
    ranked = compress(QwenRerank(top_n=None), documents, QUERY)
    assert [document.metadata["relevance_score"] for document in ranked] == [
        index / 2_000 for index in reversed(range(2_000))
    ]
    sent = [len(request.documents) for request in dashscope.received]
    assert sum(sent) == 2_000
    assert max(sent) <= dashscope.limits_of("qwen3-rerank").documents


def test_the_retriever_refuses_unknown_options() -> None:
    with pytest.raises(ValidationError, match="top_n"):
        QwenRerankRetriever(
            base_retriever=in_store(), compressor=QwenRerank(scorer=EmbeddedScorer()), top_n=5
        )  # type: ignore[call-arg]

"""OpenInference: a reranking has a span of its own in the traces of both frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core import SummaryIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import EmbeddedScorer, Scorer, ServiceError
from tests.support.wrapped import Down

WHY_SKIPPED = "not installed; `make test` installs it"

llama_index_instrumentation = pytest.importorskip(
    "openinference.instrumentation.llama_index", reason=WHY_SKIPPED
)
langchain_instrumentation = pytest.importorskip(
    "openinference.instrumentation.langchain", reason=WHY_SKIPPED
)

Spans = Callable[[], list[Any]]
Ask = Callable[[Scorer], None]

QUERY = "What do penguins eat?"
TEXTS = ("Ships sail.", "Penguins eat krill.")

KIND = "openinference.span.kind"


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The spans that the instrumentors of both frameworks exported so far."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentors = (
        llama_index_instrumentation.LlamaIndexInstrumentor(),
        langchain_instrumentation.LangChainInstrumentor(),
    )
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    yield lambda: list(exporter.get_finished_spans())
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


@pytest.fixture(params=["query", "aquery"])
def ask_llamaindex(request: pytest.FixtureRequest) -> Ask:
    """Asks a query engine that reranks with a scorer."""

    def ask(scorer: Scorer) -> None:
        rerank = llamaindex_qwen_rerank.QwenRerank(scorer=scorer, top_n=1)
        index = SummaryIndex([TextNode(text=text) for text in TEXTS])
        engine = index.as_query_engine(llm=MockLLM(), node_postprocessors=[rerank])
        if request.param == "query":
            engine.query(QUERY)
        else:
            asyncio.run(engine.aquery(QUERY))

    return ask


class Stored(BaseRetriever):
    """Returns all documents."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [Document(text) for text in TEXTS]


@pytest.fixture(params=["invoke", "ainvoke"])
def ask_langchain(request: pytest.FixtureRequest) -> Ask:
    """Invokes a retriever that reranks with a scorer."""

    def ask(scorer: Scorer) -> None:
        retriever = ContextualCompressionRetriever(
            base_compressor=langchain_qwen_rerank.QwenRerank(scorer=scorer, top_n=1),
            base_retriever=Stored(),
        )
        if request.param == "invoke":
            retriever.invoke(QUERY)
        else:
            asyncio.run(retriever.ainvoke(QUERY))

    return ask


def the_span(spans: list[Any], prefix: str) -> Any:
    """The only span whose name starts like this."""
    (span,) = [span for span in spans if span.name.startswith(prefix)]
    return span


def parent_of(span: Any, spans: list[Any]) -> Any:
    return next(each for each in spans if each.context.span_id == span.parent.span_id)


def test_llamaindex_shows_a_reranker_span_of_its_own(spans: Spans, ask_llamaindex: Ask) -> None:
    ask_llamaindex(EmbeddedScorer())
    (reranker,) = [span for span in spans() if span.attributes[KIND] == "RERANKER"]
    assert reranker.name.startswith("QwenRerank.")
    assert reranker.attributes["reranker.query"] == QUERY
    assert reranker.attributes["reranker.model_name"] == "embedded"
    assert reranker.attributes["reranker.top_k"] == 1
    contents = "reranker.{}_documents.{}.document.content".format
    assert [reranker.attributes[contents("input", index)] for index in (0, 1)] == list(TEXTS)
    assert reranker.attributes[contents("output", 0)] == TEXTS[1]


def test_llamaindex_keeps_the_span_of_the_query_engine_as_it_is(
    spans: Spans, ask_llamaindex: Ask
) -> None:
    ask_llamaindex(EmbeddedScorer())
    query_engine = parent_of(the_span(spans(), "QwenRerank."), spans())
    assert query_engine.name.startswith("RetrieverQueryEngine.")
    assert query_engine.attributes[KIND] == "CHAIN"
    assert not [name for name in query_engine.attributes if name.startswith("reranker.")]


def test_llamaindex_shows_a_failure_in_the_reranker_span(spans: Spans, ask_llamaindex: Ask) -> None:
    with pytest.raises(ServiceError):
        ask_llamaindex(Down())
    assert the_span(spans(), "QwenRerank.").status.status_code.name == "ERROR"


def test_langchain_shows_a_span_of_its_own_under_the_retriever(
    spans: Spans, ask_langchain: Ask
) -> None:
    """It is of kind CHAIN, because LangChain has no run type for rerankers."""
    ask_langchain(EmbeddedScorer())
    reranker = the_span(spans(), "QwenRerank")
    assert reranker.attributes[KIND] == "CHAIN"
    assert all(text in reranker.attributes["input.value"] for text in (QUERY, *TEXTS))
    assert TEXTS[1] in reranker.attributes["output.value"]
    assert TEXTS[0] not in reranker.attributes["output.value"]
    retriever = parent_of(reranker, spans())
    assert retriever.name == "ContextualCompressionRetriever"
    assert retriever.attributes[KIND] == "RETRIEVER"
    assert retriever.attributes["input.value"] == QUERY


def test_langchain_shows_a_failure_in_the_span(spans: Spans, ask_langchain: Ask) -> None:
    with pytest.raises(ServiceError):
        ask_langchain(Down())
    assert the_span(spans(), "QwenRerank").status.status_code.name == "ERROR"

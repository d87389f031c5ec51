"""The postprocessor in LlamaIndex's own query engines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode

from llamaindex_qwen_rerank import QwenRerank
from qwen_rerank.testing.loopback import LoopbackDashScope

QUERY = "What do penguins eat?"
TEXTS = [f"score=0.{number} fact{number}" for number in (3, 1, 9, 5, 7)]
BEST_FIRST = ["score=0.9 fact9", "score=0.7 fact7", "score=0.5 fact5"]


@pytest.fixture(params=["sync", "async"])
def query(request: pytest.FixtureRequest) -> Callable[[BaseQueryEngine], Response]:
    """The method query, and aquery in a loop of its own."""

    def call(engine: BaseQueryEngine) -> Any:
        return engine.query(QUERY) if request.param == "sync" else asyncio.run(engine.aquery(QUERY))

    return call


def index(callback_manager: CallbackManager | None = None) -> VectorStoreIndex:
    return VectorStoreIndex(
        [TextNode(text=text) for text in TEXTS],
        embed_model=MockEmbedding(8),
        callback_manager=callback_manager,
    )


def as_query_engine(rerank: QwenRerank) -> BaseQueryEngine:
    return index().as_query_engine(
        llm=MockLLM(), similarity_top_k=len(TEXTS), node_postprocessors=[rerank]
    )


def retriever_query_engine(rerank: QwenRerank) -> BaseQueryEngine:
    return RetrieverQueryEngine.from_args(
        index().as_retriever(similarity_top_k=len(TEXTS)),
        llm=MockLLM(),
        node_postprocessors=[rerank],
    )


engines = pytest.mark.parametrize("engine", [as_query_engine, retriever_query_engine])
Engine = Callable[[QwenRerank], BaseQueryEngine]
Query = Callable[[BaseQueryEngine], Response]


@engines
def test_the_answers_sources_come_best_first(
    dashscope: LoopbackDashScope, query: Query, engine: Engine
) -> None:
    sources = query(engine(QwenRerank())).source_nodes
    assert [source.text for source in sources] == BEST_FIRST
    assert [source.score for source in sources] == [0.9, 0.7, 0.5]


@engines
def test_the_llm_is_given_the_best_nodes_first(
    dashscope: LoopbackDashScope, query: Query, engine: Engine
) -> None:
    # MockLLM answers with its prompt.
    prompt = str(query(engine(QwenRerank(keep_retrieval_score=True))))
    assert "\n\n".join(BEST_FIRST) in prompt
    assert "fact1" not in prompt
    assert "retrieval_score" not in prompt


def test_the_engines_callbacks_are_told_of_the_reranking(
    dashscope: LoopbackDashScope, query: Query
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    callbacks = CallbackManager([debug])
    engine = RetrieverQueryEngine.from_args(
        index(callbacks).as_retriever(similarity_top_k=len(TEXTS)),
        llm=MockLLM(),
        node_postprocessors=[QwenRerank()],
        callback_manager=callbacks,
    )
    query(engine)
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


def test_two_thousand_nodes_come_back_whole_and_in_order(
    dashscope: LoopbackDashScope, postprocess: Callable[..., list[NodeWithScore]]
) -> None:
    positions = random.Random(0).sample(range(2_000), 2_000)
    nodes = [
        NodeWithScore(node=TextNode(text=f"score={index / 2_000} {'word ' * 90}"))
        for index in positions
    ]
    ranked = postprocess(QwenRerank(top_n=None), nodes, query_str=QUERY)
    assert [scored.score for scored in ranked] == [
        index / 2_000 for index in reversed(range(2_000))
    ]
    sent = [len(request.documents) for request in dashscope.received]
    assert sum(sent) == 2_000
    assert max(sent) <= dashscope.limits_of("qwen3-rerank").documents

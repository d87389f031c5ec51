"""Vector stores as the first stage: how many documents they return, and with which scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import RetrieverLike
from langchain_core.runnables import RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.vectorstores import VectorStoreRetriever

from langchain_qwen_rerank.compressor import SCORE, with_metadata

__all__ = ["has_vector_store", "with_k", "with_scores"]

_MMR_FETCH_K = 20
"""LangChain's default for the number of documents that MMR chooses among."""


def has_vector_store(retriever: RetrieverLike) -> bool:
    """Whether the retriever is a vector store's, or wraps one as `with_retry` does."""
    if isinstance(retriever, RunnableBindingBase):
        return has_vector_store(retriever.bound)
    if isinstance(retriever, RunnableWithFallbacks):
        return any(map(has_vector_store, retriever.runnables))
    return isinstance(retriever, VectorStoreRetriever)


def _changed(
    retriever: RetrieverLike, change: Callable[[VectorStoreRetriever], VectorStoreRetriever]
) -> RetrieverLike:
    """Return the retriever with a changed copy of each vector store's retriever in it.

    `with_config`, `bind`, `with_retry` and `with_fallbacks` wrap retrievers.
    """
    if isinstance(retriever, VectorStoreRetriever):
        return change(retriever)
    if isinstance(retriever, RunnableBindingBase):
        return retriever.model_copy(update={"bound": _changed(retriever.bound, change)})
    if isinstance(retriever, RunnableWithFallbacks):
        first, *others = (_changed(each, change) for each in retriever.runnables)
        return retriever.model_copy(update={"runnable": first, "fallbacks": others})
    return retriever


def with_k(retriever: RetrieverLike, k: int) -> RetrieverLike:
    """Return a copy whose vector stores return this many documents."""
    return _changed(retriever, lambda own: _with_k(own, k))


def _with_k(retriever: VectorStoreRetriever, k: int) -> VectorStoreRetriever:
    options = {**retriever.search_kwargs, "k": k}
    if retriever.search_type == "mmr":  # which chooses among `fetch_k` documents, by default 20
        options["fetch_k"] = max(options.get("fetch_k") or _MMR_FETCH_K, k)
    return retriever.model_copy(update={"search_kwargs": options})


def with_scores(retriever: RetrieverLike) -> RetrieverLike:
    """Return a copy whose vector stores' scores are kept in the metadata.

    A retriever of a subclass of LangChain's searches in its own way, and is not changed.
    """
    return _changed(retriever, _with_scores)


def _with_scores(retriever: VectorStoreRetriever) -> VectorStoreRetriever:
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
        with_metadata(document, {**document.metadata, SCORE: _number(score)})
        for document, score in found
    ]


def _number(score: Any) -> float | None:
    """Return the score as a float; None for a document to which the store gives none."""
    try:
        return float(score)
    except (TypeError, ValueError):
        return None

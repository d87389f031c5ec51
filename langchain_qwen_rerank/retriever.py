"""QwenRerankRetriever: a retriever and a reranker as one retriever."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables import Runnable, RunnableParallel
from pydantic import ConfigDict, model_validator

from langchain_qwen_rerank.compressor import QwenRerank

__all__ = ["QwenRerankRetriever"]


class QwenRerankRetriever(BaseRetriever):
    """Retrieves documents with one or several retrievers and reranks them.

    Works like ContextualCompressionRetriever, without the langchain-classic package. Asynchronous
    calls use the retrievers' asynchronous methods, and several retrievers run concurrently.

    Attributes:
        base_retriever: The first stage: any retriever, or a Runnable from query to documents; or
            several by name. It should return more documents than the compressor's `top_n`.
        compressor: The second stage; a QwenRerank if there are several retrievers.

    Example:
        >>> both = {"vectors": store.as_retriever(), "words": BM25Retriever.from_texts(texts)}
        >>> rerank = QwenRerank(max_candidates=50, keep_lists=True)
        >>> retriever = QwenRerankRetriever(base_retriever=both, compressor=rerank)
    """

    base_retriever: RetrieverLike | dict[str, RetrieverLike]
    compressor: BaseDocumentCompressor

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @model_validator(mode="after")
    def _check_compressor(self) -> Self:
        if isinstance(self.base_retriever, dict) and not (
            self.base_retriever and isinstance(self.compressor, QwenRerank)
        ):
            raise ValueError(
                "With a dict as base_retriever, pass at least one retriever, and a QwenRerank as "
                f"compressor; got {type(self.compressor).__name__}."
            )
        return self

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        callbacks = run_manager.get_child()
        documents = self._first_stage(kwargs).invoke(query, {"callbacks": callbacks})
        return list(self.compressor.compress_documents(documents, query, callbacks))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        callbacks = run_manager.get_child()
        documents = await self._first_stage(kwargs).ainvoke(query, {"callbacks": callbacks})
        return list(await self.compressor.acompress_documents(documents, query, callbacks))

    def _first_stage(self, kwargs: dict[str, Any]) -> Runnable[str, Any]:
        """Return a runnable from query to documents, or to lists of documents by name."""
        if not isinstance(self.base_retriever, dict):
            return _with_arguments(self.base_retriever, kwargs)
        steps = {name: _with_arguments(each, kwargs) for name, each in self.base_retriever.items()}
        return RunnableParallel(steps)


def _with_arguments(retriever: RetrieverLike, kwargs: dict[str, Any]) -> RetrieverLike:
    return retriever.bind(**kwargs) if kwargs else retriever

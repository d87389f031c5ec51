"""QwenRerankRetriever: a retriever and a reranker behind it, as one retriever."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from pydantic import ConfigDict

__all__ = ["QwenRerankRetriever"]


class QwenRerankRetriever(BaseRetriever):
    """Retrieves with one retriever and reranks what it finds.

    What ContextualCompressionRetriever of langchain-classic does, for those who do without that
    package. Where documents can be had asynchronously, they are.

    Attributes:
        base_retriever: The first stage: any retriever, or a Runnable from query to documents. Let
            it find more documents than the compressor's `top_n`.
        compressor: The second stage.
    """

    base_retriever: RetrieverLike
    compressor: BaseDocumentCompressor

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        callbacks = run_manager.get_child()
        found = self.base_retriever.invoke(query, {"callbacks": callbacks}, **kwargs)
        return list(self.compressor.compress_documents(found, query, callbacks))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        callbacks = run_manager.get_child()
        found = await self.base_retriever.ainvoke(query, {"callbacks": callbacks}, **kwargs)
        return list(await self.compressor.acompress_documents(found, query, callbacks))

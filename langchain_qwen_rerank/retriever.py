"""QwenRerankRetriever: a retriever and a reranker as one retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables import Runnable, RunnableConfig, RunnableParallel
from langchain_core.runnables.config import ensure_config, patch_config
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from pydantic import ConfigDict, model_validator

from langchain_qwen_rerank.compressor import QwenRerank
from langchain_qwen_rerank.first_stage import has_vector_store, with_k, with_scores
from qwen_rerank import InvalidInputError, Scorer
from qwen_rerank.options import CallArguments, check_options, new_by_name
from qwen_rerank.validation import check_whole

__all__ = ["QwenRerankRetriever"]


class QwenRerankRetriever(BaseRetriever):
    """Retrieves documents with one or several retrievers and reranks them.

    Works like ContextualCompressionRetriever, without the langchain-classic package. Asynchronous
    calls use the retrievers' asynchronous methods, and several retrievers run concurrently.

    `invoke` and `ainvoke` also take `top_n` and `min_score`, for one call. Other arguments, and the
    config, are passed on to the retrievers.

    If the first stage is a vector store's own retriever, its scores are kept: see
    `keep_retrieval_score`. They are what the store's `similarity_search_with_score` returns: a
    similarity, or a distance, of which lower is better. `blend` uses the rank, so either is fine.
    It can be wrapped by `with_config`, `bind`, `with_retry` or `with_fallbacks`.

    Attributes:
        base_retriever: The first stage: any retriever, or a Runnable from query to documents; or
            several by name. It should return more documents than the compressor's `top_n`.
        compressor: The second stage; a QwenRerank if there are several retrievers.
        fetch_k: How many documents each vector store's retriever returns, at least 1; None for its
            own `k`. The retrievers that you pass are not changed.

    Example:
        >>> both = {"vectors": store.as_retriever(), "words": BM25Retriever.from_texts(texts)}
        >>> rerank = QwenRerank(max_candidates=50, keep_lists=True)
        >>> retriever = QwenRerankRetriever(base_retriever=both, compressor=rerank, fetch_k=50)
    """

    base_retriever: RetrieverLike | dict[str, RetrieverLike]
    compressor: BaseDocumentCompressor
    fetch_k: int | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers take the signature from the fields
        __new__ = new_by_name

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_options(cls, data: Any) -> Any:
        if isinstance(data, dict):
            check_options(data, cls.model_fields)
            if isinstance(scorer := data.get("compressor"), Scorer):
                name = type(scorer).__name__
                raise ValueError(
                    f"A compressor can't be a {name}. Pass QwenRerank(scorer={name}(…))."
                )
        return data

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if isinstance(self.base_retriever, dict) and not (
            self.base_retriever and isinstance(self.compressor, QwenRerank)
        ):
            raise ValueError(
                "With a dict as base_retriever, pass at least one retriever, and a QwenRerank as "
                f"compressor; got {type(self.compressor).__name__}."
            )
        if self.fetch_k is not None:
            check_whole("fetch_k", self.fetch_k, at_least=1)
            if not any(map(has_vector_store, self._retrievers())):
                kinds = ", ".join(type(each).__name__ for each in self._retrievers())
                raise ValueError(
                    f"fetch_k sets the k of a VectorStoreRetriever, got {kinds}. Set the number of "
                    "documents there."
                )
        return self

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What the config of a call can set in the retrievers."""
        return get_unique_config_specs(
            spec for retriever in self._retrievers() for spec in retriever.config_specs
        )

    def invoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """Retrieve and rerank documents.

        Args:
            input: The query.
            config: The config of the call, which the retrievers get too.
            kwargs: `top_n` and `min_score` for this call; others are passed on to the retrievers.

        Returns:
            See `QwenRerank.compress_documents`, also for the errors.
        """
        # LangChain would pass on the callbacks alone, and not what is configured.
        return super().invoke(input, config, call_config=ensure_config(config), **kwargs)

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[Document]:
        """The same as `invoke`, without blocking the event loop."""
        return await super().ainvoke(input, config, call_config=ensure_config(config), **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        call_config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        callbacks, split = run_manager.get_child(), self._split(kwargs)
        config = patch_config(call_config, callbacks=callbacks)
        documents = self._first_stage(split.search).invoke(query, config)
        if not isinstance(self.compressor, QwenRerank):
            return list(self.compressor.compress_documents(documents, query, callbacks))
        return self.compressor.compress_documents(documents, query, callbacks, **split.call)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        call_config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        callbacks, split = run_manager.get_child(), self._split(kwargs)
        config = patch_config(call_config, callbacks=callbacks)
        documents = await self._first_stage(split.search).ainvoke(query, config)
        if not isinstance(self.compressor, QwenRerank):
            return list(await self.compressor.acompress_documents(documents, query, callbacks))
        return await self.compressor.acompress_documents(documents, query, callbacks, **split.call)

    def _split(self, kwargs: dict[str, Any]) -> _Arguments:
        """Return a call's arguments for each stage. Those of the second are checked here."""
        names = CallArguments.__annotations__
        call = {name: value for name, value in kwargs.items() if name in names}
        options = cast(CallArguments, call)
        if isinstance(self.compressor, QwenRerank):
            self.compressor._for_call(options)
        elif call:
            raise InvalidInputError(
                f"{type(self.compressor).__name__} does not take {' and '.join(call)} per call.",
                remedy="Use a QwenRerank as compressor.",
            )
        return _Arguments({name: kwargs[name] for name in kwargs.keys() - call.keys()}, options)

    def _retrievers(self) -> list[RetrieverLike]:
        own = self.base_retriever
        return [*own.values()] if isinstance(own, dict) else [own]

    def _first_stage(self, kwargs: dict[str, Any]) -> Runnable[str, Any]:
        """Return a runnable from query to documents, or to lists of documents by name."""
        if not isinstance(self.base_retriever, dict):
            return self._prepared(self.base_retriever, kwargs)
        steps = {name: self._prepared(each, kwargs) for name, each in self.base_retriever.items()}
        return RunnableParallel(steps)

    def _prepared(self, retriever: RetrieverLike, kwargs: dict[str, Any]) -> RetrieverLike:
        """Return the retriever as this call uses it."""
        if self.fetch_k is not None:
            retriever = with_k(retriever, self.fetch_k)
        if isinstance(self.compressor, QwenRerank):
            retriever = with_scores(retriever)
        return retriever.bind(**kwargs) if kwargs else retriever


class _Arguments(NamedTuple):
    """The arguments of a call: for the search of the first stage, and for the second."""

    search: dict[str, Any]
    call: CallArguments

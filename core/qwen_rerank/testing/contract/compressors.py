"""CompressorTests: what holds for a LangChain document compressor that reranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document

from qwen_rerank.testing.contract.rankers import Ranked, Ranker, RankerTests

__all__ = ["CompressorTests"]


class _Adapter:
    def __init__(self, compressor: BaseDocumentCompressor, score: str) -> None:
        self._compressor = compressor
        self._score = score

    def make(self, id: str, text: str, extra: dict[str, Any]) -> Document:
        return Document(page_content=text, id=id, metadata=extra)

    def rank(self, query: str, documents: list[Document]) -> Sequence[Document]:
        return self._compressor.compress_documents(documents, query)

    async def arank(self, query: str, documents: list[Document]) -> Sequence[Document]:
        return await self._compressor.acompress_documents(documents, query)

    def read(self, document: Document) -> Ranked:
        score = document.metadata.get(self._score)
        return Ranked(str(document.id), document.page_content, document.metadata, score)


class CompressorTests(RankerTests):
    """Tests of a LangChain document compressor that reranks. Override the fixture `compressor`.

    Attributes:
        score_key: The metadata key of the relevance score.

    Example:
        >>> class TestMyCompressor(CompressorTests):
        ...     @pytest.fixture
        ...     def compressor(self) -> BaseDocumentCompressor:
        ...         return MyCompressor()
    """

    score_key: str = "relevance_score"

    @pytest.fixture
    def compressor(self) -> BaseDocumentCompressor:
        """A new compressor."""
        raise NotImplementedError("Override the fixture `compressor` and return a compressor.")

    @pytest.fixture
    def ranker(self, compressor: BaseDocumentCompressor) -> Ranker:
        """The adapter for LangChain."""
        return _Adapter(compressor, self.score_key)

"""The compressor's methods, each as itself and as its asynchronous twin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_qwen_rerank import QwenRerank


@pytest.fixture(params=["sync", "async"])
def compress(request: pytest.FixtureRequest) -> Callable[..., list[Document]]:
    """compress_documents, and acompress_documents in a loop of its own."""

    def call(compressor: QwenRerank, *args: Any, **kwargs: Any) -> list[Document]:
        if request.param == "sync":
            return compressor.compress_documents(*args, **kwargs)
        return asyncio.run(compressor.acompress_documents(*args, **kwargs))

    return call


@pytest.fixture(params=["sync", "async"])
def rank(request: pytest.FixtureRequest) -> Callable[..., list[dict[str, Any]]]:
    """Rerank, and arerank in a loop of its own."""

    def call(compressor: QwenRerank, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        if request.param == "sync":
            return compressor.rerank(*args, **kwargs)
        return asyncio.run(compressor.arerank(*args, **kwargs))

    return call

"""Qwen reranking for LangChain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_qwen_rerank.compressor import QwenRerank
    from langchain_qwen_rerank.retriever import QwenRerankRetriever

__all__ = ["QwenRerank", "QwenRerankRetriever"]

_MODULES = {"QwenRerank": "compressor", "QwenRerankRetriever": "retriever"}


def __getattr__(name: str) -> Any:
    """A class when it is asked for: the retriever's base alone takes a third of a second."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

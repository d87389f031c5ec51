"""Qwen reranking for LangChain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_qwen_rerank.compressor import QwenRerank
    from langchain_qwen_rerank.retriever import QwenRerankRetriever

__all__ = ["QwenRerank", "QwenRerankRetriever"]

_MODULES = {"QwenRerank": "compressor", "QwenRerankRetriever": "retriever"}


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a class on first use: the retriever's base class takes a third of a second."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            from qwen_rerank.errors import MissingDependencyError

            raise MissingDependencyError(
                f"{__name__} needs langchain-core ({error}).",
                remedy='Install it: pip install "qwen-rerank[langchain]"',
            ) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

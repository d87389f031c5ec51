"""Qwen reranking for LangChain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_qwen_rerank.compressor import QwenRerank
    from langchain_qwen_rerank.retriever import QwenRerankRetriever

__all__ = ["QwenRerank", "QwenRerankRetriever"]

_MODULES = {"QwenRerank": "compressor", "QwenRerankRetriever": "retriever"}


if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> Any:
        """A class when it is asked for: the retriever's base alone takes a third of a second."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            from qwen_rerank.errors import MissingDependencyError

            raise MissingDependencyError(
                f"{__name__} needs langchain-core ({error}).",
                remedy='Install it: pip install "qwen-rerank[langchain]"',
            ) from error
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

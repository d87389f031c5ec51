"""Qwen reranking for LlamaIndex."""

from qwen_rerank.errors import MissingDependencyError

try:
    from llamaindex_qwen_rerank.postprocessor import QwenRerank
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"{__name__} needs llama-index-core ({error}).",
        remedy='Install it: pip install "qwen-rerank[llamaindex]"',
    ) from error

__all__ = ["QwenRerank"]

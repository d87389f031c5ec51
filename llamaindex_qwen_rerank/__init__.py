"""Qwen reranking for LlamaIndex."""

from llamaindex_qwen_rerank.postprocessor import QwenRerank

__all__ = ["QwenRerank"]

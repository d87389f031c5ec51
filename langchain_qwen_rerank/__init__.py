"""Qwen reranking for LangChain."""

from langchain_qwen_rerank.compressor import QwenRerank
from langchain_qwen_rerank.retriever import QwenRerankRetriever

__all__ = ["QwenRerank", "QwenRerankRetriever"]

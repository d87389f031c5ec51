"""Rerank many queries: in this process, or on Ray."""

from qwen_rerank.batch.journal import Journal
from qwen_rerank.batch.many import AsyncRankings, Rankings, arerank_many, rerank_many
from qwen_rerank.batch.progress import Progress
from qwen_rerank.batch.work import Task

__all__ = [
    "AsyncRankings",
    "Journal",
    "Progress",
    "Rankings",
    "Task",
    "arerank_many",
    "rerank_many",
]

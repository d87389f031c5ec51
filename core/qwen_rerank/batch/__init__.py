"""Rerank many queries: in this process, or on Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_rerank.batch.journal import Journal
from qwen_rerank.batch.many import AsyncRankings, Rankings, arerank_many, rerank_many
from qwen_rerank.batch.progress import Progress
from qwen_rerank.batch.work import Task

if TYPE_CHECKING:
    from qwen_rerank.batch.ray_data import UsageTotal, rerank_dataset
    from qwen_rerank.batch.ray_files import read_candidates, write_trec
    from qwen_rerank.batch.ray_run import checkpointed

__all__ = [
    "AsyncRankings",
    "Journal",
    "Progress",
    "Rankings",
    "Task",
    "UsageTotal",
    "arerank_many",
    "checkpointed",
    "read_candidates",
    "rerank_dataset",
    "rerank_many",
    "write_trec",
]

_MODULES = {
    "UsageTotal": "ray_data",
    "checkpointed": "ray_run",
    "read_candidates": "ray_files",
    "rerank_dataset": "ray_data",
    "write_trec": "ray_files",
}

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import what needs the extra `ray` on first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

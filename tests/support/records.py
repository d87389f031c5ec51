"""Reading the item of one record, as the engine does."""

from __future__ import annotations

from qwen_rerank import EmbeddedScorer, Record, RerankEngine
from qwen_rerank.inputs.content import Item
from qwen_rerank.inputs.fields import RerankField

__all__ = ["read_item"]


def read_item(rerank_field: RerankField, record: Record) -> Item | None:
    """What `rerank_field` reads from the record; None where it is missing or blank."""
    engine = RerankEngine(EmbeddedScorer(), rerank_field=rerank_field)
    return engine.candidates([record]).items[0]

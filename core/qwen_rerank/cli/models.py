"""`qwen-rerank models`: what the DashScope service offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from qwen_rerank.cli.options import AsJson
from qwen_rerank.cli.screen import Screen, table
from qwen_rerank.scorers.dashscope import SINGAPORE
from qwen_rerank.scorers.limits import published_limits, takes_instruct

__all__ = ["models"]

_SERVED = (
    ("gte-rerank-v2", "cn-beijing"),
    ("qwen3-rerank", "cn-beijing"),
    ("qwen3-rerank", SINGAPORE),
    ("qwen3-vl-rerank", "cn-beijing"),
)


def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List DashScope's models: how much a request may hold, and what it takes."""
    screen: Screen = ctx.obj
    rows = list(_rows())
    if as_json:
        screen.json(rows, indent=2)
        return
    shown = table(
        ("model", "left"),
        ("region", "left"),
        ("documents a request", "right"),
        ("tokens an item", "right"),
        ("tokens a request", "right"),
        ("instruct", "left"),
    )
    for row in rows:
        shown.add_row(*map(_cell, row.values()))
    screen.table(shown)


def _rows() -> Iterator[dict[str, Any]]:
    for model, region in _SERVED:
        limits = published_limits(model, singapore=region == SINGAPORE)
        yield {
            "model": model,
            "region": region,
            "documents": limits.documents,
            "item_tokens": limits.item_tokens,
            "request_tokens": limits.request_tokens,
            "instruct": takes_instruct(model),
        }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""`qwen-rerank models`: what the DashScope service offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from qwen_rerank.cli.options import AsJson
from qwen_rerank.cli.screen import Screen
from qwen_rerank.evaluation.tables import empty_table
from qwen_rerank.scorers.catalog import published_prices
from qwen_rerank.scorers.dashscope import SINGAPORE
from qwen_rerank.scorers.limits import published_limits, takes_instruct

__all__ = ["models"]


def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List DashScope's models: how much a request may hold, and what it costs.

    Prices are list prices in US dollars; what is billed may differ.
    """
    screen: Screen = ctx.obj
    rows = list(_rows())
    if as_json:
        screen.json(rows, indent=2)
        return
    shown = empty_table(
        ("model", "left"),
        ("region", "left"),
        ("documents", "right"),
        ("tokens", "right"),
        ("an item", "right"),
        ("instruct", "left"),
        ("$/M tokens", "right"),
        ("of images", "right"),
        ("as of", "left"),
    )
    for row in rows:
        shown.add_row(*map(_cell, row.values()))
    screen.table(shown)
    screen.note(
        "Documents and tokens are those of a request, an item is the query or a document; prices "
        "are list prices in US dollars."
    )


def _rows() -> Iterator[dict[str, Any]]:
    for price in published_prices():
        limits = published_limits(price.model, singapore=price.region == SINGAPORE)
        yield {
            "model": price.model,
            "region": price.region,
            "documents": limits.documents,
            "request_tokens": limits.request_tokens,
            "item_tokens": limits.item_tokens,
            "instruct": takes_instruct(price.model),
            "dollars_per_million_tokens": price.text,
            "dollars_per_million_image_tokens": price.image,
            "date": price.date,
        }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

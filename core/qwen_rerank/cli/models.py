"""`qwen-rerank models`: the models of the DashScope service."""

from __future__ import annotations

from typing import Any

import typer

from qwen_rerank.cli.options import AsJson
from qwen_rerank.cli.output import Output
from qwen_rerank.evaluation.tables import empty_table
from qwen_rerank.scorers.catalog import CATALOG, CatalogEntry

__all__ = ["models"]

_COLUMNS = {
    "model": "model",
    "region": "region",
    "documents": "docs",
    "request_tokens": "tokens",
    "item_tokens": "item",
    "requests_per_minute": "per min",
    "instruct": "instruct",
    "usd_per_million_tokens": "$/M",
    "cny_per_million_tokens": "¥/M",
    "month": "as of",
}
"""What the table shows of a row, and under which heading."""


def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List DashScope's models: how much a request may hold, and what it costs.

    Prices are list prices; what you are billed may differ.
    """
    output: Output = ctx.obj
    rows = list(map(_row, CATALOG))
    if as_json:
        output.json(rows, indent=2)
        return
    left = ("model", "region", "instruct", "month")
    shown = empty_table(
        *((head, "left" if key in left else "right") for key, head in _COLUMNS.items())
    )
    for row in rows:
        shown.add_row(*(_cell(row[key]) for key in _COLUMNS))
    output.table(shown)
    for entry in CATALOG:
        if entry.discontinued is not None:
            output.note(
                f"{entry.model} was discontinued on {entry.discontinued}: use {entry.successor}."
            )
    output.note(
        "docs and tokens: per request. item: tokens of the query or of one document. per min: "
        "requests. $/M and ¥/M: list prices per million tokens of text. What is not published is "
        "empty. --json shows more."
    )


def _row(entry: CatalogEntry) -> dict[str, Any]:
    limits = entry.limits
    page, month = entry.source
    return {
        "model": entry.model,
        "region": entry.region,
        "documents": limits and limits.documents,
        "images": limits and limits.images if "image" in entry.modalities else None,
        "videos": limits and limits.videos if "video" in entry.modalities else None,
        "request_tokens": limits and limits.request_tokens,
        "item_tokens": limits and limits.item_tokens,
        "requests_per_minute": entry.requests_per_minute,
        "tokens_per_minute": entry.tokens_per_minute,
        "modalities": sorted(entry.modalities),
        "instruct": entry.takes_instruct,
        "usd_per_million_tokens": entry.usd.text,
        "usd_per_million_image_tokens": entry.usd.image,
        "cny_per_million_tokens": entry.cny.text,
        "cny_per_million_image_tokens": entry.cny.image,
        "discontinued": entry.discontinued,
        "successor": entry.successor,
        "month": month,
        "source": page,
    }


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)

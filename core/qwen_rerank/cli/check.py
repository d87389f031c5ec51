"""`qwen-rerank check`: test the key, the address and the model, and say what to fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.table import Table

from qwen_rerank.batch.progress import format_usage
from qwen_rerank.cli.options import (
    ScorerMaker,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output
from qwen_rerank.scorers import probe
from qwen_rerank.scorers.doubts import doubt_about

__all__ = ["check"]


@takes_scorer_options
def check(
    ctx: typer.Context,
    make_scorer: ScorerMaker,
) -> None:
    """Test that the scorer responds, and that it ranks answers first in two languages."""
    output: Output = ctx.obj
    with _step(output, "key, address and packages"):
        chosen = make_scorer()
    output.result(f"      {chosen!r}")
    with chosen:
        with _step(output, "response"):
            report = probe.check(chosen)
        usage = report.usage
        output.result(f"      {usage.texts_sent} texts, {format_usage(usage)}")
        with _step(output, "ranking"):
            output.table(_table(report))
            report.raise_for_problem()
    if report.follows_instruct:
        output.result("ok    instruction")
    if doubt := doubt_about([result.scores for result in report.results]):
        output.result(f"warn  {doubt}")


def _table(report: probe.CheckReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("right", "answer", "next"):
        table.add_column(name, justify="right")
    table.add_column("query")
    for result in report.results:
        right = "yes" if result.is_right else "no"
        scores = (f"{score:.3f}" for score in (result.answer, result.best_other))
        table.add_row(right, *scores, result.probe.query)
    return table


@contextmanager
def _step(output: Output, name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        output.result(f"fail  {name}")
        raise
    output.result(f"ok    {name}")

"""`qwen-rerank check`: test the key, the address and the model, and say what to fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from qwen_rerank.batch.progress import format_usage
from qwen_rerank.cli.options import (
    ScorerMaker,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output
from qwen_rerank.scorers.doubts import doubt_about
from qwen_rerank.scorers.probe import QUERY, TEXTS, check_relevant_first

__all__ = ["check"]


@takes_scorer_options
def check(
    ctx: typer.Context,
    make_scorer: ScorerMaker,
) -> None:
    """Test that the scorer responds, and that it ranks the one relevant text first."""
    output: Output = ctx.obj
    with _step(output, "key, address and packages"):
        chosen = make_scorer()
    output.result(f"      {chosen!r}")
    with chosen:
        with _step(output, "response"):
            scores = chosen.score(QUERY, TEXTS)
        usage = scores.usage
        output.result(f"      {len(TEXTS)} texts in {usage.seconds:.2f} s, {format_usage(usage)}")
        with _step(output, "ranking"):
            check_relevant_first(chosen, scores)
    relevant, *others = scores.values
    output.result(f"      {relevant:.3f} for the relevant text, {max(others):.3f} for the next")
    if doubt := doubt_about([scores.values]):
        output.result(f"warn  {doubt}")


@contextmanager
def _step(output: Output, name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        output.result(f"fail  {name}")
        raise
    output.result(f"ok    {name}")

"""`qwen-rerank check`: whether everything is there to rank with, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from qwen_rerank.cli.options import (
    Dialect,
    Instruct,
    Kind,
    Model,
    Region,
    ScorerKind,
    Timeout,
    Url,
    make_scorer,
)
from qwen_rerank.cli.output import Output, spent
from qwen_rerank.scorers.probe import QUERY, TEXTS, check_relevant_first

__all__ = ["check"]


def check(
    ctx: typer.Context,
    scorer: Kind = ScorerKind.DASHSCOPE,
    model: Model = None,
    instruct: Instruct = None,
    region: Region = None,
    url: Url = None,
    dialect: Dialect = None,
    timeout: Timeout = None,
) -> None:
    """See that the scorer is there, answers, and ranks a text that must come first, first."""
    output: Output = ctx.obj
    with _step(output, "key, address and packages"):
        chosen = make_scorer(
            scorer,
            model=model,
            instruct=instruct,
            region=region,
            url=url,
            dialect=dialect,
            timeout=timeout,
        )
    output.result(f"      {chosen!r}")
    with chosen:
        with _step(output, "answer"):
            scores = chosen.score(QUERY, TEXTS)
        usage = scores.usage
        output.result(f"      {len(TEXTS)} texts in {usage.seconds:.2f} s, {spent(usage)}")
        with _step(output, "ranking"):
            check_relevant_first(chosen, scores)
    relevant, *others = scores.values
    output.result(f"      {relevant:.3f} for the relevant text, {max(others):.3f} for the next")


@contextmanager
def _step(output: Output, name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        output.result(f"fail  {name}")
        raise
    output.result(f"ok    {name}")

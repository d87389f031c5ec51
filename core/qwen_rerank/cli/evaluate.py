"""`qwen-rerank eval`: runs measured side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.cli.options import AsJson
from qwen_rerank.cli.output import Output
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation import DEFAULT_MEASURES, compare, read_judgements, read_run

__all__ = ["evaluate"]


def evaluate(
    ctx: typer.Context,
    run: Annotated[
        list[str],
        typer.Option(
            "--run",
            "-r",
            help="A run in TREC's format, or NAME=FILE. The others are compared with the first.",
        ),
    ],
    qrels: Annotated[
        Path, typer.Option("--qrels", help="The judgements, in TREC's format or BEIR's.")
    ],
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            "-m",
            help=f"A measure of ir-measures'; {', '.join(DEFAULT_MEASURES)} by default.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Write a picture of each query's gain by the first measure, from the first run "
            "to the second: .png, .svg, .pdf."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure runs side by side, with a paired randomisation test."""
    output: Output = ctx.obj
    runs = {name: read_run(file) for name, file in _named(run).items()}
    report = compare(runs, read_judgements(qrels), measures=measure or DEFAULT_MEASURES)
    if plot is not None:
        picture = report.plot_gains()
        picture.save(plot)
        output.note(f"{plot}: {picture.alt}")
    if as_json:
        output.json(report.to_dict(), indent=2)
    else:
        output.result(str(report))


def _named(runs: Sequence[str]) -> dict[str, Path]:
    """The files by their names: what is given, or the file's own without its ending."""
    named: dict[str, Path] = {}
    for given in runs:
        name, equals, file = given.partition("=")
        path = Path(file) if equals and not Path(given).exists() else Path(given)
        name = name if path != Path(given) else path.stem
        if not name or name in named:
            raise InvalidInputError(
                f"Two runs are called {name!r}." if name else f"{given!r} has no name.",
                remedy="Pass --run NAME=FILE.",
            )
        named[name] = path
    return named

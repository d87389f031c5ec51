"""`qwen-rerank eval`: measure runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.cli.options import AsJson
from qwen_rerank.cli.output import Output, one_line
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
            help="A run in the format of TREC or MS MARCO, as FILE or NAME=FILE. The first is the "
            "baseline.",
        ),
    ],
    qrels: Annotated[
        Path, typer.Option("--qrels", help="The judgements, in the format of TREC or BEIR.")
    ],
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            "-m",
            help="A measure that ir-measures knows, such as P@5; repeatable. Default: "
            f"{', '.join(DEFAULT_MEASURES)}.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Plot how much each query gains from the first run to the second, by the first "
            "measure, in a .png, .svg or .pdf file."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure runs side by side, with a paired randomisation test."""
    output: Output = ctx.obj
    runs = {name: read_run(file) for name, file in _files_by_name(run).items()}
    report = compare(runs, read_judgements(qrels), measures=measure or DEFAULT_MEASURES)
    if plot is not None:
        gains = report.plot_gains()
        gains.save(plot)
        output.note(one_line(f"{plot}: {gains.alt}"))
    if as_json:
        output.json(report.to_dict(), indent=2)
    else:
        output.result(str(report))


def _files_by_name(runs: Sequence[str]) -> dict[str, Path]:
    """Return the files by the names of the runs, by default the file names without ending."""
    files: dict[str, Path] = {}
    for argument in runs:
        name, equals, file = argument.partition("=")
        path = Path(file) if equals and not Path(argument).exists() else Path(argument)
        name = name if path != Path(argument) else path.stem
        if not name or name in files:
            raise InvalidInputError(
                f"Two runs are named {name!r}." if name else f"{argument!r} has no name.",
                remedy="Pass --run NAME=FILE.",
            )
        files[name] = path
    return files

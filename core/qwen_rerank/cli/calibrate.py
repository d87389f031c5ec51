"""`qwen-rerank calibrate`: choose a min_score from judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.batch.run_file import check_can_write
from qwen_rerank.cli.options import AsJson, Overwrite
from qwen_rerank.cli.output import Output
from qwen_rerank.evaluation import calibrate as calibrate_run
from qwen_rerank.evaluation import read_judgements, read_run

__all__ = ["calibrate"]


def calibrate(
    ctx: typer.Context,
    run: Annotated[
        Path, typer.Option("--run", "-r", help="The reranked run, in the format of TREC.")
    ],
    qrels: Annotated[
        Path, typer.Option("--qrels", help="The judgements, in the format of TREC or BEIR.")
    ],
    recall: Annotated[
        float | None,
        typer.Option(
            help="Choose the highest min_score that keeps this share of the relevant documents, "
            "such as 0.95, instead of the one with the highest F1."
        ),
    ] = None,
    beta: Annotated[
        float, typer.Option(help="How many times as important recall is as precision.")
    ] = 1.0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot precision and recall by min_score, in a .png, .svg or .pdf file."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Propose a min_score: which scores are high enough, according to judgements."""
    output: Output = ctx.obj
    if plot is not None:
        check_can_write(plot, (run, qrels), overwrite=overwrite)
    calibration = calibrate_run(read_run(run), read_judgements(qrels), recall=recall, beta=beta)
    if plot is not None:
        output.save_plot(calibration.plot(), plot)
    output.measured(calibration, as_json=as_json)

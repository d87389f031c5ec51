"""`qwen-rerank eval`: measure runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.batch.run_file import check_can_write
from qwen_rerank.batch.text_index import TextIndex
from qwen_rerank.cli.options import AsJson, Overwrite
from qwen_rerank.cli.output import Output
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation import DEFAULT_MEASURES, Report, compare, read_judgements, read_run

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
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page to look at every query, in one .html file. With --queries and "
            "--corpus it has their texts."
        ),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="For --html: the queries, as for the command run.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="For --html: the documents, as for the command run.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure runs side by side, with a paired randomisation test."""
    output: Output = ctx.obj
    files = _files_by_name(run)
    inputs = [*files.values(), qrels, *(file for file in (queries, corpus) if file is not None)]
    for result in (html, plot):
        if result is not None:
            check_can_write(result, inputs, overwrite=overwrite)
    runs = {name: read_run(file) for name, file in files.items()}
    report = compare(runs, read_judgements(qrels), measures=measure or DEFAULT_MEASURES)
    if html is not None:
        html.write_text(_page(report, queries, corpus), encoding="utf-8")
        output.note(f"{html}: {len(report.queries)} queries")
    if plot is not None:
        output.save_plot(report.plot_gains(), plot)
    output.measured(report, as_json=as_json)


def _page(report: Report, queries: Path | None, corpus: Path | None) -> str:
    """Return the page of a report, with the texts of the queries and documents in these files."""
    ids = {id_ for run in report.runs.values() for ranking in run.values() for id_ in ranking}
    texts = _texts(queries, report.queries)
    named = {query_id: texts.get(query_id, "") for query_id in report.queries}
    return replace(report, queries=named).to_html(documents=_texts(corpus, ids))


def _texts(path: Path | None, ids: Iterable[str]) -> dict[str, str]:
    """Return the texts in a file, which may be large, of these ids."""
    if path is None:
        return {}
    with closing(TextIndex(path, None)) as index:
        return index.texts(ids)


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

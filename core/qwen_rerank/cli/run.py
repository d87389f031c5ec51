"""`qwen-rerank run`: rerank a whole run, and continue where an earlier attempt stopped."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.batch.estimate import EstimatingScorer
from qwen_rerank.batch.progress import format_usage
from qwen_rerank.batch.run import RunFiles, RunReranking
from qwen_rerank.cli.options import (
    Fields,
    ScorerMaker,
    TopN,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output
from qwen_rerank.cli.progress import RunProgress
from qwen_rerank.errors import InvalidInputError

__all__ = ["run"]


@takes_scorer_options
def run(
    ctx: typer.Context,
    make_scorer: ScorerMaker,
    candidates: Annotated[
        Path,
        typer.Option(
            help="What to rerank: a run in the format of TREC or MS MARCO, or JSON Lines (.jsonl) "
            "with one object per query: query_id, query and documents."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run to write, in TREC's format.")],
    queries: Annotated[
        Path | None,
        typer.Option(help="The queries: .jsonl as in BEIR, or lines of id, tab, text."),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="The documents: .jsonl as in BEIR, or lines of id, tab, text."),
    ] = None,
    field: Fields = None,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="How many documents of each query to rerank, from the first."),
    ] = None,
    top_n: TopN = None,
    keep_refused: Annotated[
        bool,
        typer.Option(
            "--keep-refused",
            help="If the content inspection refuses a text, keep the order of the query instead of "
            "stopping.",
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="How many queries run at once.")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the result if it exists.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard what earlier attempts have paid for."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything and say what it would cost, but send nothing."
        ),
    ] = False,
) -> None:
    """Rerank a whole run.

    Finished queries are kept in a journal next to OUT. To continue after an interruption or a
    failure, run the command again with the same options.
    """
    output: Output = ctx.obj
    if dry_run and restart:
        raise InvalidInputError(
            "--dry-run can't discard what is paid for.", remedy="Leave out --restart."
        )
    files = RunFiles(candidates, out, queries, corpus, overwrite=overwrite, restart=restart)
    with make_scorer() as chosen:
        with _status(output, "Reading the texts and the candidates …"):
            reranking = RunReranking(
                chosen, files, fields=field, depth=depth, top_n=top_n, keep_refused=keep_refused
            )
        with reranking:
            if dry_run:
                _estimate(output, reranking, make_scorer)
                return
            with RunProgress(output, reranking) as progress:
                reranking.rerank(max_concurrency=concurrency, progress=progress.show)
            progress.summarize(out)
            reranking.journal.remove()


def _estimate(output: Output, reranking: RunReranking, make_scorer: ScorerMaker) -> None:
    """Say what the queries that are not finished would cost, and leave no journal behind."""
    counts, finished = reranking.counts, len(reranking.journal.finished)
    with (
        make_scorer(EstimatingScorer) as estimating,
        _status(output, "Counting the tokens …"),
    ):
        usage = reranking.estimate(estimating)
    if finished:
        output.note(f"{finished:,} of {counts.queries:,} queries are finished.")
    else:
        reranking.journal.remove()
    price = "" if usage.cost is not None else ", at a price that is not known"
    output.result(
        f"{counts.queries - finished:,} queries would send {usage.texts_sent:,} texts in "
        f"{usage.requests:,} requests: {format_usage(usage)}{price}. Nothing was sent."
    )


def _status(output: Output, text: str) -> AbstractContextManager[object]:
    return output.notes.status(text) if output.shows_progress else nullcontext()

"""`qwen-rerank run`: rerank a whole run, and continue where an earlier attempt stopped."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qwen_rerank.batch.estimate import EstimatingScorer
from qwen_rerank.batch.progress import format_usage
from qwen_rerank.batch.ray_data import imported_ray
from qwen_rerank.batch.ray_run import CPUS, rerank_run_on_ray
from qwen_rerank.batch.run import RunFiles, RunReranking
from qwen_rerank.cli.options import (
    Overwrite,
    ScorerMaker,
    TopN,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output
from qwen_rerank.cli.progress import RunProgress
from qwen_rerank.errors import InvalidInputError, QwenRerankError

__all__ = ["run"]


_CONNECT_TIMEOUT = 10.0
"""How many seconds a cluster has to accept a connection."""


class Engine(StrEnum):
    """Where queries are reranked."""

    PROCESS = "process"
    RAY = "ray"


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
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            "-f",
            help="The JSON field with the text of a document in the corpus; repeatable, or a "
            "format string of fields. Queries keep their text.",
        ),
    ] = None,
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
    overwrite: Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard what earlier attempts have paid for."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything and say what it would cost, but send nothing. Needs no key.",
        ),
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Where to rerank: in this process, or on a Ray cluster.")
    ] = Engine.PROCESS,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: the cluster, such as auto; by default one on this machine."
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --engine ray: how many processes score, each with a model; default 1."
        ),
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="With --engine ray: how many GPUs each needs.")
    ] = None,
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
    if engine is Engine.PROCESS:
        _check_unused(address=address, actors=actors, gpus=gpus)
    elif dry_run and files.journal.exists():
        raise InvalidInputError(
            "--dry-run can't say what a job on Ray has finished.",
            remedy="Leave it out, or pass another --out to see what the whole run would cost.",
        )
    if engine is Engine.RAY and not dry_run:
        with _ray(address, output):
            done = rerank_run_on_ray(
                make_scorer,
                files,
                fields=field,
                depth=depth,
                top_n=top_n,
                keep_refused=keep_refused,
                concurrency=actors or 1,
                num_gpus=gpus,
                max_concurrency=concurrency,
            )
        output.note(f"Reranked {done.queries:,} queries.")
        output.note(f"Cost of this attempt: {format_usage(done.usage)}.")
        if done.unscored:
            reason = "no text, or their query was refused" if keep_refused else "no text"
            output.note(f"{done.unscored:,} documents have no score: they have {reason}.")
        output.note(f"Written to {out}.")
        return
    with make_scorer(sends=not dry_run) as chosen:
        with output.status("Reading the texts and the candidates …"):
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


def _check_unused(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidInputError(
                f"--{name} is only for jobs on Ray.", remedy="Leave it out, or add --engine ray."
            )


def _estimate(output: Output, reranking: RunReranking, make_scorer: ScorerMaker) -> None:
    """Say what the queries that are not finished would cost, and leave no journal behind."""
    counts, finished = reranking.counts, len(reranking.journal.finished)
    with (
        make_scorer(EstimatingScorer, sends=False) as estimating,
        output.status("Counting the tokens …"),
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


@contextmanager
def _ray(address: str | None, output: Output) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine, unless this process is connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default, Ray starts 32 processes to read the footers of the few files of the job.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    ray = imported_ray()
    was_connected = ray.is_initialized()
    if not was_connected:
        with output.status("Starting Ray …"):
            _connect(ray, address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = output.shows_progress
    context.raise_original_map_exception = True  # for `_cause`
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised, too
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    finally:
        if not was_connected:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    host, _, port = (address or "").rpartition(":")
    try:
        if port.isdecimal() and "://" not in host:  # Ray would try for minutes
            socket.create_connection(
                (host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT
            ).close()
        ray.init(**_cluster(address), log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, OverflowError) as error:  # such as Ray's ConnectionError
        if address is None:
            raise
        raise InvalidInputError(
            f"There is no Ray cluster at --address {address}: {error}.",
            remedy="Check the address, or leave it out to start Ray on this machine.",
        ) from error


def _cluster(address: str | None) -> dict[str, Any]:
    if address is not None:
        return {"address": address}
    return {"address": "local", "num_cpus": max(os.cpu_count() or 1, CPUS)}


def _cause(error: Any) -> Exception:
    """Return the library's error that made a Ray task fail, if it was one."""
    cause = error.cause
    return cause.with_traceback(None) if isinstance(cause, QwenRerankError) else error

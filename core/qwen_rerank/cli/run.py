"""`qwen-rerank run`: rerank a whole run, and continue where an earlier attempt stopped."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from qwen_rerank.cli.candidates import Candidates
from qwen_rerank.cli.journal import Journal, ScoredIds
from qwen_rerank.cli.options import (
    Fields,
    ScorerMaker,
    TopN,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output
from qwen_rerank.cli.progress import RunProgress
from qwen_rerank.cli.rerank_queries import TEXT, rerank_queries
from qwen_rerank.cli.run_file import already_exists, write_run
from qwen_rerank.cli.text_index import TextIndex
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.ranking.engine import RerankEngine

__all__ = ["run"]

_JOURNAL = ".journal"
"""What is appended to the name of the result for the name of the journal."""


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
) -> None:
    """Rerank a whole run.

    Finished queries are kept in a journal next to OUT. To continue after an interruption or a
    failure, run the command again with the same options.
    """
    output: Output = ctx.obj
    journal_path = out.parent / f"{out.name}{_JOURNAL}"
    inputs = [file for file in (candidates, queries, corpus) if file is not None]
    _check_files(inputs, out, journal_path)
    if os.path.lexists(out) and not overwrite and (restart or not journal_path.exists()):
        raise already_exists(out)
    with (
        make_scorer() as chosen,
        _read_candidates(output, candidates, queries, corpus, field, depth) as to_rank,
    ):
        options = {
            "scorer": chosen.fingerprint,
            "--field": field,
            "--depth": depth,
            "--top-n": top_n,
            **to_rank.digests,
        }
        with closing(Journal(journal_path, options, restart=restart)) as journal:
            _check_can_continue(out, journal, to_rank.counts.queries, overwrite, keep_refused)
            for _ in _rankings(to_rank, journal, top_n):
                pass  # check what is finished before more is paid for
            with RunProgress(output, to_rank.counts, journal) as progress:
                work = rerank_queries(
                    to_rank.jobs(journal.finished),
                    RerankEngine(chosen, rerank_field=TEXT, missing="keep"),
                    journal,
                    top_n=top_n,
                    keep_refused=keep_refused,
                    concurrency=concurrency,
                    progress=progress.advance,
                )
                asyncio.run(work)
                to_rank.check_unchanged()
                tag = "-".join(chosen.model.split())
                write_run(out, tag, _rankings(to_rank, journal, top_n), overwrite=overwrite)
            progress.summarize(out)
            journal.remove()


def _check_files(inputs: Sequence[Path], out: Path, journal: Path) -> None:
    """Refuse an impossible result, and inputs that can't be read twice or would be overwritten."""
    if not out.name or out.is_dir() or (out.exists() and not out.is_file()):
        raise InvalidInputError(
            f"{str(out)!r} can't be the result: it is not a file.", remedy="Pass a file as --out."
        )
    if not out.parent.is_dir():
        raise InvalidInputError(f"There is no folder {out.parent}.", remedy="Create it.")
    written = {out.resolve(), journal.resolve()}
    for file in inputs:
        if not file.is_file() and not file.is_dir() and file.exists():
            raise InvalidInputError(
                f"{file} is a pipe or a device, but inputs are read more than once.",
                remedy="Write it to a file first.",
            )
        if file.resolve() in written:
            raise InvalidInputError(
                f"{file} is an input and would be overwritten.",
                remedy="Pass another file as --out.",
            )


def _check_can_continue(
    out: Path, journal: Journal, queries: int, overwrite: bool, keep_refused: bool
) -> None:
    if os.path.lexists(out) and not overwrite and len(journal.finished) < queries:
        if not journal.finished:
            journal.remove()
        raise already_exists(out)
    if journal.refused and not keep_refused:
        raise InvalidInputError(
            f"{journal.refused:,} of the finished queries were refused by the content inspection.",
            remedy="Continue with --keep-refused, or start over with --restart.",
        )


def _rankings(
    candidates: Candidates, journal: Journal, top_n: int | None
) -> Iterator[tuple[str, ScoredIds]]:
    """Yield the finished queries and their rankings, in the order of the candidates."""
    for query_id, document_ids in candidates.document_ids():
        if query_id in journal.finished:
            yield query_id, journal.ranking(query_id, document_ids, top_n)


@contextmanager
def _read_candidates(
    output: Output,
    candidates: Path,
    queries: Path | None,
    corpus: Path | None,
    fields: Sequence[str] | None,
    depth: int | None,
) -> Iterator[Candidates]:
    with ExitStack() as stack:
        with _status(output, "Reading the texts and the candidates …"):
            query_index, corpus_index = (
                stack.enter_context(_open_index(file, fields)) for file in (queries, corpus)
            )
            to_rank = Candidates(candidates, query_index, corpus_index, depth)
        yield to_rank


def _open_index(
    file: Path | None, fields: Sequence[str] | None
) -> AbstractContextManager[TextIndex | None]:
    return nullcontext() if file is None else closing(TextIndex(file, fields))


def _status(output: Output, text: str) -> AbstractContextManager[object]:
    return output.notes.status(text) if output.shows_progress else nullcontext()

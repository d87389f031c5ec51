"""`qwen-rerank run`: a whole run reranked, which can be stopped and started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from qwen_rerank.cli.candidates import Candidates, Counts
from qwen_rerank.cli.journal import Journal
from qwen_rerank.cli.options import (
    Dialect,
    Fields,
    Instruct,
    Kind,
    Model,
    Passages,
    Region,
    RequestsPerMinute,
    ScorerKind,
    Timeout,
    TokensPerMinute,
    TopN,
    Url,
    make_scorer,
)
from qwen_rerank.cli.output import Output, spent
from qwen_rerank.cli.rerank_queries import PART, rerank_all, write_run
from qwen_rerank.cli.text_index import TextIndex
from qwen_rerank.datasets import TEXT_FIELDS
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.ranking.engine import RerankEngine

__all__ = ["run"]

_JOURNAL = ".journal"
"""What is added to the result's name for that of the journal."""


def run(
    ctx: typer.Context,
    candidates: Annotated[
        Path,
        typer.Option(
            help="What to rerank: a run in TREC's format, or JSON Lines (.jsonl), an object a "
            "query with query_id, query and documents."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run to write, in TREC's format.")],
    queries: Annotated[
        Path | None,
        typer.Option(help="The queries' texts: .jsonl as in BEIR, or lines of id, tab, text."),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="The documents' texts: .jsonl as in BEIR, or lines of id, tab, text."),
    ] = None,
    field: Fields = None,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Rerank so many of each query, the first; leave out the others."),
    ] = None,
    top_n: TopN = None,
    scorer: Kind = ScorerKind.DASHSCOPE,
    model: Model = None,
    instruct: Instruct = None,
    region: Region = None,
    url: Url = None,
    dialect: Dialect = None,
    timeout: Timeout = None,
    passages: Passages = False,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    keep_refused: Annotated[
        bool,
        typer.Option(
            "--keep-refused",
            help="Leave a query in the order it has where the content inspection refuses a text, "
            "instead of stopping.",
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Queries at the same time.")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that is there.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what a run that was stopped has paid for.")
    ] = False,
) -> None:
    """Rerank a whole run.

    Finished queries are in a journal beside OUT. A run that was stopped, however it was, goes on
    where it was when it is started again with the same options.
    """
    output: Output = ctx.obj
    path = out.parent / f"{out.name}{_JOURNAL}"
    _check_files(out, [file for file in (candidates, queries, corpus) if file is not None])
    if out.exists() and not overwrite and (restart or not path.exists()):
        raise _is_there(out)
    fields = tuple(field or TEXT_FIELDS)
    with (
        make_scorer(
            scorer,
            model=model,
            instruct=instruct,
            region=region,
            url=url,
            dialect=dialect,
            timeout=timeout,
            passages=passages,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        ) as chosen,
        _read(output, candidates, queries, corpus, fields, depth) as given,
    ):
        options = {
            "scorer": chosen.fingerprint,
            "--field": fields,
            "--depth": depth,
            "--top-n": top_n,
            **given.inputs,
        }
        with closing(Journal(path, options, restart=restart)) as journal:
            if out.exists() and not overwrite and not journal.done:  # another process was faster
                journal.remove()
                raise _is_there(out)
            _check_refused(journal, keep_refused)
            with _Watch(output, given.counts, journal) as watch:
                work = rerank_all(
                    given.jobs(journal.done),
                    RerankEngine(chosen, rerank_field="text", missing="keep"),
                    journal,
                    top_n=top_n,
                    keep_refused=keep_refused,
                    concurrency=concurrency,
                    progress=watch.advance,
                )
                asyncio.run(work)
                given.check_unchanged()
                write_run(out, "-".join(chosen.model.split()), given, journal)
            watch.summarize(out)
            journal.remove()


def _check_files(out: Path, inputs: Sequence[Path]) -> None:
    """See that the inputs can be read more than once, and that none of them is written to."""
    if not out.parent.is_dir():
        raise InvalidInputError(f"There is no folder {str(out.parent)!r}.", remedy="Make it.")
    if out.exists() and not out.is_file():
        raise InvalidInputError(f"{str(out)!r} is no file.", remedy="Name one with --out.")
    written = {(out.parent / f"{out.name}{ending}").resolve() for ending in ("", PART, _JOURNAL)}
    for file in inputs:
        if not file.is_file() and not file.is_dir() and file.exists():
            raise InvalidInputError(
                f"{file} is a pipe or a device, and is read more than once.",
                remedy="Write it to a file first.",
            )
        if file.resolve() in written:
            raise InvalidInputError(
                f"{file} is read, and would be written to.", remedy="Name another file with --out."
            )


def _check_refused(journal: Journal, keep_refused: bool) -> None:
    if journal.refused and not keep_refused:
        raise InvalidInputError(
            f"{journal.refused:,} of the queries that are finished were refused.",
            remedy="Go on with --keep-refused, or throw away what is paid for with --restart.",
        )


def _is_there(out: Path) -> InvalidInputError:
    return InvalidInputError(
        f"{out} is there already.", remedy="Pass --overwrite, or another name."
    )


@contextmanager
def _read(
    output: Output,
    candidates: Path,
    queries: Path | None,
    corpus: Path | None,
    fields: Sequence[str],
    depth: int | None,
) -> Iterator[Candidates]:
    with ExitStack() as stack:
        with _waiting(output, "Reading the texts and the candidates"):
            texts = (stack.enter_context(_index(file, fields)) for file in (queries, corpus))
            given = Candidates(candidates, next(texts), next(texts), depth)
        yield given


def _index(file: Path | None, fields: Sequence[str]) -> AbstractContextManager[TextIndex | None]:
    return nullcontext() if file is None else closing(TextIndex(file, fields))


def _waiting(output: Output, what: str) -> AbstractContextManager[object]:
    return output.notes.status(f"{what} …") if output.shows_progress else nullcontext()


class _Watch:
    """Says how far a run is, what it has cost, and how it ended."""

    def __init__(self, output: Output, counts: Counts, journal: Journal) -> None:
        self._screen = output
        self._counts = counts
        self._journal = journal
        self._before = len(journal.done)
        self._started = time.monotonic()
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("queries"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[spent]}"),
            console=output.notes,
            expand=True,
        )
        self._task = self._progress.add_task(
            "", total=counts.queries, completed=self._before, spent=spent(journal.usage)
        )

    def advance(self) -> None:
        """Another query is finished."""
        self._progress.update(self._task, advance=1, spent=spent(self._journal.usage))

    def __enter__(self) -> Self:
        if self._before:
            self._screen.note(f"{self._before:,} of {self._of} are finished already.")
        if self._screen.shows_progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._screen.shows_progress:
            self._progress.stop()
        if error is not None:
            self._screen.note(
                f"Stopped. {len(self._journal.done):,} of {self._of} are finished and kept: start "
                "it again to go on."
            )

    def summarize(self, out: Path) -> None:
        """Say what was done, and what it has cost."""
        counts, usage, note = self._counts, self._journal.usage, self._screen.note
        seconds = max(time.monotonic() - self._started, 0.001)
        queries = counts.queries - self._before
        note(
            f"Reranked {counts.queries:,} queries, {counts.documents:,} documents: {queries:,} "
            f"queries now, in {seconds:.1f} s, {queries / seconds:.1f} a second."
        )
        note(f"It took {usage.requests:,} requests, {usage.retries:,} retries; {spent(usage)}.")
        if counts.beyond:
            note(f"{counts.beyond:,} documents beyond --depth were left out.")
        if counts.without:
            note(f"{counts.without:,} queries have no candidates, and are not in the result.")
        if self._journal.textless:
            note(f"{self._journal.textless:,} documents have no text, and stand behind the others.")
        if self._journal.refused:
            note(f"{self._journal.refused:,} queries were refused and keep the order they had.")
        if self._screen.unsaid:
            note(f"{self._screen.unsaid:,} warnings like those above were not repeated.")
        note(f"Written to {out}.")

    @property
    def _of(self) -> str:
        return f"{self._counts.queries:,} queries"


class _Rate(ProgressColumn):
    """Queries a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")

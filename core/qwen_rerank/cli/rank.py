"""`qwen-rerank rank`: documents from files or standard input, best first."""

from __future__ import annotations

import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.bar import Bar

from qwen_rerank.cli.options import (
    AsJson,
    Dialect,
    Fields,
    Instruct,
    Kind,
    Model,
    Passages,
    Region,
    ScorerKind,
    Timeout,
    TopN,
    Url,
    make_scorer,
)
from qwen_rerank.cli.output import Output, one_line
from qwen_rerank.datasets import is_json_lines, json_object, lines, numbered, read_at
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.tables import empty_table
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import Ranking

__all__ = ["rank"]

_TEXT = "text"
"""The field of a record with a plain line."""

_BAR = 10
"""How many characters wide the bar of the best score is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document was read, and what it is: a line, or the object of a JSON line."""

    file: str | None
    line: int
    document: str | Mapping[str, Any]

    def __str__(self) -> str:
        return str(self.line) if self.file is None else f"{self.file}:{self.line}"


def rank(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="What the documents should be relevant to.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files with a document a line; standard input without any, or for -."),
    ] = None,
    field: Fields = None,
    top_n: TopN = None,
    scorer: Kind = ScorerKind.DASHSCOPE,
    model: Model = None,
    instruct: Instruct = None,
    region: Region = None,
    url: Url = None,
    dialect: Dialect = None,
    timeout: Timeout = None,
    passages: Passages = False,
    as_json: AsJson = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print JSON, a line each.")] = False,
) -> None:
    """Rank documents, a line each, by their relevance to QUERY.

    Lines are plain text, or JSON objects where --field names what to rank by.
    """
    if as_json and as_jsonl:
        raise InvalidInputError("--json and --jsonl can't both be printed.", remedy="Take one.")
    output: Output = ctx.obj
    documents = list(_documents(files or [Path("-")], field))
    if not documents:
        output.note("There are no documents.")
    with make_scorer(
        scorer,
        model=model,
        instruct=instruct,
        region=region,
        url=url,
        dialect=dialect,
        timeout=timeout,
        passages=passages,
    ) as chosen:
        engine = RerankEngine(chosen, rerank_field=_rerank_field(field))
        ranking = engine.rerank(query, documents, top_n)
    if documents and ranking.skipped == len(documents):
        raise InvalidInputError(
            f"None of the {len(documents)} documents has a text in {' or '.join(field or [_TEXT])}."
        )
    if as_json:
        output.json(list(_rows(ranking)), indent=2)
    elif as_jsonl:
        for row in _rows(ranking):
            output.json(row)
    else:
        _show(output, ranking, engine.candidates(ranking).items)
    if ranking.skipped:
        output.note(f"{ranking.skipped} of {len(documents)} documents have no text; left out.")


def _rerank_field(field: list[str] | None) -> str | list[str]:
    """One field may be a format string, such as "{title}: {text}"."""
    if field is None:
        return _TEXT
    return field[0] if len(field) == 1 else field


def _documents(files: Sequence[Path], field: Sequence[str] | None) -> Iterator[Record]:
    place = 0
    read: Callable[[bytes], str | Mapping[str, Any]] = _line if field is None else json_object
    for file in files:
        name = None if len(files) == 1 else str(file)
        for number, line in _lines(file, field):
            document = read_at(file, number, read, line)
            fields = {_TEXT: document} if isinstance(document, str) else document
            yield Record(str(place), fields, source=Place(name, number, document))
            place += 1


def _lines(file: Path, field: Sequence[str] | None) -> Iterable[tuple[int, bytes]]:
    if str(file) == "-":
        if sys.stdin.isatty():
            raise InvalidInputError(
                "There are no documents.", remedy="Name a file with one a line, or pipe them in."
            )
        return numbered(sys.stdin.buffer)
    if field is None and is_json_lines(file):
        raise InvalidInputError(
            f"{file} holds JSON, and nothing says which field to rank by.",
            remedy="Name it, for example with --field text.",
        )
    return lines(file)


def _line(line: bytes) -> str:
    return line.removeprefix(BOM_UTF8).decode().rstrip("\r\n")


def _rows(ranking: Ranking) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(ranking, start=1):
        place: Place = record.source
        yield {
            "rank": number,
            "score": record.score,
            **({} if place.file is None else {"file": place.file}),
            "line": place.line,
            "document": place.document,
        }


def _show(output: Output, ranking: Ranking, items: Sequence[Item | None]) -> None:
    shown = empty_table(
        ("rank", "right"), ("score", "right"), ("", "left"), ("line", "right"), ("document", "left")
    )
    scores = [record.score or 0.0 for record in ranking]
    lowest, highest = min([0.0, *scores]), max([0.0, *scores])
    rows = zip(ranking, scores, items, strict=True)
    for number, (record, score, item) in enumerate(rows, start=1):
        bar = Bar(highest - lowest or 1.0, 0, score - lowest, width=_BAR)
        text = one_line(text_of(item or ""))
        shown.add_row(str(number), f"{score:.4f}", bar, str(record.source), text)
    if scores:
        output.table(shown)

"""`qwen-rerank rank`: rank documents from files or standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import from_json
from rich.bar import Bar

from qwen_rerank.cli.options import (
    AsJson,
    Fields,
    ScorerMaker,
    TopN,
    takes_scorer_options,
)
from qwen_rerank.cli.output import Output, one_line
from qwen_rerank.datasets import (
    decode_line,
    is_json_lines,
    numbered_lines,
    parse_json_object,
    parse_line,
    read_lines,
)
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.tables import empty_table
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import Ranking

__all__ = ["rank"]

_TEXT = "text"
"""The field of a record that has the text of a plain line."""

_BAR_WIDTH = 10
"""The width in characters of the bar of the highest score."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a document comes from, and what it is: a line of text or a JSON object.

    Attributes:
        file: The file, or None if there is only one.
        line: The number of the line, from 1.
        document: The text or the object.
    """

    file: str | None
    line: int
    document: str | Mapping[str, Any]

    def __str__(self) -> str:
        return str(self.line) if self.file is None else f"{self.file}:{self.line}"


@takes_scorer_options
def rank(
    ctx: typer.Context,
    make_scorer: ScorerMaker,
    query: Annotated[str, typer.Argument(help="What the documents should be relevant to.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Files with one document per line; without any, or -, standard input."),
    ] = None,
    field: Fields = None,
    top_n: TopN = None,
    as_json: AsJson = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON object per line.")
    ] = False,
) -> None:
    """Rank documents, one per line, by their relevance to QUERY.

    Lines are plain text, or JSON objects if --field names the field to rank by.
    """
    if as_json and as_jsonl:
        raise InvalidInputError("--json and --jsonl can't be combined.", remedy="Choose one.")
    output: Output = ctx.obj
    documents = list(_read_documents(files or [Path("-")], field))
    if not documents:
        output.note("There are no documents.")
    with make_scorer() as chosen:
        engine = RerankEngine(chosen, rerank_field=_rerank_field(field))
        ranking = engine.rerank(query, documents, top_n)
    if documents and ranking.skipped == len(documents):
        names = " or ".join(field or [_TEXT])
        raise InvalidInputError(f"None of the {len(documents)} documents has a text in {names}.")
    if as_json:
        output.json(list(_json_rows(ranking)), indent=2)
    elif as_jsonl:
        for row in _json_rows(ranking):
            output.json(row)
    else:
        _print_table(output, ranking, engine.candidates(ranking).items)
    if ranking.skipped:
        output.note(
            f"{ranking.skipped} of {len(documents)} documents have no text and were left out."
        )


def _rerank_field(field: list[str] | None) -> str | list[str]:
    """Return the fields; a single one may be a format string, such as "{title}: {text}"."""
    if field is None:
        return _TEXT
    return field[0] if len(field) == 1 else field


def _read_documents(files: Sequence[Path], field: Sequence[str] | None) -> Iterator[Record]:
    parse: Callable[[bytes], str | Mapping[str, Any]] = (
        _parse_text if field is None else parse_json_object
    )
    count = 0
    for file in files:
        name = None if len(files) == 1 else str(file)
        shown = "standard input" if str(file) == "-" else file
        sources = [
            _Source(name, number, parse_line(shown, number, parse, line))
            for number, line in _file_lines(file, field)
        ]
        _check_not_json(shown, [source.document for source in sources])
        for source in sources:
            document = source.document
            fields = {_TEXT: document} if isinstance(document, str) else document
            yield Record(str(count), fields, source=source)
            count += 1


def _file_lines(file: Path, field: Sequence[str] | None) -> Iterable[tuple[int, bytes]]:
    if str(file) == "-":
        if sys.stdin.isatty():
            raise InvalidInputError(
                "There are no documents.",
                remedy="Name a file with one document per line, or pipe them in.",
            )
        return numbered_lines(sys.stdin.buffer, "standard input")
    if field is None and is_json_lines(file):
        raise _json_without_field(file, "contains JSON Lines")
    return read_lines(file)


def _parse_text(line: bytes) -> str:
    return decode_line(line).rstrip("\r\n")


def _check_not_json(file: object, documents: Sequence[str | Mapping[str, Any]]) -> None:
    """Refuse lines of plain text that are JSON: each object would count as a text."""
    texts = [document for document in documents if isinstance(document, str)]
    if not texts or texts[0].lstrip()[:1] not in ("[", "{"):
        return
    for text in (texts[0], "\n".join(texts)):
        try:
            value = from_json(text)
        except ValueError:
            continue
        if isinstance(value, list) and all(isinstance(each, str | list | dict) for each in value):
            raise InvalidInputError(
                f"{file} is a JSON array, not one document per line.",
                remedy="Convert it with jq -c '.[]', and name the field to rank by with --field.",
            )
        if isinstance(value, dict):
            raise _json_without_field(file, "contains JSON")


def _json_without_field(file: object, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"{file} {problem}, but no field to rank by is named.",
        remedy="Name it, for example --field text.",
    )


def _json_rows(ranking: Ranking) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(ranking, start=1):
        source: _Source = record.source
        yield {
            "rank": number,
            "score": record.score,
            **({} if source.file is None else {"file": source.file}),
            "line": source.line,
            "document": source.document,
        }


def _print_table(output: Output, ranking: Ranking, items: Sequence[Item | None]) -> None:
    table = empty_table(
        ("rank", "right"), ("score", "right"), ("", "left"), ("line", "right"), ("document", "left")
    )
    scores = [record.score or 0.0 for record in ranking]
    lowest, highest = min([0.0, *scores]), max([0.0, *scores])
    rows = zip(ranking, scores, items, strict=True)
    for number, (record, score, item) in enumerate(rows, start=1):
        bar = Bar(highest - lowest or 1.0, 0, score - lowest, width=_BAR_WIDTH)
        line, text = one_line(str(record.source)), one_line(text_of(item or ""))
        table.add_row(str(number), f"{score:.4f}", bar, line, text)
    if scores:
        output.table(table)

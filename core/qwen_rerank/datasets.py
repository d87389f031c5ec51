"""Queries, corpora, judgements and runs as files: TREC's formats, and those of BEIR's data sets.

A file whose name ends in `.gz` is unpacked as it is read.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic_core import from_json

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import is_finite

__all__ = [
    "TEXT_FIELDS",
    "entry_reader",
    "is_json_lines",
    "json_object",
    "lines",
    "numbered",
    "read_at",
    "read_judgements",
    "read_run",
    "read_texts",
    "run_by_query",
]

T = TypeVar("T")

TEXT_FIELDS = ("title", "text")
"""The fields of a JSON entry that make its text, as BEIR names them."""

Found: TypeAlias = tuple[str, dict[str, float]]
"""A query's id, and documents with their scores, highest first; equal ones as in the file."""

Entry: TypeAlias = tuple[str, str]
"""An id and its text."""


def read_texts(
    path: str | Path, *, fields: Sequence[str] = TEXT_FIELDS, id_field: str | None = None
) -> dict[str, str]:
    """Queries or documents by their ids.

    Args:
        path: JSON Lines, where its name ends in `.jsonl`; else lines of an id, a tab and a text.
        fields: The fields of a JSON entry that make its text, joined by line breaks; one that is
            not there is left out.
        id_field: The field with its id; `"_id"` or else `"id"` if None.

    Raises:
        InvalidInputError: A line that is no entry, or an id that was there before.
        OSError: The file can't be read.
    """
    read = entry_reader(path, fields, id_field)
    texts: dict[str, str] = {}
    for number, line in lines(path):
        id_, text = read_at(path, number, read, line)
        if id_ in texts:
            raise _wrong(path, number, f"the id {id_!r} was there before")
        texts[id_] = text
    return texts


def read_judgements(path: str | Path) -> dict[str, dict[str, int]]:
    """Gains of documents by query: TREC's four columns, or BEIR's three under a header.

    Raises:
        InvalidInputError: A line that is no judgement, or contradicts one before.
        OSError: The file can't be read.
    """
    gains: dict[str, dict[str, int]] = {}
    for number, line in lines(path):
        columns = read_at(path, number, _columns, line)
        if number == 1 and len(columns) == 3 and not _is_whole(columns[-1]):
            continue
        query_id, document_id, gain = read_at(path, number, _judgement, columns)
        if gains.setdefault(query_id, {}).setdefault(document_id, gain) != gain:
            raise _wrong(path, number, f"{document_id!r} had another gain for {query_id!r} before")
    return gains


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """A run in TREC's format: by query, documents by falling score; equal ones as in the file.

    Raises:
        InvalidInputError: A line that is no result, or a query whose lines are not together.
        OSError: The file can't be read.
    """
    return dict(run_by_query(path))


def run_by_query(path: str | Path) -> Iterator[Found]:
    """The queries of a run in TREC's format one after the other, however long the file is.

    The lines of a query must be together, as tools write them.

    Raises:
        InvalidInputError: A line that is no result, a query that comes back after another one, or a
            document that is there twice.
        OSError: The file can't be read.
    """
    seen: set[str] = set()
    results = ((number, *read_at(path, number, _result, line)) for number, line in lines(path))
    for query_id, of_query in groupby(results, key=lambda result: result[1]):
        found: dict[str, float] = {}
        for number, _, document_id, score in of_query:
            if query_id in seen:
                raise InvalidInputError(
                    f"{path}, line {number}: query {query_id!r} comes back after another one.",
                    remedy=f"Bring its lines together: sort --stable --key=1,1 {path}",
                )
            if document_id in found:
                raise _wrong(path, number, f"{document_id!r} is there twice for {query_id!r}")
            found[document_id] = score
        seen.add(query_id)
        yield query_id, dict(sorted(found.items(), key=lambda item: -item[1]))


def lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers, from 1.

    Raises:
        InvalidInputError: A packed file that is damaged, or is not packed.
        OSError: The file can't be read.
    """
    with _opened(path) as file:
        try:
            yield from numbered(file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInputError(f"{path} is damaged, or is not packed: {error}.") from error


def numbered(file: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of an open file that are not blank, with their numbers, from 1."""
    return ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def is_json_lines(path: str | Path) -> bool:
    """Whether the file's name says that a JSON object stands on each line."""
    suffixes = [suffix for suffix in Path(path).suffixes if suffix != ".gz"]
    return suffixes[-1:] in ([".jsonl"], [".ndjson"])


def entry_reader(
    path: str | Path, fields: Sequence[str], id_field: str | None = None
) -> Callable[[bytes], Entry]:
    """What reads a line of this file as an id and a text, and raises ValueError where it can't."""
    if is_json_lines(path):
        return lambda line: _json_entry(line, fields, id_field)
    return _tabbed_entry


def _opened(path: str | Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if Path(path).suffix == ".gz" else Path(path).open("rb")


def read_at(path: str | Path, number: int, read: Callable[[Any], T], given: object) -> T:
    """What `read` makes of it; a ValueError says where in the file it was."""
    try:
        return read(given)
    except ValueError as error:
        raise _wrong(path, number, str(error)) from error


def _wrong(path: str | Path, number: int, what: str) -> InvalidInputError:
    return InvalidInputError(f"{path}, line {number}: {what}.")


def _json_entry(line: bytes, fields: Sequence[str], id_field: str | None) -> Entry:
    entry = json_object(line)
    names = ("_id", "id") if id_field is None else (id_field,)
    id_ = next((entry[name] for name in names if entry.get(name) not in (None, "")), None)
    if id_ is None:
        raise ValueError(f"it has no {' or '.join(names)}")
    if not any(name in entry for name in fields):
        raise ValueError(f"it has no {' or '.join(fields)}")
    texts = [entry[name] for name in fields if entry.get(name) is not None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{' or '.join(fields)} is no text")
    return str(id_), "\n".join(text for text in texts if text.strip())


def json_object(line: bytes) -> Mapping[str, Any]:
    """The object of a line; raises ValueError where there is none. Faster than the json module."""
    try:
        entry = from_json(line.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        where = str(error).replace(" at line 1 ", " at ")
        raise ValueError(f"it is no JSON ({where})") from error
    if not isinstance(entry, Mapping):
        raise ValueError("it is no JSON object")
    return entry


def _tabbed_entry(line: bytes) -> Entry:
    id_, tab, text = line.decode("utf-8-sig").rstrip("\r\n").partition("\t")
    if not tab or not id_:
        raise ValueError("it is not an id, a tab and a text; JSON Lines end in .jsonl")
    return id_, text


def _columns(line: bytes) -> list[str]:
    """What white space parts; not that of Unicode, which an id may hold."""
    return [column.decode() for column in line.removeprefix(codecs.BOM_UTF8).split()]


def _judgement(columns: Sequence[str]) -> tuple[str, str, int]:
    if len(columns) not in (3, 4) or not _is_whole(columns[-1]):
        raise ValueError("a judgement is: query, iteration, document, gain; or without iteration")
    return columns[0], columns[-2], int(columns[-1])


def _result(line: bytes) -> tuple[str, str, float]:
    columns = _columns(line)
    try:
        query_id, _, document_id, _, number, _ = columns
        score = float(number)
    except ValueError:
        score = float("nan")
    if not is_finite(score):
        raise ValueError("a result is: query, Q0, document, rank, score, name")
    return query_id, document_id, score


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()

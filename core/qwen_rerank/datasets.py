"""Read queries, corpora, judgements and runs in the formats of TREC, BEIR, MS MARCO and Anserini.

All files are UTF-8, with or without a byte order mark, with lines that end in LF or CRLF. A file
whose name ends in `.gz` is decompressed as it is read. Blank lines are skipped. Columns are
separated by any number of tabs or spaces, except in files of texts, where a tab follows the id.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from pydantic_core import from_json

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import text_of
from qwen_rerank.inputs.fields import FieldAccess, ItemReader
from qwen_rerank.inputs.templates import is_template
from qwen_rerank.validation import is_finite

__all__ = [
    "COLUMN",
    "ID_FIELDS",
    "TEXT_FIELDS",
    "check_is_text",
    "decode_line",
    "entry_parser",
    "is_blank",
    "is_json_lines",
    "iter_run",
    "numbered_lines",
    "parse_json_object",
    "parse_line",
    "read_judgements",
    "read_lines",
    "read_run",
    "read_texts",
    "text_parser",
]

T = TypeVar("T")

TEXT_FIELDS = ("title", "text")
"""The fields of a JSON entry that make up its text, as in BEIR."""

_CONTENTS = "contents"
"""The field with the text in Anserini's JSON, used for an entry without the fields above."""

ID_FIELDS = ("_id", "id", "pid", "docid", "qid")
"""The fields that may hold the id of a JSON entry, as in BEIR, Anserini and MS MARCO."""

QueryRanking: TypeAlias = tuple[str, dict[str, float]]
"""A query id, and the scores of its documents, highest first; ties in the order of the file."""

Entry: TypeAlias = tuple[str, str]
"""An id and its text."""


def read_texts(
    path: str | Path, *, fields: str | Sequence[str] | None = None, id_field: str | None = None
) -> dict[str, str]:
    """Read queries or documents.

    Args:
        path: JSON Lines if the name ends in `.jsonl` or `.ndjson`; otherwise lines with an id, a
            tab and a text.
        fields: The field of a JSON entry with its text, or several, joined by line breaks; those
            that an entry does not have are left out. Or a format string of fields, such as
            `"{title}: {text}"`. None for `"title"` and `"text"`, or `"contents"`.
        id_field: The field with the id of a JSON entry; None for the first of `"_id"`, `"id"`,
            `"pid"`, `"docid"` and `"qid"`.

    Returns:
        The texts by id. A line that repeats an earlier one counts once.

    Raises:
        InvalidInputError: A line is invalid, or an id has two different texts.
        OSError: The file can't be read.
    """
    parse = text_parser(path, fields, id_field)
    texts: dict[str, str] = {}
    for number, line in read_lines(path):
        id_, text = parse_line(path, number, parse, line)
        if texts.setdefault(id_, text) != text:
            raise _line_error(path, number, f"the id {id_!r} has another text on an earlier line")
    return texts


def read_judgements(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgements: TREC's four columns, or BEIR's three with or without a header.

    Returns:
        The gains by query id and document id. A line that repeats an earlier one counts once.

    Raises:
        InvalidInputError: A line is invalid, or contradicts an earlier one, or the file is empty.
        OSError: The file can't be read.
    """
    gains: dict[str, dict[str, int]] = {}
    is_first = True
    for number, line in read_lines(path):
        columns = parse_line(path, number, _columns_of, line)
        if is_first and _is_header(columns):
            is_first = False
            continue
        is_first = False
        query_id, document_id, gain = parse_line(path, number, _judgement, columns)
        if (earlier := gains.setdefault(query_id, {}).setdefault(document_id, gain)) != gain:
            raise _line_error(
                path,
                number,
                f"{document_id!r} has the gain {gain} for query {query_id!r}, but {earlier} in an "
                "earlier line",
            )
    if not gains:
        problem = "is empty" if is_first else "has a header, but no judgements"
        raise InvalidInputError(f"{path} {problem}.", remedy="Pass the file with the judgements.")
    return gains


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read a run; see `iter_run`.

    Returns:
        By query id, the scores of its documents, highest first; ties in the order of the file.

    Raises:
        InvalidInputError: See `iter_run`.
        OSError: The file can't be read.
    """
    return dict(iter_run(path))


def iter_run(path: str | Path) -> Iterator[QueryRanking]:
    """Read a run one query at a time, however long the file is.

    The file has TREC's six columns (query, Q0, document, rank, score, tag), whose ranks are
    ignored, as in trec_eval; or MS MARCO's three (query, document, rank), where a document's score
    is minus its rank. All lines of a query must be together.

    Raises:
        InvalidInputError: A line is invalid, the lines of a query are not together, or a document
            is listed twice with different scores or ranks.
        OSError: The file can't be read.
    """
    parser = _RunParser()
    results = (
        (number, parse_line(path, number, parser.parse, line)) for number, line in read_lines(path)
    )
    finished: set[str] = set()
    for query_id, group in groupby(results, key=lambda result: result[1].query_id):
        yield query_id, _ranking(path, group, finished)
        finished.add(query_id)


class _Result(NamedTuple):
    """One line of a run. In MS MARCO's format the score is minus the rank."""

    query_id: str
    document_id: str
    score: float
    is_rank: bool


def _ranking(
    path: str | Path, results: Iterable[tuple[int, _Result]], finished: Collection[str]
) -> dict[str, float]:
    """Return the ranking of one query; raise if the query is already finished."""
    scores: dict[str, float] = {}
    by_rank: dict[float, str] = {}
    for number, (query_id, document_id, score, is_rank) in results:
        if query_id in finished:
            raise InvalidInputError(
                f"{path}, line {number}: the lines of query {query_id!r} are not together.",
                remedy=f"Sort the file by query: {_sort_command(path)}",
            )
        if scores.setdefault(document_id, score) != score:
            raise _line_error(
                path, number, f"{document_id!r} is listed twice for query {query_id!r}"
            )
        if is_rank and by_rank.setdefault(score, document_id) != document_id:
            raise _line_error(
                path,
                number,
                f"{document_id!r} and {by_rank[score]!r} both have rank {-score:.0f} for query "
                f"{query_id!r}; the third column of a run in MS MARCO's format is the rank",
            )
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


class _RunParser:
    """Parses the lines of a run, which must all have the same format."""

    def __init__(self) -> None:
        self._count: int | None = None

    def parse(self, line: bytes) -> _Result:
        columns = _columns_of(line)
        if len(columns) not in (3, 6) or columns[0][0] in "{[":
            raise ValueError(
                "expected 6 columns (query, Q0, document, rank, score, tag), or in MS MARCO's "
                f"format 3 (query, document, rank), got {len(columns)}{_format_hint(columns)}"
            )
        if self._count not in (None, len(columns)):
            raise ValueError(f"expected {self._count} columns as before, got {len(columns)}")
        self._count = len(columns)
        if len(columns) == 3:
            query_id, document_id, rank = columns
            return _Result(query_id, document_id, -_parse_rank(rank), is_rank=True)
        query_id, _, document_id, _, score, _ = columns
        return _Result(query_id, document_id, _parse_score(score), is_rank=False)


def _parse_score(text: str) -> float:
    score = _parse_float(text)
    if not is_finite(score):
        raise ValueError(f"column 5, the score, is {text!r}, not a finite number")
    return score


def _parse_rank(text: str) -> float:
    rank = _parse_float(text)
    if not is_finite(rank) or rank < 0 or rank != int(rank):
        raise ValueError(
            f"column 3, the rank, is {text!r}, not an integer from 0; a run with scores needs all "
            "6 columns"
        )
    return rank


def _parse_float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _sort_command(path: str | Path) -> str:
    if Path(path).suffix == ".gz":
        return f"gunzip --stdout {path} | sort --stable --key=1,1"
    return f"sort --stable --key=1,1 {path}"


_HEADERS = ("query-id", "query_id", "queryid", "qid", "query", "topic")
"""The first column of a header."""


def _is_header(columns: Sequence[str]) -> bool:
    return columns[0].lower() in _HEADERS and _parse_float(columns[-1]) is None


def _judgement(columns: Sequence[str]) -> tuple[str, str, int]:
    if len(columns) not in (3, 4):
        raise ValueError(
            "expected 4 columns (query, iteration, document, gain), or in BEIR's format 3 (query, "
            f"document, gain), got {len(columns)}{_format_hint(columns)}"
        )
    gain = _parse_float(columns[-1])
    if not is_finite(gain) or gain != int(gain):
        raise ValueError(
            f"column {len(columns)}, the gain, is {columns[-1]!r}, not an integer such as 1 or 1.0"
        )
    return columns[0], columns[-2], int(gain)


def _columns_of(line: bytes) -> list[str]:
    text = decode_line(line)
    columns = text.split() if text.isascii() else re.findall(COLUMN, text)  # split() is faster
    return columns or [text]  # split() takes some control characters for white space


COLUMN = r"[^ \t\r\n\f\v]+"
"""Columns end at ASCII white space; ids may contain Unicode white space."""


def _format_hint(columns: Sequence[str]) -> str:
    """Name the format of a line that has the wrong number of columns, if it is obvious."""
    start = columns[0][:1]
    return f"; this is {_MARKUP[start]}" if start in _MARKUP else ""


_MARKUP = {"{": "JSON", "[": "JSON", "<": "XML or SGML"}
"""The format of a line, by its first character."""


def is_json_lines(path: str | Path) -> bool:
    """Whether the file's name ends in `.jsonl` or `.ndjson`, before any `.gz`."""
    suffixes = [suffix.lower() for suffix in _checked_path(path).suffixes if suffix != ".gz"]
    return suffixes[-1:] in ([".jsonl"], [".ndjson"])


def text_parser(
    path: str | Path, fields: str | Sequence[str] | None = None, id_field: str | None = None
) -> Callable[[bytes], Entry]:
    """Return a function that parses a line of this file into an id and a text.

    It raises ValueError for an invalid line. See `read_texts` for the arguments.

    Raises:
        InvalidInputError: The fields are invalid.
    """
    parse = entry_parser(fields, id_field)
    return (lambda line: parse(parse_json_object(line))) if is_json_lines(path) else _tabbed_entry


def entry_parser(
    fields: str | Sequence[str] | None = None, id_field: str | None = None
) -> Callable[[Mapping[str, Any]], Entry]:
    """Return a function that takes the id and the text out of an entry.

    It raises ValueError for an invalid entry. See `read_texts` for the arguments.

    Raises:
        InvalidInputError: The fields are invalid.
    """
    names = _field_names(fields)
    id_fields = ID_FIELDS if id_field is None else (id_field,)
    if names is not None and len(names) == 1 and is_template(names[0]):
        text = _template_reader(names[0])
    else:
        text = partial(_entry_text, fields=names)
    return lambda entry: (_entry_id(entry, id_fields), text(entry))


def _field_names(fields: str | Sequence[str] | None) -> Sequence[str] | None:
    names = [fields] if isinstance(fields, str) else fields
    if names is None:
        return None
    if not isinstance(names, Sequence) or not names or not all(isinstance(n, str) for n in names):
        raise InvalidInputError(
            f"fields must be the names of fields, or a format string, got {fields!r:.60}.",
            remedy='Pass for example fields=["title", "text"].',
        )
    return names


def _template_reader(template: str) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that fills in a format string of fields, as `rerank_field` does.

    It raises ValueError if no field is there, or if a value is not text.

    Raises:
        InvalidInputError: The format string is invalid.
    """
    access: FieldAccess[Mapping[str, Any]] = FieldAccess(
        getter=lambda name: lambda entry: entry.get(name), names=lambda entry: entry, noun="entry"
    )
    reader = ItemReader(template, access, AllowedMedia.of(None))

    def read(entry: Mapping[str, Any]) -> str:
        if entry.keys().isdisjoint(reader.names):
            raise _no_text(reader.names, entry)
        try:
            (item,) = reader.read([entry], [""])
        except InvalidInputError as error:
            raise ValueError(error.message.removesuffix(".")) from error
        return text_of(item or "")

    return read


def _entry_id(entry: Mapping[str, Any], id_fields: Sequence[str]) -> str:
    id_ = next((entry[name] for name in id_fields if entry.get(name) not in (None, "")), None)
    if id_ is None:
        raise ValueError(f"no id in {_or_list(id_fields)}; the fields are {_key_list(entry)}")
    if type(id_) not in (str, int):
        raise ValueError(f"the id is {id_!r:.40}, not a string or an integer")
    return str(id_)


def _entry_text(entry: Mapping[str, Any], fields: Sequence[str] | None) -> str:
    names = TEXT_FIELDS if fields is None else fields
    if fields is None and entry.keys().isdisjoint(names) and _CONTENTS in entry:
        names = (_CONTENTS,)
    if entry.keys().isdisjoint(names):
        raise _no_text(names, entry)
    texts = []
    for name in names:
        value = entry.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the field {name!r} is {value!r:.40}, not a string")
        if value and value.strip():
            texts.append(value)
    return "\n".join(texts)


def _no_text(names: Sequence[str], entry: Mapping[str, Any]) -> ValueError:
    return ValueError(f"no text in {_or_list(names)}; the fields are {_key_list(entry)}")


def _or_list(names: Sequence[str]) -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}" if others else last


def _key_list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _tabbed_entry(line: bytes) -> Entry:
    id_, tab, text = decode_line(line).rstrip("\r\n").partition("\t")
    if not tab:
        raise ValueError(f"expected an id, a tab and a text, got {id_!r:.40}{_text_hint(id_)}")
    if not id_.strip():
        raise ValueError("there is no id before the tab")
    return id_.strip(), text


def _text_hint(line: str) -> str:
    start = line.lstrip()[:1]
    if start == "{":
        return "; the name of a JSON Lines file must end in .jsonl or .ndjson"
    return f"; this is {_MARKUP[start]}, which is not supported" if start in _MARKUP else ""


def parse_json_object(line: bytes) -> Mapping[str, Any]:
    """Parse a line with a JSON object; several times as fast as the json module.

    Raises:
        ValueError: The line is not a JSON object.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    try:
        value = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        if line.lstrip()[:1] == b"[":
            raise ValueError(_ARRAY) from error
        decode_line(line)
        reason = str(error).replace(" at line 1 ", " at ")
        raise ValueError(f"invalid JSON: {reason}") from error
    if isinstance(value, list):
        raise ValueError(_ARRAY)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a JSON object, got {value!r:.40}")
    return value


_ARRAY = "expected one JSON object per line, got an array; jq -c '.[]' converts it"


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Read the lines of a file that are not blank, with their numbers, from 1.

    Raises:
        InvalidInputError: The file is damaged, compressed in a format that its name does not show,
            or encoded in UTF-16.
        OSError: The file can't be read.
    """
    with _open(path) as file:
        try:
            yield from numbered_lines(file, path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InvalidInputError(
                f"{path} is not a valid gzip file: {error}.",
                remedy="Download or create it again.",
            ) from error


def numbered_lines(file: Iterable[bytes], name: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file that are not blank, with their numbers, from 1.

    Args:
        file: The file.
        name: What to call it in errors.

    Raises:
        InvalidInputError: The file is compressed or encoded in UTF-16.
    """
    for number, line in enumerate(file, start=1):
        if number == 1:
            check_is_text(name, line)
        if not is_blank(line):
            yield number, line


def is_blank(line: bytes) -> bool:
    """Whether a line holds only white space, or only a byte order mark."""
    return not line.removeprefix(codecs.BOM_UTF8).strip()


def _open(path: str | Path) -> gzip.GzipFile | BufferedReader:
    file = _checked_path(path)
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def _checked_path(path: str | Path) -> Path:
    if not isinstance(path, str | Path):
        raise InvalidInputError(f"path must be the path of a file, got {path!r:.60}.")
    return Path(path)


def parse_line(path: str | Path, number: int, parse: Callable[[Any], T], line: object) -> T:
    """Parse a line of a file.

    Raises:
        InvalidInputError: `parse` raised ValueError; the message adds the file and the line number.
    """
    try:
        return parse(line)
    except ValueError as error:
        raise _line_error(path, number, str(error)) from error


def _line_error(path: str | Path, number: int, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{path}, line {number}: {problem}.")


_SIGNATURES = {
    b"\x1f\x8b": ("is compressed with gzip", "Its name must end in .gz."),
    b"PK\x03\x04": ("is a zip archive", "Unpack it."),
    b"BZh": ("is compressed with bzip2", "Decompress it."),
    b"\xfd7zXZ": ("is compressed with xz", "Decompress it."),
    b"\x28\xb5\x2f\xfd": ("is compressed with Zstandard", "Decompress it."),
    codecs.BOM_UTF16_LE: ("is UTF-16, as PowerShell's > writes it", "Convert it to UTF-8."),
    codecs.BOM_UTF16_BE: ("is UTF-16", "Convert it to UTF-8."),
}
"""What is wrong with a file that begins with these bytes, and what to do about it."""


def check_is_text(name: str | Path, first_line: bytes) -> None:
    """Raise InvalidInputError if the first line shows that a file can't be read as lines of UTF-8.

    It may be compressed, or UTF-16, or its lines may end in CR alone.
    """
    for signature, (problem, remedy) in _SIGNATURES.items():
        if first_line.startswith(signature):
            raise InvalidInputError(f"{name} {problem}.", remedy=remedy)
    if not first_line.endswith(b"\n") and b"\r" in first_line.rstrip():
        raise InvalidInputError(
            f"{name} has lines that end in CR alone.",
            remedy=r"Convert them to LF: tr '\r' '\n' < FILE > NEW.",
        )


def decode_line(line: bytes) -> str:
    """Decode a line of UTF-8, without its byte order mark.

    Raises:
        ValueError: The line is not UTF-8, or has null bytes.
    """
    line = line.removeprefix(codecs.BOM_UTF8)
    if b"\0" in line:
        raise ValueError("null bytes; if the file is UTF-16, convert it to UTF-8")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} is 0x{line[error.start]:02x}, which is not UTF-8; convert the "
            "file to UTF-8"
        ) from None

"""Reading a record's text from its fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.records import Record

__all__ = ["RerankField", "SourceFields", "text_reader", "well_formed"]


class SourceFields(Mapping[str, Any]):
    """The fields of a framework's object: its metadata, and its content, got when it is asked for.

    Args:
        metadata: The object's own fields.
        name: The field that holds the content, whatever the metadata have under that name.
        content: Gives the content of the object.
        source: The object.
    """

    __slots__ = ("_content", "_metadata", "_name", "_source")

    def __init__(
        self, metadata: Mapping[str, Any], name: str, content: Callable[[Any], str], source: Any
    ) -> None:
        self._metadata = metadata
        self._name = name
        self._content = content
        self._source = source

    def __getitem__(self, name: str) -> Any:
        return self._content(self._source) if name == self._name else self._metadata[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or the default where there is none."""
        if name == self._name:
            return self._content(self._source)
        return self._metadata.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter({self._name: None, **self._metadata})

    def __len__(self) -> int:
        return len(self._metadata) + (self._name not in self._metadata)


RerankField: TypeAlias = str | Sequence[str] | Callable[[Record], str | None]
"""Where a record's text is: a field's name, several joined by line breaks, or a function."""

TextReader: TypeAlias = Callable[[Record], str | None]


def text_reader(rerank_field: RerankField) -> TextReader:
    """The function that reads a record's text: None where it is missing or blank.

    Raises:
        InvalidInputError: `rerank_field` is none of the things it can be.
    """
    pick = rerank_field if callable(rerank_field) else _field_reader(rerank_field)

    def read(record: Record) -> str | None:
        value = pick(record)
        text = value if isinstance(value, str) else _as_text(value, "rerank_field", record.id)
        if not text or text.isspace():
            return None
        return text if text.isascii() else well_formed(text)

    return read


def _field_reader(rerank_field: str | Sequence[str]) -> TextReader:
    names = [rerank_field] if isinstance(rerank_field, str) else rerank_field
    if not names or not isinstance(names, Sequence) or not all(_is_name(name) for name in names):
        raise InvalidInputError(
            f"rerank_field must be a field name, several, or a function, got {rerank_field!r}.",
            remedy='Pass for example rerank_field="content".',
        )
    if len(names) == 1:
        (only,) = names
        return lambda record: _as_text(record.fields.get(only), only, record.id)

    def join(record: Record) -> str:
        texts = (_as_text(record.fields.get(name), name, record.id) for name in names)
        return "\n".join(text for text in texts if text.strip())

    return join


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no encoding of Unicode has.

    Two halves that belong together become the character that they stand for.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name)


def _as_text(value: Any, name: str, record_id: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):  # as data frames put it
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidInputError(
        f"{name} of record {record_id!r} is {type(value).__name__}, not text.",
        remedy="Pass rerank_field a function that makes a text of it.",
    )

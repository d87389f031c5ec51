"""Reading a record's text from its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.records import Record
from qwen_rerank.templates import Part, is_template, parsed
from qwen_rerank.values import NoTextError, as_text

__all__ = ["RerankField", "SourceFields", "text_reader", "well_formed"]


class SourceFields(Mapping[str, Any]):
    """The fields of a framework's object: its metadata, and its content, got when it is asked for.

    Args:
        metadata: The object's own fields.
        names: The fields that hold the content, whatever the metadata have under those names.
        content: Gives the content of the object.
        source: The object.
    """

    __slots__ = ("_content", "_metadata", "_names", "_source")

    def __init__(
        self,
        metadata: Mapping[str, Any],
        names: tuple[str, ...],
        content: Callable[[Any], str],
        source: Any,
    ) -> None:
        self._metadata = metadata
        self._names = names
        self._content = content
        self._source = source

    def __getitem__(self, name: str) -> Any:
        return self._content(self._source) if name in self._names else self._metadata[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or the default where there is none."""
        if name in self._names:
            return self._content(self._source)
        return self._metadata.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._names), **self._metadata})

    def __len__(self) -> int:
        return len(self._names) + len(self._metadata.keys() - set(self._names))


RerankField: TypeAlias = str | Sequence[str] | Callable[[Record], str | None]
"""Where a record's text is: a field's name, several names, a format string, or a function.

The text of one field is its value. Several fields are `name: value` lines, in the order of the
names; a value of several lines goes on in lines of its own, as it is. A format string, told by its
braces, such as `"{title}\\n{content}"`, holds names, each with a format specification if need be
(`{price:.2f}`), which is applied to the value itself; `{{` and `}}` stand for braces. What is
missing or blank is left out, in a format string an empty text; where everything is, there is no
text. `values.as_text` says how values are written.
"""

TextReader: TypeAlias = Callable[[Record], str | None]


def text_reader(rerank_field: RerankField) -> TextReader:
    """The function that reads a record's text: None where it is missing or blank.

    Raises:
        InvalidInputError: `rerank_field` is none of the things it can be.
    """
    name, pick = _picker(rerank_field)

    def read(record: Record) -> str | None:
        value = pick(record)
        text = value if type(value) is str else _as_text(value, name, record.id)
        if not text or text.isspace():
            return None
        return text if text.isascii() else well_formed(text)

    return read


def _picker(rerank_field: RerankField) -> tuple[str, Callable[[Record], Any]]:
    """The function that gets the value whose text is wanted, and what to call it in errors."""
    if callable(rerank_field):
        return "rerank_field", rerank_field
    if isinstance(rerank_field, str) and is_template(rerank_field):
        parts = parsed(rerank_field)
        return "rerank_field", lambda record: _filled(record, parts)
    names = [rerank_field] if isinstance(rerank_field, str) else rerank_field
    if not names or not isinstance(names, Sequence) or not all(map(_is_name, names)):
        raise InvalidInputError(
            f"rerank_field must be a field name, several, a format string or a function, got "
            f"{rerank_field!r}.",
            remedy='Pass for example rerank_field="content".',
        )
    if len(names) == 1:
        (only,) = names
        return only, lambda record: record.fields.get(only)
    return "rerank_field", lambda record: _lines(record, names)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not is_template(name)


def _lines(record: Record, names: Sequence[str]) -> str:
    texts = ((name, _text(record, name).strip()) for name in names)
    return "\n".join(f"{name}: {text}" for name, text in texts if text)


def _filled(record: Record, parts: Sequence[Part]) -> str:
    texts = [_formatted(record, part) for part in parts]
    if not any(text and not text.isspace() for text in texts):
        return ""
    return "".join(part.before + text for part, text in zip(parts, texts, strict=True))


def _formatted(record: Record, part: Part) -> str:
    text = _text(record, part.name) if part.name else ""
    if not text or not part.spec:
        return text
    try:
        return format(record.fields[part.name], part.spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"{part.name} of record {record.id!r} can't be written as {part.spec!r}: {error}.",
            remedy="Pass rerank_field a function that makes a text of it.",
        ) from None


def _text(record: Record, name: str) -> str:
    return _as_text(record.fields.get(name), name, record.id)


def _as_text(value: Any, name: str, record_id: str) -> str:
    try:
        return as_text(value)
    except NoTextError as error:
        raise InvalidInputError(
            f"{name} of record {record_id!r} is {error}, not text.",
            remedy="Pass rerank_field a function that makes a text of it.",
        ) from None


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no encoding of Unicode has.

    Two halves that belong together become the character that they stand for.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text

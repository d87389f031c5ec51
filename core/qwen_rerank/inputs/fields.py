"""Reading from a record's fields what of it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.blocks import content_of
from qwen_rerank.inputs.content import Content, Item, simplest, text_of
from qwen_rerank.inputs.templates import Part, is_template, parsed
from qwen_rerank.inputs.values import NoTextError, as_text
from qwen_rerank.ranking.records import Record

__all__ = ["RerankField", "SourceFields", "item_reader"]


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
        content: Callable[[Any], Item],
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


RerankField: TypeAlias = str | Sequence[str] | Callable[[Record], Item | None]
"""What of a record is scored: a field's name, several names, a format string, or a function.

The text of one field is its value. Several fields are `name: value` lines, in the order of the
names; a value of several lines goes on in lines of its own, as it is. A format string, told by its
braces, such as `"{title}\\n{content}"`, holds names, each with a format specification if need be
(`{price:.2f}`), which is applied to the value itself; `{{` and `}}` stand for braces. What is
missing or blank is left out, in a format string an empty text; where everything is, there is no
text. `values.as_text` says how values are written.

A Content, or content blocks as `blocks.content_of` knows them, bring their image or video along.
"""

ItemReader: TypeAlias = Callable[[Record], Item | None]


def item_reader(rerank_field: RerankField) -> ItemReader:
    """The function that reads what of a record is scored: None where it is missing or blank.

    Raises:
        InvalidInputError: `rerank_field` is none of the things it can be.
    """
    name, pick = _picker(rerank_field)

    def read(record: Record) -> Item | None:
        value = pick(record)
        return simplest(value if type(value) is str else _item(value, name, record.id))

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


def _lines(record: Record, names: Sequence[str]) -> Any:
    items = [_field(record, name) for name in names]
    texts = [(name, text_of(item).strip()) for name, item in zip(names, items, strict=True)]
    return _with_media("\n".join(f"{name}: {text}" for name, text in texts if text), items)


def _filled(record: Record, parts: Sequence[Part]) -> Any:
    items = [_field(record, part.name) if part.name else "" for part in parts]
    texts = [_formatted(record, part, item) for part, item in zip(parts, items, strict=True)]
    is_blank = all(not text or text.isspace() for text in texts)
    text = "".join(part.before + text for part, text in zip(parts, texts, strict=True))
    return _with_media("" if is_blank else text, items)


def _formatted(record: Record, part: Part, item: Item) -> str:
    if not part.spec or not item:
        return text_of(item)
    try:
        return format(record.fields[part.name], part.spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"{part.name} of record {record.id!r} can't be written as {part.spec!r}: {error}.",
            remedy=_REMEDY,
        ) from None


def _with_media(text: str, items: Sequence[Item]) -> Any:
    """The text, with the images and videos of the items if they have any, as one value."""
    media = [Content(None, item.image, item.video) for item in items if isinstance(item, Content)]
    return [text, *media] if media else text


def _field(record: Record, name: str) -> Item:
    return _item(record.fields.get(name), name, record.id)


def _item(value: Any, name: str, record_id: str) -> Item:
    try:
        content = content_of(value)
        return as_text(value) if content is None else content
    except NoTextError as error:
        raise InvalidInputError(
            f"{name} of record {record_id!r} is {error}, not text.", remedy=_REMEDY
        ) from None
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{name} of record {record_id!r}: {error.message}", remedy=error.remedy
        ) from error


_REMEDY = "Pass rerank_field a function that makes a text, or a Content, of it."

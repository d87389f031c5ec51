"""Read the text or Content to score from a document's fields."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeAlias, TypeVar

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.blocks import content_of
from qwen_rerank.inputs.content import Content, Item, simplest, text_of
from qwen_rerank.inputs.templates import Part, is_template, parsed
from qwen_rerank.inputs.values import NoTextError, as_text

__all__ = ["FieldAccess", "ItemReader", "RerankField"]

_log = logging.getLogger(__name__)

D = TypeVar("D")

RerankField: TypeAlias = str | Sequence[str] | Callable[[Any], Item | None]
"""Where a document's text is: a field's name, several names, a format string, or a function.

One field gives its value. Several fields give `name: value` lines, in the order of the names; a
value of several lines is kept as it is. A format string, recognized by its braces, such as
``"{title}\\n{content}"``, contains names, each with an optional format specification
(`{price:.2f}`), which is applied to the value itself; `{{` and `}}` stand for braces. Missing or
blank values are left out (a format string keeps the text around them); if all are missing or blank,
there is no text. See `values.as_text` for how values are written.

A Content, or content blocks as `blocks.content_of` reads them, add their image or video.
"""


@dataclass(frozen=True, slots=True)
class FieldAccess(Generic[D]):
    """How to read the fields of one kind of document.

    Attributes:
        getter: Returns, for a field's name, a function from document to value; the value is None if
            a document does not have the field.
        names: The names of a document's fields.
        noun: What a document is called in messages.
    """

    getter: Callable[[str], Callable[[D], Any]]
    names: Callable[[D], Iterable[str]]
    noun: str = "document"


class ItemReader(Generic[D]):
    """Reads the text or Content to score from each document: `rerank_field`, compiled once.

    Args:
        rerank_field: See `RerankField`; a function gets the document.
        access: How to read a document's fields.
        allowed: What the content blocks of documents may name.

    Raises:
        InvalidInputError: `rerank_field` is not valid.
    """

    def __init__(
        self, rerank_field: RerankField, access: FieldAccess[D], allowed: AllowedMedia
    ) -> None:
        self._access = access
        self._allowed = allowed
        self._names: Sequence[str] = ()
        if callable(rerank_field):
            self._value = rerank_field
        elif isinstance(rerank_field, str) and is_template(rerank_field):
            parts = parsed(rerank_field)
            self._names = [part.name for part in parts if part.name]
            self._value = _template_reader(parts, access, allowed)
        else:
            self._names = _field_names(rerank_field)
            self._value = _fields_reader(self._names, access, allowed)
        self._label = self._names[0] if len(self._names) == 1 else "rerank_field"

    @property
    def names(self) -> Sequence[str]:
        """The fields that it reads; none for a function."""
        return self._names

    def read(self, documents: Sequence[D], ids: Sequence[Hashable]) -> list[Item | None]:
        """Return the text or Content to score per document; None if it is missing or blank.

        Args:
            documents: The documents.
            ids: Their ids, for messages.

        Raises:
            InvalidInputError: A value cannot be converted to text, or `rerank_field` names fields
                that no document has.
        """
        values: list[Any] = []
        items: list[Item | None] = []
        try:
            values.extend(map(self._value, documents))
            if {*map(type, values)} <= {str}:
                items = [
                    value if value and value.isascii() and not value.isspace() else simplest(value)
                    for value in values
                ]
            else:
                items.extend(simplest(_item(value, self._allowed)) for value in values)
        except _ValueError as error:
            field = error.field or self._label
            index = len(items) if len(values) == len(documents) else len(values)
            raise error.naming(f"{field} of {self._name(ids, index)}") from error.cause
        except (AttributeError, TypeError, LookupError) as error:
            if not self._names:  # the user's function failed
                raise
            raise self._unreadable(self._name(ids, len(values)), error) from error
        if None in items and self._names:
            self._check_fields(documents, items)
        return items

    def _name(self, ids: Sequence[Hashable], index: int) -> str:
        noun, id_ = self._access.noun, ids[index]
        return f"the {noun} at index {index}" if id_ in (None, "") else f"{noun} {id_!r}"

    def _unreadable(self, name: str, error: Exception) -> InvalidInputError:
        """Return the error for a document whose fields can't be read."""
        if isinstance(error, LookupError):  # such as a node's template with an unknown name
            return InvalidInputError(
                f"Reading {' and '.join(self._names)} of {name} failed: {error!r}.",
                remedy="Pass rerank_field a function that returns the text.",
            )
        return InvalidInputError(
            f"The fields of {name} are not a mapping: {error}.",
            remedy="Pass fields by name, such as a dict.",
        )

    def _check_fields(self, documents: Sequence[D], items: Sequence[Item | None]) -> None:
        """Raise if no document has the fields, as after a typo; warn if some don't."""
        names, count = {*self._names}, len(items)
        lacking = [
            document
            for document, item in zip(documents, items, strict=True)
            if item is None and names.isdisjoint(self._access.names(document))
        ]
        if not lacking:
            return
        there = sorted({str(name) for document in lacking for name in self._access.names(document)})
        fields = f"{'fields' if len(names) > 1 else 'field'} {', '.join(map(repr, self._names))}"
        listed = ", ".join(map(repr, there[:_SHOWN_FIELDS])) or "none"
        if len(lacking) == count:
            raise InvalidInputError(
                f"None of the {count} {self._access.noun}s has the {fields}. Fields: {listed}.",
                remedy="Pass rerank_field the name of a field that has the text.",
            )
        _log.warning(
            "%d of %d %ss do not have the %s. Their fields: %s.",
            len(lacking),
            count,
            self._access.noun,
            fields,
            listed,
        )


_SHOWN_FIELDS = 20
"""How many field names a message lists."""


class _ValueError(Exception):
    """A value cannot be scored. The reader adds the field and the document.

    Attributes:
        message: What is wrong, as the end of a sentence that begins with the value's name.
        remedy: What to do about it.
        field: The field that has the value; "" for an only field or a function.
        cause: The underlying error, if it says more.
    """

    def __init__(
        self, message: str, remedy: str | None, field: str = "", cause: Exception | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field
        self.cause = cause

    def naming(self, what: str) -> InvalidInputError:
        return InvalidInputError(f"{what}{self.message}", remedy=self.remedy)


def _field_names(rerank_field: object) -> Sequence[str]:
    names = [rerank_field] if isinstance(rerank_field, str) else rerank_field
    if not names or not isinstance(names, Sequence) or not all(map(_is_name, names)):
        raise InvalidInputError(
            f"rerank_field must be a field name, several names, a format string or a function, got "
            f"{rerank_field!r}.",
            remedy='Pass for example rerank_field="content".',
        )
    return names


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and not is_template(name)


def _fields_reader(
    names: Sequence[str], access: FieldAccess[D], allowed: AllowedMedia
) -> Callable[[D], Any]:
    """Return a reader of one field's value, or of the `name: value` lines of several."""
    getters = [access.getter(name) for name in names]
    if len(names) == 1:
        return getters[0]

    def read(document: D) -> Any:
        pairs = zip(names, getters, strict=True)
        items = [_item(get(document), allowed, name) for name, get in pairs]
        texts = [(name, text_of(item).strip()) for name, item in zip(names, items, strict=True)]
        return _with_media("\n".join(f"{name}: {text}" for name, text in texts if text), items)

    return read


def _template_reader(
    parts: Sequence[Part], access: FieldAccess[D], allowed: AllowedMedia
) -> Callable[[D], Any]:
    """Return a reader that fills in a format string."""
    getters = [access.getter(part.name) if part.name else _empty for part in parts]
    befores = [part.before for part in parts]
    is_plain = not any(part.spec for part in parts)

    def read(document: D) -> Any:
        values = [get(document) for get in getters]
        if is_plain and {*map(type, values)} == {str}:
            is_blank = all(not value or value.isspace() for value in values)
            return (
                "" if is_blank else "".join(chain.from_iterable(zip(befores, values, strict=True)))
            )
        pairs = zip(parts, values, strict=True)
        items = [_item(value, allowed, part.name) for part, value in pairs]
        texts = list(map(_formatted, parts, values, items))
        is_blank = all(not text or text.isspace() for text in texts)
        text = "".join(part.before + text for part, text in zip(parts, texts, strict=True))
        return _with_media("" if is_blank else text, items)

    return read


def _empty(document: object) -> str:
    return ""


def _formatted(part: Part, value: Any, item: Item) -> str:
    if not part.spec or not item:
        return text_of(item)
    try:
        return format(value, part.spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise _ValueError(
            f" cannot be formatted as {part.spec!r}: {error}.", _REMEDY, part.name
        ) from None


def _with_media(text: str, items: Sequence[Item]) -> Any:
    """Return the text, together with any images and videos of the items."""
    media = [
        Content(None, item.image, item.video, item.frames)
        for item in items
        if isinstance(item, Content)
    ]
    return [text, *media] if media else text


def _item(value: Any, allowed: AllowedMedia, field: str = "") -> Item:
    if type(value) is str:
        return value
    try:
        content = content_of(value, allowed)
        return as_text(value) if content is None else content
    except NoTextError as error:
        raise _ValueError(f" is {error}, not text.", _REMEDY, field) from None
    except InvalidInputError as error:
        raise _ValueError(f": {error.message}", error.remedy, field, error) from error


_REMEDY = "Pass rerank_field a function that converts the value to a string or Content."

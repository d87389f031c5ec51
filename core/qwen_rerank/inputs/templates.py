"""Format strings that name fields, such as "{title}\\n{content}"."""

from __future__ import annotations

from string import Formatter
from typing import NamedTuple

from qwen_rerank.errors import InvalidInputError

__all__ = ["Part", "is_template", "parsed"]


class Part(NamedTuple):
    """A field in a format string, with what stands before it.

    Attributes:
        before: The text before the field, as it is to be written.
        name: The field; "" for none, at the end.
        spec: How to format the field; "" for as ever.
    """

    before: str
    name: str
    spec: str


def is_template(text: str) -> bool:
    """Whether it is a format string: it has braces."""
    return "{" in text or "}" in text


def parsed(template: str) -> list[Part]:
    """The parts of a format string.

    Raises:
        InvalidInputError: It is none, names no field, or has more in its braces than a field's
            name and a format specification.
    """
    try:
        found = list(Formatter().parse(template))
    except ValueError as error:
        raise _unusable(template, str(error)) from None
    for _, name, spec, conversion in found:
        if name is not None and (conversion or is_template(spec or "") or not _is_plain(name)):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise _unusable(template, f"{{{shown}}} is not a field's name")
    if not any(name for _, name, _, _ in found):
        raise _unusable(template, "it names no field")
    return [Part(before, name or "", spec or "") for before, name, spec, _ in found]


def _is_plain(name: str) -> bool:
    """Whether it names a field, not a place, an attribute or an item of one."""
    return bool(name) and name == name.strip() and not name.isdigit() and not set(".[]") & set(name)


def _unusable(template: str, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"rerank_field {template!r} can't be filled in: {reason}.",
        remedy='Write for example "{title}\\n{content}", braces of your own twice, or pass a '
        "function.",
    )

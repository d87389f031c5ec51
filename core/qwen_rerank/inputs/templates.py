"""Format strings that name fields, such as "{title}\\n{content}"."""

from __future__ import annotations

from string import Formatter
from typing import NamedTuple

from qwen_rerank.errors import InvalidInputError

__all__ = ["Part", "is_template", "parsed"]


class Part(NamedTuple):
    """A field in a format string, with the text before it.

    Attributes:
        before: The literal text before the field.
        name: The field's name; "" for literal text at the end.
        spec: The format specification; "" if there is none.
    """

    before: str
    name: str
    spec: str


def is_template(text: str) -> bool:
    """Whether the text has braces, which make it a format string."""
    return "{" in text or "}" in text


def parsed(template: str) -> list[Part]:
    """Parse a format string into its parts.

    Raises:
        InvalidInputError: It is not a valid format string, does not name a field, or has anything
            but a field's name and a format specification in braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise _unusable(template, str(error)) from None
    for _, name, spec, conversion in parts:
        if name is not None and (conversion or is_template(spec or "") or not _is_field(name)):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise _unusable(template, f"{{{shown}}} is not a field name")
    if not any(name for _, name, _, _ in parts):
        raise _unusable(template, "it does not name a field")
    return [Part(before, name or "", spec or "") for before, name, spec, _ in parts]


def _is_field(name: str) -> bool:
    """Whether the name is a field's, not an index, an attribute or an item."""
    return bool(name) and name == name.strip() and not name.isdigit() and not set(".[]") & set(name)


def _unusable(template: str, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"rerank_field {template!r} can't be used as a format string: {reason}.",
        remedy='Write it like "{title}\\n{content}", with literal braces doubled, or pass a '
        "function.",
    )

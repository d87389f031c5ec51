"""Make a service's texts safe to show: without the key, and on one line."""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape

from pydantic import SecretStr

__all__ = ["MASK", "masked", "one_line"]

MASK = "***"

_MIN_PREFIX = 8
"""How many characters of the beginning of a key are masked if the rest was cut off."""

_MIN_PART = 16
"""How many characters of any other part of a key are masked."""


def masked(text: str, key: SecretStr) -> str:
    """Return the text without the key or any long part of it, in whatever form it is written.

    The forms are plain text and the escapes of JSON, URLs, HTML and UTF-16, also mixed.
    """
    plain = key.get_secret_value()
    return _pattern(key).sub(MASK, text) if plain else text


def one_line(text: str, max_length: int) -> str:
    """Return the text on one line, shortened, without control characters.

    Otherwise a service could control a terminal or a log.
    """
    shortened = text if len(text) <= max_length else f"{text[:max_length]}…"
    shown = (
        char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in shortened
    )
    return "".join(shown).strip()


@lru_cache(maxsize=32)
def _pattern(key: SecretStr) -> re.Pattern[str]:
    """Return a pattern for the longest match of any part of the key that is long enough."""
    forms = list(map(_forms, key.get_secret_value()))
    least = min(_MIN_PART, -(-len(forms) * 3 // 4))
    starts = range(1, len(forms) - least + 1)
    parts = [_part(forms, min(_MIN_PREFIX, least)), *(_part(forms[i:], least) for i in starts)]
    return re.compile("|".join(parts))


def _part(forms: list[str], least: int) -> str:
    """Return a pattern for the first `least` characters, and as many of the next as follow."""
    tail = ""
    for form in reversed(forms[least:]):
        tail = f"(?:{form}{tail})?"
    return "".join(forms[:least]) + tail


def _forms(char: str) -> str:
    """Return a pattern for a character in each form in which it can be written."""
    code = ord(char)
    hexadecimal = "".join(f"[{digit}{digit.upper()}]" for digit in f"{code:02x}")
    escapes = (
        rf"\\+u00{hexadecimal}",
        rf"\\+x{hexadecimal}",
        rf"%(?:25)*{hexadecimal}",
        rf"&(?:amp;)*\#0*{code};",
        rf"&(?:amp;)*\#[xX]0*{hexadecimal};",
        re.escape(escape(char)),
        rf"\\*{re.escape(char)}",  # last, as "&" and "%" begin escapes of their own
    )
    return rf"\x00?(?:{'|'.join(escapes)})"

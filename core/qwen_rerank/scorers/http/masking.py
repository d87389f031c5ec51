"""Make a service's texts safe to show: without the key, and on one line."""

from __future__ import annotations

import re
from itertools import groupby

from pydantic import SecretStr

__all__ = ["MASK", "masked", "one_line"]

MASK = "***"

_MIN_PREFIX = 8
"""How many characters of the beginning of a key are masked if the rest was cut off."""

_MIN_PART = 16
"""How many characters of any other part of a key are masked."""


def masked(text: str, key: SecretStr) -> str:
    """Return the text without the key or any long part of it, in whatever form it is written.

    The forms are plain text and the escapes of JSON, URLs, HTML and UTF-16, also mixed. Takes time
    in proportion to the lengths of the text and the key, which can be a long token.
    """
    secret, _ = _unescaped(key.get_secret_value())
    plain, starts = _unescaped(text)
    runs = groupby(enumerate(_are_secret(plain, secret)), key=lambda each: each[1])
    shown = []
    for is_secret, run in runs:
        indices = [index for index, _ in run]
        shown.append(MASK if is_secret else text[starts[indices[0]] : starts[indices[-1] + 1]])
    return "".join(shown)


def one_line(text: str, max_length: int) -> str:
    """Return the text on one line, shortened, without control characters.

    Otherwise a service could control a terminal or a log.
    """
    shortened = text if len(text) <= max_length else f"{text[:max_length]}…"
    shown = (
        char if char.isprintable() else " " if char.isspace() else "\ufffd" for char in shortened
    )
    return "".join(shown).strip()


def _are_secret(text: str, secret: str) -> list[bool]:
    """Whether each character of the text belongs to a part of the secret that is long enough."""
    least = min(_MIN_PART, -(-len(secret) * 3 // 4))
    parts = {secret[start : start + least] for start in range(len(secret) - least + 1)} - {""}
    beginning = secret[: min(_MIN_PREFIX, least)]
    are_secret = [False] * len(text)
    for start in range(len(text)):
        if text[start : start + least] in parts:
            are_secret[start : start + least] = [True] * least
        elif beginning and text.startswith(beginning, start):
            are_secret[start : start + len(beginning)] = [True] * len(beginning)
    return are_secret


_CHARACTER = re.compile(
    r"""\x00?(?:                                              # the other byte of UTF-16
        (?: \\+(?:u00|x) | %(?:25)* ) ([0-9a-fA-F]{2})        # JSON and others, URLs
        | &(?:amp;)* \#0* (\d{1,3});                          # HTML
        | &(?:amp;)* \#[xX]0* ([0-9a-fA-F]{1,2});
        | &(?:amp;)* (amp|lt|gt|quot|apos);
        | \\* (.)
    )""",
    re.DOTALL | re.VERBOSE,
)
"""A character in any form in which it can be written, also if it was escaped several times."""

_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def _unescaped(text: str) -> tuple[str, list[int]]:
    """Return the characters that the text stands for, where each begins, and where the last ends.

    A key that looks escaped itself is read in the same way as the text in which it is looked for.
    """
    found = list(_CHARACTER.finditer(text))
    return "".join(map(_character, found)), [*(each.start() for each in found), len(text)]


def _character(found: re.Match[str]) -> str:
    escaped, number, hexadecimal, name, char = found.groups()
    if char is not None:
        return str(char)
    if name is not None:
        return _NAMED[name]
    return chr(int(number)) if number is not None else chr(int(escaped or hexadecimal, 16))

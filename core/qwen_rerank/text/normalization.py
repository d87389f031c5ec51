"""Unicode normalization in linear time, for any text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Literal

__all__ = ["normalize"]

Form = Literal["NFC", "NFKC"]

# Up to this length the worst text takes about as long as looking for long runs of marks in it.
_SHORT = 100

# While a piece is normalized, no other thread runs: a piece of this length takes some milliseconds.
_PIECE = 50_000

# No run of thirty marks is shorter, or has a Latin letter in it.
_MAYBE_MARKS = re.compile("[^\x00-\u02ff]{30}")

# Characters before which a text can always be cut: nothing before them composes with them.
_BOUNDARY = re.compile("[\x00-\x7f\u3400-\u4dbf\u4e00-\u9fff]")


def normalize(form: Form, text: str) -> str:
    """Return the text in a normalization form.

    Python's own normalization takes quadratic time for a run of combining marks, and blocks all
    other threads. So long texts are normalized in pieces, and long runs of marks are broken up by
    the Stream-Safe Text Process of Unicode Standard Annex #15: a combining grapheme joiner after
    every 30 marks. Real text has no such runs.

    A text with no ASCII and no ideograph in 100,000 characters may be cut within a character that
    is written as several; the two parts are then not composed.
    """
    if len(text) <= _SHORT:
        return unicodedata.normalize(form, text)
    if text.isascii():
        return text
    return "".join(_normalized_piece(form, piece) for piece in _pieces(text))


def _normalized_piece(form: Form, piece: str) -> str:
    if unicodedata.is_normalized(form, piece):  # true for most texts, and quick to check
        return piece
    if _MAYBE_MARKS.search(piece):
        piece = _thirty_marks().sub("\\g<0>\u034f", piece)
    return unicodedata.normalize(form, piece)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        boundary = _BOUNDARY.search(text, start + _PIECE, start + 2 * _PIECE)
        end = boundary.start() if boundary else start + 2 * _PIECE
        yield text[start:end]
        start = end


@cache
def _thirty_marks() -> re.Pattern[str]:
    """Thirty characters in a row that normalization sorts: marks, or made of marks."""
    marks = "".join(filter(_is_mark, map(chr, range(0x300, 0x20000))))
    return re.compile(f"[{marks}]{{30}}")


def _is_mark(character: str) -> bool:
    """Whether the character is a combining mark, or decomposes to some, as U+0F73 does."""
    decomposed = unicodedata.normalize("NFKD", character)
    return any(map(unicodedata.combining, (character, decomposed[0])))

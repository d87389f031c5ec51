"""Unicode normalization in linear time, whatever the text."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal

__all__ = ["normalize"]


# Up to here even the worst text takes less than a millisecond.
_SHORT = 1_000


def normalize(form: Literal["NFC", "NFKC"], text: str) -> str:
    """The text in a normalization form.

    Python's own takes time quadratic in the length of a run of combining marks, while every other
    thread waits. So in a long text, long runs are broken up first, by the Stream-Safe Text Process
    of Unicode Standard Annex #15: a combining grapheme joiner after every 30 marks. Real text has
    no such runs, and most of it is normalized already, which takes linear time to tell.
    """
    if unicodedata.is_normalized(form, text):
        return text
    if len(text) > _SHORT:
        text = _thirty_marks().sub("\\g<0>\u034f", text)
    return unicodedata.normalize(form, text)


@cache
def _thirty_marks() -> re.Pattern[str]:
    marks = "".join(filter(unicodedata.combining, map(chr, range(0x300, 0x1E94B))))
    return re.compile(f"[{marks}]{{30}}")

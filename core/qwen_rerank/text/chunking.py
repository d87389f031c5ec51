"""From a long text to passages, cut where the text itself makes a break."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.scorers.base import Passage
from qwen_rerank.text.tokenizer import count_tokens

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter

__all__ = ["FEWEST_TOKENS", "check_splitter", "split"]

FEWEST_TOKENS = 16
"""More than one character can be: it has at most 12 bytes after NFC, and a token at least one."""

_WINDOW = 16
"""Characters to look for passages in, for each token that a passage may have: prose has 4."""


def split(text: str, max_tokens: int, overlap: int) -> Iterator[Passage]:
    """The passages of a text, in order, without the white space around them.

    A passage ends where a paragraph does if it can, else where a sentence does, in any script, else
    a word. Every character but white space is in at least one passage.

    They are looked for in one window of the text after another. For each passage the splitter may
    look at all that it is given, which for a text without a break takes quadratic time.

    Args:
        text: The text; UTF-8 can encode it.
        max_tokens: Tokens of a passage at most, at least 16. Only a text of next to nothing but
            characters that NFC takes apart, such as U+0344, can have passages of more.
        overlap: Tokens that a passage repeats of the one before it at most, less than max_tokens.

    Raises:
        MissingDependencyError: The extra `passages` is not installed.
    """
    splitter, window = _splitter(max_tokens, overlap), _WINDOW * max_tokens
    start = end = 0
    while start < len(text):
        found = splitter.chunk_indices(text[start : start + window])
        following = start + window
        if following < len(text) and len(found) > 1:
            following = start + found.pop()[0]  # the end of the window may have cut it off
        for offset, part in found:
            passage = Passage(start + offset, start + offset + len(part))
            if passage.end > end and not part.isspace():
                end = passage.end
                yield passage
        start = following


def check_splitter() -> None:
    """Raise MissingDependencyError unless texts can be split."""
    _splitter(FEWEST_TOKENS, 0)


def _splitter(max_tokens: int, overlap: int) -> TextSplitter:
    try:
        from semantic_text_splitter import TextSplitter
    except ImportError as error:
        raise MissingDependencyError(
            f"Splitting texts needs the semantic-text-splitter package ({error}).",
            remedy='Install it: pip install "qwen-rerank[passages]"',
        ) from error
    return TextSplitter.from_callback(count_tokens, max_tokens, overlap)

"""Chunking a long text into passages at its natural breaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.text.tokenizer import count_tokens

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter

__all__ = ["MIN_PASSAGE_TOKENS", "Passage", "check_chunker", "passages_of"]

MIN_PASSAGE_TOKENS = 16
"""No single character has more tokens: it has at most 12 bytes in NFC, and a token at least one."""

_WINDOW = 16
"""Characters of the text to chunk at a time, per token of a passage. English has about 4."""

_WINDOW_PASSAGES = 5
"""Passages to chunk at a time, at most: a text with many tokens per character has smaller windows.
The chunker may look at all of its window for each passage."""


class Passage(NamedTuple):
    """A part of a text, as character offsets: `text[start:end]`."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """Return this part of the text."""
        return text[self.start : self.end]


def passages_of(text: str, max_tokens: int, overlap: int) -> Iterator[Passage]:
    """Yield the passages of a text in order, without leading and trailing white space.

    A passage ends at the end of a paragraph if possible, else of a sentence in any script, else of
    a word. Every character except white space is in at least one passage.

    It takes linear time for any text, because the text is chunked one window at a time.

    Args:
        text: A text that UTF-8 can encode.
        max_tokens: The maximum length of a passage, at least 16 tokens. Only a text made almost
            entirely of characters that NFC decomposes, such as U+0344, can exceed it.
        overlap: The maximum number of tokens that a passage repeats from the one before it. Less
            than `max_tokens`.

    Raises:
        MissingDependencyError: The extra `passages` is not installed.
    """
    chunker = _chunker(max_tokens, overlap)
    start = end = 0
    while start < len(text):
        window = _window_size(text[start : start + _WINDOW * max_tokens], max_tokens)
        chunks = chunker.chunk_indices(text[start : start + window])
        next_start = start + window
        if next_start < len(text) and len(chunks) > 1:
            next_start = start + chunks.pop()[0]  # the end of the window may have cut this one off
        for offset, chunk in chunks:
            passage = Passage(start + offset, start + offset + len(chunk))
            if passage.end > end and not chunk.isspace():
                end = passage.end
                yield passage
        start = next_start


def _window_size(text: str, max_tokens: int) -> int:
    """How many characters to chunk at a time, in a text that goes on like this one."""
    passages = count_tokens(text) / max_tokens
    share = min(1.0, _WINDOW_PASSAGES / passages) if passages else 1.0
    return max(1, int(share * len(text)))


def check_chunker() -> None:
    """Raise MissingDependencyError unless the extra `passages` is installed."""
    _chunker(MIN_PASSAGE_TOKENS, 0)


def _chunker(max_tokens: int, overlap: int) -> TextSplitter:
    try:
        from semantic_text_splitter import TextSplitter
    except ImportError as error:
        raise MissingDependencyError(
            f"Chunking needs the semantic-text-splitter package ({error}).",
            remedy='Install it: pip install "qwen-rerank[passages]"',
        ) from error
    return TextSplitter.from_callback(count_tokens, max_tokens, overlap)

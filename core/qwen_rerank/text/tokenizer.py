"""Counting tokens exactly, with the Qwen tokenizer that the dashscope package bundles."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from qwen_rerank.locks import OncePerProcess
from qwen_rerank.text.normalization import normalize

if TYPE_CHECKING:
    from dashscope import Tokenizer

__all__ = ["MAX_BYTES_PER_TOKEN", "count_tokens", "exceeds", "is_loaded", "truncated"]

MAX_BYTES_PER_TOKEN = 128
"""The longest token in the vocabulary."""

_WINDOW = 5
"""Characters per token of the part of a long text that is looked at first; English has about 4."""


def _load_tokenizer() -> Tokenizer:
    from dashscope import get_tokenizer  # lazy: the SDK and its vocabulary take half a second

    return get_tokenizer("qwen-7b-chat")


_tokenizer = OncePerProcess(_load_tokenizer)


def is_loaded() -> bool:
    """Whether the tokenizer is loaded, so that counting a short text takes no longer than that."""
    return _tokenizer.has_result


def count_tokens(text: str) -> int:
    """Count the tokens of a text exactly.

    The first call in a process loads the tokenizer. Names of special tokens count as plain text.
    """
    return len(_encode(normalize("NFC", text)))  # the tokenizer does it too, but not in linear time


def exceeds(text: str, max_tokens: int, count: Callable[[str], int] = count_tokens) -> bool:
    """Whether the text has more than `max_tokens` tokens. Of a long text, only a part is counted.

    Args:
        text: A text that UTF-8 can encode.
        max_tokens: The limit.
        count: Returns the number of tokens of a text.
    """
    window = _WINDOW * max_tokens
    # The end of the part may cut a token into as many tokens as it has bytes.
    is_clear = len(text) > window and count(text[:window]) > max_tokens + MAX_BYTES_PER_TOKEN
    return is_clear or count(text) > max_tokens


def truncated(text: str, max_tokens: int, count: Callable[[str], int] = count_tokens) -> str:
    """Return the beginning of a text that is too long, cut after its last token that fits.

    The beginning has at most `max_tokens` tokens when it is tokenized again, and at least one
    character that is not white space, if need be without the white space before it. Only if that
    character alone has more tokens, which can be up to 12, the limit is not kept.

    Args:
        text: A text that UTF-8 can encode, and that `exceeds` the limit.
        max_tokens: The maximum number of tokens, at least 1.
        count: Returns the number of tokens of a text.
    """
    part = text[: _WINDOW * max_tokens]
    while len(part) < len(text) and count(part) <= max_tokens + MAX_BYTES_PER_TOKEN:
        part = text[: 2 * len(part)]
    tokens, kept = _encode(normalize("NFC", part)), max_tokens
    beginning = part
    while kept > 0:
        whole_characters = _tokenizer().decode(tokens[:kept], errors="ignore")
        beginning = _beginning(part, len(whole_characters))
        excess = count(beginning) - max_tokens
        if excess <= 0:
            break
        kept -= excess
    if kept > 0 and beginning.strip():
        return beginning
    stripped = text.lstrip()
    return stripped[:1] if len(stripped) == len(text) else truncated(stripped, max_tokens, count)


def _encode(normalized: str) -> list[int]:
    return _tokenizer().encode(normalized, allowed_special=set(), disallowed_special=())


def _beginning(text: str, characters: int) -> str:
    """Return the beginning of a text that has this many characters in NFC."""
    if normalize("NFC", text) == text:
        return text[:characters]
    ends = range(len(text) + 1)
    end = bisect_right(ends, characters, key=lambda end: len(normalize("NFC", text[:end])))
    return text[: end - 1]

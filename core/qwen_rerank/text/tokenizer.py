"""Counting tokens exactly, with the Qwen tokenizer that the dashscope package bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_rerank.locks import OncePerProcess
from qwen_rerank.text.normalization import normalize

if TYPE_CHECKING:
    from dashscope import Tokenizer

__all__ = ["count_tokens", "is_loaded"]


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
    plain = normalize("NFC", text)  # the tokenizer does it too, but not in linear time
    return len(_tokenizer().encode(plain, allowed_special=set(), disallowed_special=()))

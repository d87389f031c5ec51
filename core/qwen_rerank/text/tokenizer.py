"""Counting tokens exactly, with the Qwen tokenizer that the dashscope package bundles."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

from qwen_rerank.text.normalization import normalize

if TYPE_CHECKING:
    from dashscope import Tokenizer

__all__ = ["count_tokens"]

_loading = Lock()


@cache
def _load_tokenizer() -> Tokenizer:
    from dashscope import get_tokenizer  # late: the SDK and its vocabulary take half a second

    return get_tokenizer("qwen-7b-chat")


def count_tokens(text: str) -> int:
    """Exactly how many tokens the text is.

    Loads the tokenizer once a process. Special tokens' names count as plain text.
    """
    with _loading:
        tokenizer = _load_tokenizer()
    plain = normalize("NFC", text)  # the tokenizer does it too, but not in linear time
    return len(tokenizer.encode(plain, allowed_special=set(), disallowed_special=()))

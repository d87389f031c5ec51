"""Qwen3-Reranker's prompt as text, for every scorer that writes it.

Source of the wording: QwenLM/Qwen3-Embedding on GitHub, README and
examples/qwen3_reranker_transformers.py.
"""

from __future__ import annotations

import re

__all__ = [
    "DEFAULT_INSTRUCT",
    "PREFIX",
    "SUFFIX",
    "prompt_body",
    "prompt_pair",
    "without_control_tokens",
]

DEFAULT_INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

_DOCUMENT = "<Document>:"


def prompt_body(instruct: str, query: str, text: str | None = None) -> str:
    """The part between prefix and suffix. Without a text, it ends where the text would begin."""
    head = f"{_query_part(instruct, query)}{_DOCUMENT}"
    return head if text is None else f"{head} {text}"


def prompt_pair(instruct: str | None, query: str, text: str) -> tuple[str, str]:
    """The whole prompt in two parts, the second of which begins with the document.

    The parts meet where Qwen's tokenizer splits anyway, so that a server can tokenize them together
    or one by one. Control tokens in the instruct, the query and the text are broken up.
    """
    instruct, query, text = map(without_control_tokens, (instruct or DEFAULT_INSTRUCT, query, text))
    return f"{PREFIX}{_query_part(instruct, query)}", f"{_DOCUMENT} {text}{SUFFIX}"


def without_control_tokens(text: str) -> str:
    """Put a space in each control token of Qwen3, so that a tokenizer reads it as plain text.

    A server receives the prompt as text, so that it cannot tell whose token it is.
    """
    return _CONTROL_TOKEN.sub("< ", text)


_CONTROL_TOKEN = re.compile(r"<(?=\|[a-z_]+\|>|/?(?:think|tool_call|tool_response)>)")
"""The beginning of a token that Qwen3's tokenizer_config.json adds."""


def _query_part(instruct: str, query: str) -> str:
    return f"<Instruct>: {instruct}\n<Query>: {query}\n"

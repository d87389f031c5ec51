"""Qwen3-Reranker's prompt, as token rows.

Source of the wording and of how it is cut: QwenLM/Qwen3-Embedding on GitHub, README and
examples/qwen3_reranker_transformers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import check_query, check_text, check_whole, not_utf8

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["DEFAULT_INSTRUCT", "PREFIX", "SUFFIX", "Prompt", "Rows", "Tokens", "body", "plain"]

DEFAULT_INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


Tokens: TypeAlias = tuple[int, ...]


class Rows(NamedTuple):
    """The token ids of one call.

    Attributes:
        lead: What every prompt starts with: the prefix, the instruct, the query.
        rows: What follows the lead, for each text. Ends in the suffix, so never empty.
        cut: How many texts were too long and lost their end.
    """

    lead: Tokens
    rows: list[Tokens]
    cut: int


class Prompt:
    """Puts queries and texts into the prompt. Any thread may use it.

    Args:
        tokenizer: The model's.
        instruct: What relevant means.
        max_length: Tokens of a whole prompt at most: longer bodies are cut on the right.

    Raises:
        InvalidInputError: An instruct that is no text, or a max_length that leaves no room.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, instruct: str, max_length: int) -> None:
        check_text("instruct", instruct)
        self._instruct = instruct
        self._prefix: list[int] = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
        self._suffix: list[int] = tokenizer(SUFFIX, add_special_tokens=False)["input_ids"]
        self._plain = plain(tokenizer)
        fixed = len(self._prefix) + len(self._suffix)
        check_whole("max_length", max_length, at_least=fixed + 1)
        self._room = max_length - fixed

    def rows(self, query: str, texts: Sequence[str]) -> Rows:
        """The rows of the texts, in their order.

        Raises:
            InvalidInputError: A query or a text that is not a string of Unicode characters.
        """
        check_query(query)
        _check_encodable("The query", query)
        for place, text in enumerate(texts):
            _check_encodable(f"Text {place}", text)
        head, *bodies = self._encoded(
            [body(self._instruct, query), *(body(self._instruct, query, text) for text in texts)]
        )
        rows = [self._prefix + ids[: self._room] + self._suffix for ids in bodies]
        lead = self._prefix + head[: self._room]
        # How a text is split may reach back into what precedes it: only equal tokens are shared.
        while any(row[: len(lead)] != lead for row in rows):
            lead.pop()
        cut = sum(len(ids) > self._room for ids in bodies)
        return Rows(tuple(lead), [tuple(row[len(lead) :]) for row in rows], cut)

    def _encoded(self, bodies: list[str]) -> list[list[int]]:
        encodings = self._plain.encode_batch(bodies, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def body(instruct: str, query: str, text: str | None = None) -> str:
    """What stands between prefix and suffix; without a text, all that precedes it."""
    head = f"<Instruct>: {instruct}\n<Query>: {query}\n<Document>:"
    return head if text is None else f"{head} {text}"


def plain(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same tokenizer without its added tokens, to which `<|im_end|>` is text like any other."""
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    bare = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer"):
        if (used := getattr(backend, part)) is not None:
            setattr(bare, part, used)
    return bare


def _check_encodable(name: str, text: str) -> None:
    """Raise InvalidInputError unless it is a string that UTF-8 can encode."""
    if not isinstance(text, str):
        raise InvalidInputError(f"{name} must be a string, got {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise not_utf8(name) from None

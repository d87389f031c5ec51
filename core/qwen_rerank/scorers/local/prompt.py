"""Qwen3-Reranker's prompt, as token sequences.

Source of the truncation: QwenLM/Qwen3-Embedding on GitHub,
examples/qwen3_reranker_transformers.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import TEXT_ONLY, Item, Modality
from qwen_rerank.scorers.prompts import DEFAULT_INSTRUCT, PREFIX, SUFFIX, prompt_body
from qwen_rerank.validation import check_text, check_whole, is_utf8, not_utf8

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "DEFAULT_INSTRUCT",
    "PREFIX",
    "SUFFIX",
    "Prompt",
    "TokenizedPrompts",
    "Tokens",
    "prompt_body",
    "without_added_tokens",
]

Tokens: TypeAlias = tuple[int, ...]


class TokenizedPrompts(NamedTuple):
    """The token ids of the prompts of one call.

    Attributes:
        shared: What all prompts start with: the prefix, the instruct and the query.
        rests: What follows in the prompt of each text. It ends with the suffix, so it isn't empty.
        truncated: The indices of the texts that were too long and lost their end.
    """

    shared: Tokens
    rests: list[Tokens]
    truncated: list[int]


class Prompt:
    """Formats queries and texts as prompts. Thread-safe.

    Args:
        tokenizer: The model's tokenizer.
        instruct: What relevant means.
        max_length: The maximum length of a prompt in tokens. Longer texts lose their end.

    Raises:
        InvalidInputError: `instruct` is not a text, or `max_length` leaves no room for one.
    """

    modalities: ClassVar[frozenset[Modality]] = TEXT_ONLY

    def __init__(self, tokenizer: PreTrainedTokenizerBase, instruct: str, max_length: int) -> None:
        check_text("instruct", instruct)
        self.instruct = instruct
        self._prefix: list[int] = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
        self._suffix: list[int] = tokenizer(SUFFIX, add_special_tokens=False)["input_ids"]
        self._tokenizer = without_added_tokens(tokenizer)
        fixed = len(self._prefix) + len(self._suffix)
        check_whole("max_length", max_length, at_least=fixed + 1)
        self.max_length = max_length
        self._max_body = max_length - fixed
        # Longer texts never fit, so a huge text is not tokenized whole.
        self._max_characters = self._max_body * max(map(len, self._tokenizer.get_vocab()))

    def tokenize(self, query: Item, texts: Sequence[Item]) -> TokenizedPrompts:
        """Tokenize the prompts of the texts, in the order of the texts.

        Raises:
            InvalidInputError: The query or a text is not a string that UTF-8 can encode, or the
                query leaves no room for the texts.
        """
        query = self._text("The query", query)
        bodies = [
            prompt_body(self.instruct, query, self._text(f"Text {index}", text))
            for index, text in enumerate(texts)
        ]
        head, *bodies_ids = self._encode([prompt_body(self.instruct, query), *bodies])
        if texts and len(head) >= self._max_body:
            raise self._query_too_long(len(head))
        prompts = [self._prefix + ids[: self._max_body] + self._suffix for ids in bodies_ids]
        shared = self._prefix + head[: self._max_body]
        # The tokens at the end of the head may depend on what follows: share only equal ones.
        while any(prompt[: len(shared)] != shared for prompt in prompts):
            shared.pop()
        return TokenizedPrompts(
            tuple(shared),
            [tuple(prompt[len(shared) :]) for prompt in prompts],
            [index for index, ids in enumerate(bodies_ids) if len(ids) > self._max_body],
        )

    def _text(self, name: str, text: Item) -> str:
        """The part of a text that could fit.

        Raises:
            InvalidInputError: It is not a string that UTF-8 can encode.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"{name} must be a string, got {type(text).__name__}.")
        if not is_utf8(text):
            raise not_utf8(name)
        return text[: self._max_characters]

    def _query_too_long(self, tokens: int) -> InvalidInputError:
        fixed = self.max_length - self._max_body
        return InvalidInputError(
            f"The query is too long: with the prompt and the instruct it has at least "
            f"{tokens + fixed:,} tokens, and max_length={self.max_length:,} leaves no room for the "
            "texts.",
            remedy="Shorten the query, or raise max_length=.",
        )

    def _encode(self, bodies: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch(bodies, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def without_added_tokens(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The same tokenizer without its added tokens: it reads `<|im_end|>` as plain text."""
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    plain = Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer"):
        if (value := getattr(backend, part)) is not None:
            setattr(plain, part, value)
    return plain

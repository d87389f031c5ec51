"""Qwen3-VL-Reranker's prompt, as token sequences with images.

Source of the wording, the truncation and the times of frames:
QwenLM/Qwen3-VL-Embedding, src/models/qwen3_vl_reranker.py and examples/reranker_template.jinja.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Content, Item, Modality
from qwen_rerank.scorers.local.images import Image, ImageReader, TokensWithImages, is_image_token
from qwen_rerank.scorers.local.prompt import (
    TokenizedPrompts,
    Tokens,
    without_added_tokens,
)
from qwen_rerank.scorers.prompts import PREFIX
from qwen_rerank.validation import check_text, check_whole, is_utf8, not_utf8

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["INSTRUCT", "MAX_LENGTH", "SUFFIX", "MultimodalPrompt"]

INSTRUCT = "Given a search query, retrieve relevant candidates that answer the query."
MAX_LENGTH = 10_240
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"

_BEFORE_IMAGE, _AFTER_IMAGE = "<|vision_start|>", "<|vision_end|>"

_MIDDLE_OF_PAIR = 0.25
"""Seconds: frames count as half a second apart, whatever the video is."""

Part: TypeAlias = str | Image
_Images: TypeAlias = dict[str | tuple[str, ...], list[Image]]
"""The images by what a Content holds: an image, or frames."""


class MultimodalPrompt:
    """Formats queries and items as prompts. Thread-safe.

    Args:
        tokenizer: The model's tokenizer.
        reader: Reads images.
        instruct: What relevant means.
        max_length: The maximum length of a prompt in tokens, without the few at its end. Longer
            texts lose their end; images are never cut.

    Raises:
        InvalidInputError: `instruct` is not a text, or `max_length` leaves no room for one.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text", "image", "frames"})

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        reader: ImageReader,
        instruct: str,
        max_length: int,
    ) -> None:
        check_text("instruct", instruct)
        self.instruct = instruct
        self._reader = reader
        self._prefix: list[int] = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
        self._suffix: list[int] = tokenizer(SUFFIX, add_special_tokens=False)["input_ids"]
        self._control_tokens = set(tokenizer.all_special_ids)
        self._around_image: list[int] = tokenizer.convert_tokens_to_ids(
            [_BEFORE_IMAGE, _AFTER_IMAGE]
        )
        self._tokenizer = without_added_tokens(tokenizer)
        check_whole("max_length", max_length, at_least=len(self._prefix) + 1)
        self.max_length = max_length
        # Longer texts never fit, so a huge text is not tokenized whole.
        self._max_characters = max_length * max(map(len, self._tokenizer.get_vocab()))

    def tokenize(self, query: Item, items: Sequence[Item]) -> TokenizedPrompts:
        """Tokenize the prompts of the items, in the order of the items.

        Raises:
            InvalidInputError: A text is not a string that UTF-8 can encode, an
                image can't be read, or the images of a prompt don't fit.
        """
        images: _Images = {}
        query_parts = self._parts_of(query, "the query", images)
        head_parts = [f"<Instruct>: {self.instruct}<Query>:", *query_parts, "\n<Document>:"]
        names = [f"text {index}" for index in range(len(items))]
        parts = [
            [*head_parts, *self._parts_of(item, name, images)]
            for item, name in zip(items, names, strict=True)
        ]
        head, *bodies = self._encode([head_parts, *parts])
        prompts = [
            self._truncated(body, len(head), name) for body, name in zip(bodies, names, strict=True)
        ]
        shared_length = min(_common_length(head, prompt) for prompt in prompts)
        return TokenizedPrompts(
            _with_images(head[:shared_length], images),
            [_with_images(prompt[shared_length:], images) for prompt in prompts],
            [index for index, body in enumerate(bodies) if len(body) > self.max_length],
        )

    def _parts_of(self, item: Item, name: str, images: _Images) -> list[Part]:
        """The image or the frames, and the text, of an item. Equal ones are read once."""
        if isinstance(item, str):
            if not is_utf8(item):
                raise not_utf8(name.capitalize())
            return [item[: self._max_characters]]
        if not isinstance(item, Content):
            raise InvalidInputError(
                f"{name.capitalize()} must be a string or a Content, got {type(item).__name__}."
            )
        parts: list[Part] = []
        if item.image is not None:
            if item.image not in images:
                images[item.image] = [self._reader.image(item.image, name)]
            parts += images[item.image]
        if item.frames is not None:
            if item.frames not in images:
                images[item.frames] = self._reader.video(item.frames, name)
            for second, image in enumerate(images[item.frames]):
                parts += (f"<{second + _MIDDLE_OF_PAIR:.1f} seconds>", image)
        return [*parts, (item.text or "")[: self._max_characters]]

    def _encode(self, prompts: Sequence[Sequence[Part]]) -> list[list[int]]:
        """The tokens of each prompt, from the prefix on. Text between images is encoded at once."""
        merged = [list(_merged(parts)) for parts in prompts]
        texts = [part for parts in merged for part in parts if isinstance(part, str)]
        encodings = iter(self._tokenizer.encode_batch(texts, add_special_tokens=False))
        before, after = self._around_image
        encoded = []
        for parts in merged:
            tokens = self._prefix.copy()
            for part in parts:
                if isinstance(part, Image):
                    tokens += (before, *part.tokens, after)
                else:
                    tokens += next(encodings).ids
            encoded.append(tokens)
        return encoded

    def _truncated(self, tokens: list[int], head_length: int, name: str) -> list[int]:
        """The whole prompt. One that is too long loses its last tokens that are plain text."""
        if len(tokens) > self.max_length:
            kept = sum(map(self._is_kept, tokens))
            room = self.max_length - kept
            if sum(not self._is_kept(token) for token in tokens[:head_length]) > room:
                raise InvalidInputError(
                    f"The query does not fit beside {name}: max_length={self.max_length:,} tokens "
                    f"has room for {max(room, 0):,}, besides images and control tokens.",
                    remedy="Raise max_length=, shorten the query, or make the images smaller.",
                )
            tokens = list(self._first_plain_tokens(tokens, room))
        return tokens + self._suffix

    def _first_plain_tokens(self, tokens: list[int], count: int) -> Iterator[int]:
        for token in tokens:
            if self._is_kept(token):
                yield token
            elif count > 0:
                count -= 1
                yield token

    def _is_kept(self, token: int) -> bool:
        return is_image_token(token) or token in self._control_tokens


def _merged(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts, with neighboring texts joined."""
    for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
        if is_text:
            yield "".join(map(str, group))
        else:
            yield from group


def _common_length(head: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens at the start are equal."""
    pairs = zip(head, prompt, strict=False)
    return next(
        (index for index, (a, b) in enumerate(pairs) if a != b), min(len(head), len(prompt))
    )


def _with_images(tokens: Sequence[int], images: _Images) -> Tokens:
    """The tokens, with those of the images that they stand for."""
    by_first_token = {image.first_token: image for read in images.values() for image in read}
    found = [by_first_token[token] for token in tokens if token in by_first_token]
    return TokensWithImages(tokens, found) if found else tuple(tokens)

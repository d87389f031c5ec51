"""Content blocks, as LangChain and OpenAI have them in messages, as a Content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Content, Item, Media, combined, from_base64

__all__ = ["content_of"]

_TYPES = frozenset(
    {"text", "image", "video", "image_url", "video_url", "text-plain", "audio", "file"}
    | {"input_text", "input_image", "input_audio", "input_file"}
)
"""What blocks call themselves that hold something to read; not all of them are understood."""

_HOLDERS = frozenset(
    {"text", "url", "base64", "data", "source", "file_id", "file"}
    | {"image_url", "video_url", "input_audio"}
)
"""The keys in which blocks hold it."""


def content_of(value: Any) -> Content | None:
    """The content of a block, or of a list of blocks, texts and Contents; None for all else.

    Understood are LangChain's standard blocks of type `text`, `image` and `video` with `url` or
    `base64`, and OpenAI's `image_url` (and `video_url`, which others have made like it). A mapping
    that only happens to have a `type` is no block.

    Raises:
        InvalidInputError: A block that can't be ranked, or more than one image or video.
    """
    if isinstance(value, Content):
        return value
    if _is_block(value):
        return _read(value)
    if isinstance(value, list | tuple) and any(map(_is_content, value)):
        return combined([_part(each) for each in value])
    return None


def _is_block(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(kind := value.get("type"), str)
        and kind in _TYPES
        and not _HOLDERS.isdisjoint(value)
    )


def _is_content(value: Any) -> bool:
    return isinstance(value, Content) or _is_block(value)


def _part(value: Any) -> Item:
    if isinstance(value, str | Content):
        return value
    if _is_block(value):
        return _read(value)
    raise InvalidInputError(f"There is a {type(value).__name__} among the content blocks.")


def _read(block: Mapping[str, Any]) -> Content:
    kind = block["type"]
    if kind == "text":
        return Content(block.get("text"))
    media = _standard(block) if kind in ("image", "video") else _openai(block.get(kind))
    if media is not None and kind in ("image", "image_url"):
        return Content(image=media)
    if media is not None and kind in ("video", "video_url"):
        return Content(video=media)
    raise InvalidInputError(
        f"A content block of type {kind!r}, with {', '.join(map(str, block))}, can't be ranked.",
        remedy="Keep those that hold a text, or the url or base64 of an image or a video.",
    )


def _standard(block: Mapping[str, Any]) -> Media | None:
    if url := block.get("url"):
        return _string(url)
    if base64 := block.get("base64"):
        return from_base64(_string(base64), block.get("mime_type"))
    return None


def _openai(held: Any) -> str | None:
    url = held.get("url") if isinstance(held, Mapping) else held
    return _string(url) if url else None


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise InvalidInputError(f"A content block holds {type(value).__name__} instead of a string.")

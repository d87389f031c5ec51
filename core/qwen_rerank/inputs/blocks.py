"""Content blocks of LangChain and OpenAI messages, read as a Content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import Content, Item, combined
from qwen_rerank.inputs.media import Media, from_base64

__all__ = ["content_of"]

_NOTHING_LOCAL = AllowedMedia()

_BLOCK_TYPES = frozenset(
    {"text", "image", "video", "image_url", "video_url", "text-plain", "audio", "file"}
    | {"input_text", "input_image", "input_audio", "input_file"}
)
"""The types of blocks that hold content, including those that can't be ranked."""

_CONTENT_KEYS = frozenset(
    {"text", "url", "base64", "data", "source", "file_id", "file"}
    | {"image_url", "video_url", "input_audio"}
)


def content_of(value: Any, allowed: AllowedMedia = _NOTHING_LOCAL) -> Content | None:
    """Read a content block, or a list of blocks, strings and Contents, as one Content.

    It supports LangChain's standard blocks of type `text`, `image` and `video` with `url` or
    `base64`, and OpenAI's `image_url` (and `video_url`, modelled on it). A mapping that only
    happens to have a `type` is not a block.

    Args:
        value: The value.
        allowed: What the addresses in blocks may be.

    Returns:
        The Content, or None if the value is none of these.

    Raises:
        InvalidInputError: A block can't be ranked or is at an address that is not allowed, or there
            is more than one image or video.
    """
    if isinstance(value, Content):
        return value
    if _is_block(value):
        return _content_of_block(value, allowed)
    if isinstance(value, list | tuple) and any(map(_is_content, value)):
        return combined([_item_of_part(part, allowed) for part in value])
    return None


def _is_block(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(kind := value.get("type"), str)
        and kind in _BLOCK_TYPES
        and not _CONTENT_KEYS.isdisjoint(value)
    )


def _is_content(value: Any) -> bool:
    return isinstance(value, Content) or _is_block(value)


def _item_of_part(value: Any, allowed: AllowedMedia) -> Item:
    if isinstance(value, str | Content):
        return value
    if _is_block(value):
        return _content_of_block(value, allowed)
    raise InvalidInputError(f"A list of content blocks can't hold a value of type {_kind(value)}.")


def _content_of_block(block: Mapping[str, Any], allowed: AllowedMedia) -> Content:
    kind = block["type"]
    if kind == "text":
        return Content(block.get("text"))
    media = _langchain_media(block) if kind in ("image", "video") else _openai_url(block.get(kind))
    if media is not None and kind in ("image", "image_url"):
        return Content(image=allowed.checked("image", media))
    if media is not None and kind in ("video", "video_url"):
        return Content(video=allowed.checked("video", media))
    raise InvalidInputError(
        f"A content block of type {kind!r} with the keys {', '.join(map(str, block))} can't be "
        "ranked.",
        remedy="Pass only blocks with a text, or with the url or base64 of an image or a video.",
    )


def _langchain_media(block: Mapping[str, Any]) -> Media | None:
    if url := block.get("url"):
        return _checked_string("url", url)
    if base64 := block.get("base64"):
        return from_base64(_checked_string("base64", base64), block.get("mime_type"))
    return None


def _openai_url(held: Any) -> str | None:
    url = held.get("url") if isinstance(held, Mapping) else held
    return _checked_string("url", url) if url else None


def _checked_string(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise InvalidInputError(f"The {key} of a content block must be a string, got {_kind(value)}.")


def _kind(value: Any) -> str:
    return type(value).__name__

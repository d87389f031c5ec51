"""Images and videos in the requests of rerank servers: the same `Content` in each server's form."""

from __future__ import annotations

from typing import Any

from qwen_rerank.inputs.content import Content, Item

__all__ = ["as_content_object", "as_named_parts", "as_parts"]


def as_parts(item: Item) -> Any:
    """SGLang: a text, or a list of parts as in OpenAI's chat API."""
    if not isinstance(item, Content):
        return item
    parts: list[dict[str, Any]] = []
    for kind, uri in (("image_url", item.image), ("video_url", item.video)):
        if uri is not None:
            parts.append({"type": kind, kind: {"url": uri}})
    if item.text is not None:
        parts.append({"type": "text", "text": item.text})
    return parts


def as_content_object(item: Item) -> Any:
    """vLLM: a text, or an object with such a list."""
    return {"content": as_parts(item)} if isinstance(item, Content) else item


def as_named_parts(item: Item) -> Any:
    """Xinference: a text, or an object with text, image and video by name."""
    if not isinstance(item, Content):
        return item
    parts = {"text": item.text, "image": item.image, "video": item.video}
    return {name: value for name, value in parts.items() if value is not None}

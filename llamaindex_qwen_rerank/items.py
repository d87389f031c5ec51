"""Read the text, image or video to score from LlamaIndex nodes and queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    QueryBundle,
    TextNode,
)

from qwen_rerank import Content, InvalidInputError
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import Item
from qwen_rerank.inputs.media import Media, from_base64
from qwen_rerank.validation import check_query

__all__ = ["has_image", "item_of_node", "item_of_query"]


def item_of_node(node: BaseNode, mode: MetadataMode, allowed: AllowedMedia) -> Item:
    """Return the node's content with the metadata of this mode, and its image or video, if any.

    If the image has several forms, the first of these is used: data, path, URL.

    Raises:
        InvalidInputError: An image or a video cannot be read, or a node may not name it.
    """
    if type(node) is TextNode:  # the usual one, which has no media
        return node.get_content(mode) if node.metadata else node.text
    text = node.get_content(mode)
    try:
        image, video = _media(node)
        if image is None and video is None:
            return text
        image = None if image is None else allowed.checked("image", image)
        video = None if video is None else allowed.checked("video", video)
        return Content(text, image, video)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"Node {node.node_id!r}: {error.message}", remedy=error.remedy
        ) from error


def item_of_query(query: QueryBundle | None) -> Item:
    """Return the query's text, and its image, if any.

    Raises:
        InvalidInputError: The query does not have text, or has an image that cannot be read.
    """
    if query is not None and not isinstance(query, QueryBundle):
        raise InvalidInputError(
            f"query_bundle must be a QueryBundle, got {type(query).__name__}.",
            remedy="Pass the text of the query as query_str=.",
        )
    text = "" if query is None else query.query_str
    if not isinstance(text, str):  # LlamaIndex's events would not accept it
        check_query(text)
    return Content(text, Path(query.image_path)) if query and query.image_path else text


def has_image(query: QueryBundle | None) -> bool:
    """Whether `item_of_query` reads a file."""
    return isinstance(query, QueryBundle) and bool(query.image_path)


def _media(node: BaseNode) -> tuple[Media | None, Media | None]:
    """The node's image and video."""
    if isinstance(node, ImageNode):
        image = _first_form(node.image, node.image_path, node.image_url, node.image_mimetype)
        return image, None
    if isinstance(node, Node):
        return _resource_media(node.image_resource), _resource_media(node.video_resource)
    return None, None


def _resource_media(resource: MediaResource | None) -> Media | None:
    if resource is None:
        return None
    return _first_form(resource.data, resource.path, resource.url, resource.mimetype)


def _first_form(
    data: str | bytes | None, path: Any, url: Any, media_type: str | None
) -> Media | None:
    if data:
        return from_base64(data, media_type)
    if path:
        return Path(path)
    return str(url) if url else None

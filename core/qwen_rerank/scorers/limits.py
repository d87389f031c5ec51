"""What the DashScope service publishes about its models: how large a request may be, what it takes.

Source: Alibaba Cloud Model Studio, text rerank API reference, June 2026.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from qwen_rerank.validation import check_whole

__all__ = ["Limits", "published_limits", "takes_instruct", "takes_objects"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be.

    A request's tokens are the query's tokens times the number of documents, plus the documents'
    tokens. The service cuts an item that is over its limit, and refuses a request that is.

    Attributes:
        documents: Documents a request, at least 1.
        item_tokens: Tokens of the query or of one document, at least 1.
        request_tokens: Tokens a request, at least 1.
        images: Documents a request, at least 1, where each has an image, with a text or without.
        videos: Documents a request, at least 1, where each has a video.

    Raises:
        InvalidInputError: A limit that is not a whole number of at least 1.
    """

    documents: int = 500
    item_tokens: int = 4_000
    request_tokens: int = 30_000
    images: int = 40
    videos: int = 4

    def __post_init__(self) -> None:
        for limit in fields(self):
            check_whole(f"limits.{limit.name}", getattr(self, limit.name), at_least=1)


_TEXT = Limits()
_SINGAPORE_TEXT = Limits(request_tokens=120_000)
_VISION = Limits(documents=100, item_tokens=8_000, request_tokens=120_000)


def published_limits(model: str, *, singapore: bool = False) -> Limits:
    """The limits of a model; those of qwen3-rerank for a model that we know nothing about.

    Args:
        model: The service's name of the model, such as `"gte-rerank-v2"`.
        singapore: Whether the requests go to the Singapore region (ap-southeast-1).
    """
    if takes_objects(model):
        return _VISION
    return _SINGAPORE_TEXT if singapore and takes_instruct(model) else _TEXT


def takes_objects(model: str) -> bool:
    """Whether the query and the documents are objects, such as {"text": …}, and not strings."""
    return model.startswith("qwen3-vl-rerank")


def takes_instruct(model: str) -> bool:
    """Whether the model takes a task instruction: all but the gte-rerank family do."""
    return not model.startswith("gte-rerank")

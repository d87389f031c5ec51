"""What the DashScope service publishes about the size of a request.

Source: Alibaba Cloud Model Studio, text rerank API reference, June 2026.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from qwen_rerank.checks import check_whole

__all__ = ["Limits", "published_limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be.

    A request's tokens are the query's tokens times the number of documents, plus the documents'
    tokens. The service cuts an item that is over its limit, and refuses a request that is.

    Attributes:
        documents: Documents a request, at least 1.
        item_tokens: Tokens of the query or of one document, at least 1.
        request_tokens: Tokens a request, at least 1.

    Raises:
        InvalidInputError: A limit that is not a whole number of at least 1.
    """

    documents: int = 500
    item_tokens: int = 4_000
    request_tokens: int = 30_000

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
    if model == "qwen3-vl-rerank":
        return _VISION
    if singapore and not model.startswith("gte-rerank"):
        return _SINGAPORE_TEXT
    return _TEXT

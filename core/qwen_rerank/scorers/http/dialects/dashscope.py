"""DashScope's native protocol.

Source: Alibaba Cloud Model Studio, "Text rerank", February to June 2026.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwen_rerank.errors import (
    AuthenticationError,
    ContentBlockedError,
    InvalidInputError,
)
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.catalog import catalog_entry, model_names
from qwen_rerank.scorers.http.dialects.base import SLOW, THROTTLED, Dialect, ErrorMapping

__all__ = ["CODES", "PATH", "DashScopeDialect"]

PATH = "/services/rerank/text-rerank/text-rerank"
"""The path of the endpoint, after that of the API."""

_MODEL = f"Use a model that the region of base_url serves. Known are {', '.join(model_names())}."

CODES: Mapping[str, ErrorMapping] = {
    "Throttling": THROTTLED,
    "InvalidApiKey": (AuthenticationError, "Check the key. A key belongs to one region."),
    "AccessDenied": (AuthenticationError, "Check that the key's workspace may use the model."),
    "Arrearage": (AuthenticationError, "Settle the balance of the account."),
    "DataInspectionFailed": (ContentBlockedError, "Leave out the text that was refused."),
    "ModelNotExist": (InvalidInputError, _MODEL),
    "Model.NotExist": (InvalidInputError, _MODEL),
    "InvalidParameter": (InvalidInputError, None),
    "RequestTimeOut": SLOW,
}
"""Error types and remedies by the beginning of the service's error code."""


class DashScopeDialect(Dialect):
    """DashScope's native protocol."""

    service = "DashScope"
    results = "output.results"
    codes = CODES
    score_range = (0.0, 1.0)

    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = {"query": query, "documents": documents}
        if catalog_entry(model).takes_objects:
            inputs = {"query": _as_object(query), "documents": list(map(_as_object, documents))}
        parameters: dict[str, Any] = {"return_documents": False}
        if top_n is not None:
            parameters["top_n"] = top_n
        if instruct is not None:
            parameters["instruct"] = instruct
        return {"model": model, "input": inputs, "parameters": parameters}

    def other_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        """The flat form, with which the newest page shows qwen3-rerank."""
        body = self.request_body(model, query, documents, instruct, top_n)
        parameters = body["parameters"]
        del parameters["return_documents"]  # the flat form does not have it
        return {"model": model, **body["input"], **parameters}

    def is_malformed(self, message: str) -> bool:
        return _MALFORMED.search(message) is not None


_MALFORMED = re.compile(
    r"\b(missing|malformed|required|unrecognized|unexpected|unknown (field|param|key|prop|arg))"
    r"|(wrong|invalid|incorrect|illegal) (request )?(body|format|structure|json)"
    r"|body (is )?(invalid|empty)|body format|not permitted|must exist",
    re.IGNORECASE,
)
"""What services say about a body in which they do not find the parameters.

Alibaba Cloud's page of error codes has "Required input parameter missing from request", "Required
parameter(s) missing or invalid" and "Required body invalid, please check the request body format".
The rest is what common validators say.
"""


def _as_object(item: Item) -> dict[str, str]:
    """Return {"text": …}, {"image": …} or {"video": …}, or an object with text and one of them."""
    if isinstance(item, str):
        return {"text": item}
    parts = {"text": item.text, "image": item.image, "video": item.video}
    return {name: value for name, value in parts.items() if value is not None}

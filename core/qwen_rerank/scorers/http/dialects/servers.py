"""The protocols of self-hosted rerank servers.

Most follow the protocol that Jina's and Cohere's services made common. The entries in `SERVERS` say
how each differs, according to that server's source code; docs/scorers.md names the sources.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from qwen_rerank.errors import InvalidInputError, ServiceError
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.catalog import Limits
from qwen_rerank.scorers.http.dialects import dashscope
from qwen_rerank.scorers.http.dialects.base import (
    Dialect,
    ErrorMapping,
    ErrorResponse,
)

__all__ = ["ANY_SCORE", "COMMON", "SERVERS", "ServerDialect"]

_LIMITS = Limits(128, item_tokens=sys.maxsize, request_tokens=sys.maxsize)
"""128 documents per request of any length: the server knows how much its model can read.

Only TEI, DashScope and Infinity (2,048) limit the number. 128 is small enough to be answered within
a timeout and large enough to fill a batch on a GPU.
"""

ANY_SCORE = (-999_999.0, inf)
"""Logits or probabilities. llama.cpp gives -1e6 to a text that it failed to score."""


@dataclass(frozen=True)
class ServerDialect(Dialect):
    """The protocol of a rerank server.

    Attributes:
        service: The name of the server in messages.
        path: The path of its rerank endpoint.
        documents: The name of the documents in a request.
        instruct: The name of the instruction in a request; None if the server takes none.
        needs_model: Whether a request must name the model.
        names_model: Whether a request does name the model.
        extra: What else is in every request.
        limits: How much a request may hold.
        score_range: The lowest and the highest score that the server can send.
        context_option: The option that starts the server with a longer context, for messages.
        codes: Error types and remedies by the beginning of the server's own error code.
        takes_top_n: Whether the server's API has `top_n`.
        truncate: The name in a request of the flag that lets the server truncate texts; None if it
            has none.
        item_limits: The names in a request of the most tokens to read of the query and of each
            document, if the server takes them.
    """

    service: str
    path: str = "/v1/rerank"
    documents: str = "documents"
    instruct: str | None = None
    needs_model: bool = False
    names_model: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = _LIMITS
    score_range: tuple[float, float] = ANY_SCORE
    context_option: str = "a longer context"
    codes: Mapping[str, ErrorMapping] = field(default_factory=dict)
    takes_top_n: bool = True
    truncate: str | None = None
    item_limits: Sequence[str] = ()

    @property
    def provider(self) -> str | None:
        """The name of the server in traces; None if it is not known."""
        return None if self.service == COMMON.service else super().provider

    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        body = {"query": query, self.documents: documents, **self.extra}
        if self.names_model:
            body["model"] = model
        if self.instruct is not None and instruct is not None:
            body[self.instruct] = instruct
        if self.takes_top_n and top_n is not None:
            body["top_n"] = top_n
        return body

    def is_too_long(self, message: str) -> bool:
        return _TOO_LONG.search(message) is not None

    def map_error(self, error: ErrorResponse, status: int) -> ErrorMapping:
        if status in _STATUSES_OF_INPUT and self.is_too_long(error.message):
            return InvalidInputError, (
                "A text is longer than the server's model can read. Shorten it, score it with "
                f"PassageScorer, or start the server with {self.context_option}."
            )
        return super().map_error(error, status)

    def _map_status(self, status: int) -> ErrorMapping:
        if status == 404:
            return InvalidInputError, (
                f"Check the path {self.path}, the model's name, and that the server was started "
                "with a reranker: otherwise some servers lack the path."
            )
        return _ERRORS_BY_STATUS.get(status) or super()._map_status(status)


_ERRORS_BY_STATUS: Mapping[int, ErrorMapping] = {
    413: (InvalidInputError, "Lower batch_size, or raise the server's own limit."),
    422: (InvalidInputError, "Check that dialect= names the server at this address."),
    501: (ServiceError, "Start the server for reranking; llama.cpp with --reranking."),
}

_TOO_LONG = re.compile(
    r"too (large|big|long) to process|physical batch size|context (length|size|window)"
    r"|max(imum)? (model|sequence) len|must have less than \d+ tokens",
    re.IGNORECASE,
)
"""What servers say about a text that is longer than their model can read."""

_STATUSES_OF_INPUT = (200, 400, 413, 422, 500)
"""The statuses of such responses. llama.cpp sends 500."""

COMMON = ServerDialect("The server", takes_top_n=False)
"""The protocol that any server at a path like /v1/rerank understands."""

SERVERS: Mapping[str, ServerDialect] = {
    "vllm": ServerDialect(
        "vLLM",
        instruct="instruction",
        context_option="a larger --max-model-len",
        # Not truncate_prompt_tokens: it would cut off the end of Qwen3-Reranker's prompt.
        item_limits=("max_tokens_per_query", "max_tokens_per_doc"),
    ),
    "llama.cpp": ServerDialect(
        "llama.cpp", context_option="a larger --ctx-size, --batch-size and --ubatch-size"
    ),
    "sglang": ServerDialect(
        "SGLang",
        instruct="instruct",
        extra={"return_documents": False},
        context_option="a larger --context-length",
    ),
    "infinity": ServerDialect("Infinity", "/rerank"),
    "tei": ServerDialect(
        "TEI",
        "/rerank",
        documents="texts",
        takes_top_n=False,
        truncate="truncate",
        limits=replace(_LIMITS, documents=32),
    ),
    "localai": ServerDialect("LocalAI"),
    "xinference": ServerDialect("Xinference", needs_model=True),
    "dashscope": ServerDialect(
        "DashScope",
        "/compatible-api/v1/reranks",
        instruct="instruct",
        needs_model=True,
        limits=Limits(),
        score_range=(0.0, 1.0),
        codes=dashscope.CODES,
    ),
}
"""The servers, by the names that users give them."""

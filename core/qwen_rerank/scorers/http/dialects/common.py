"""The protocol that most rerank servers share: that of Jina's and Cohere's services."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeAlias

from qwen_rerank.errors import InvalidInputError, RateLimitError, ServiceError
from qwen_rerank.inputs.content import Item, text_of
from qwen_rerank.scorers.catalog import Limits
from qwen_rerank.scorers.http.dialects.base import Dialect, ErrorMapping, ErrorResponse
from qwen_rerank.scorers.http.dialects.server_errors import is_too_long, mapping_by_message
from qwen_rerank.scorers.prompts import prompt_pair

__all__ = ["ANY_SCORE", "COMMON", "LIMITS", "MediaWriter", "ServerDialect"]

LIMITS = Limits(128, item_tokens=sys.maxsize, request_tokens=sys.maxsize)
"""128 documents per request of any length: the server knows how much its model can read.

Only TEI, DashScope and Infinity (2,048) limit the number. 128 is small enough to be answered within
a timeout and large enough to fill a batch on a GPU.
"""

ANY_SCORE = (-999_999.0, inf)
"""Logits or probabilities. llama.cpp gives -1e6 to a text that it failed to score."""

MediaWriter: TypeAlias = Callable[[Item], Any]
"""Returns a query or document in the form that a server expects for a multimodal model."""


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
        is_own: Whether you run the server, and so set its limits.
        prompt_obstacle: Why the server can't get the whole prompt from us, as the end of a
            sentence; None if it can.
        prompt_extra: What a request with the whole prompt has besides `extra`.
        always_prompts: Whether every request has the whole prompt.
        writes_prompt: Whether requests do have it.
        media: Writes images and videos; None if the server takes none.
        is_multimodal: Whether the server's model takes images and videos.
        setup: How the server is set up for Qwen3-Reranker, as a remedy; None if we don't know.
    """

    service: str
    path: str = "/v1/rerank"
    documents: str = "documents"
    instruct: str | None = None
    needs_model: bool = False
    names_model: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = LIMITS
    score_range: tuple[float, float] = ANY_SCORE
    context_option: str = "a longer context"
    codes: Mapping[str, ErrorMapping] = field(default_factory=dict)
    takes_top_n: bool = True
    truncate: str | None = None
    item_limits: Sequence[str] = ()
    is_own: bool = True
    prompt_obstacle: str | None = None
    prompt_extra: Mapping[str, Any] = field(default_factory=dict)
    always_prompts: bool = False
    writes_prompt: bool = False
    media: MediaWriter | None = None
    is_multimodal: bool = False
    setup: str | None = None

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
        if self.writes_prompt:
            body = self._with_prompt(text_of(query), documents, instruct)
        else:
            body = {**self._inputs(query, documents), **self.extra}
            if self.instruct is not None and instruct is not None:
                body[self.instruct] = instruct
        if self.names_model:
            body["model"] = model
        if self.takes_top_n and top_n is not None:
            body["top_n"] = top_n
        return body

    def _with_prompt(
        self, query: str, documents: Sequence[Item], instruct: str | None
    ) -> dict[str, Any]:
        """The body of a request with the whole prompt, which the server joins from two parts."""
        pairs = [prompt_pair(instruct, query, text_of(document)) for document in documents]
        inputs = self._inputs(pairs[0][0], [document for _, document in pairs])
        return {**inputs, **self.extra, **self.prompt_extra}

    def _inputs(self, query: Item, documents: Sequence[Item]) -> dict[str, Any]:
        if self.is_multimodal and self.media is not None:
            query, documents = self.media(query), list(map(self.media, documents))
        return {"query": query, self.documents: documents}

    def is_too_long(self, message: str) -> bool:
        return is_too_long(message)

    def map_error(self, error: ErrorResponse, status: int) -> ErrorMapping:
        if status in _STATUSES_OF_INPUT and self.is_too_long(error.message):
            return InvalidInputError, (
                "The query or a text is longer than the server's model can read. Shorten it, score "
                f"long texts with PassageScorer, or start the server with {self.context_option}."
            )
        return mapping_by_message(error.message) or super().map_error(error, status)

    def _map_status(self, status: int) -> ErrorMapping:
        if status == 404:
            return InvalidInputError, (
                f"Check the path {self.path}, the model's name, and that the server was started "
                "with a reranker: otherwise some servers lack the path."
            )
        if status == 429 and self.is_own:
            return RateLimitError, (
                "Lower max_concurrency, set requests_per_minute, or raise the server's own limit."
            )
        return _ERRORS_BY_STATUS.get(status) or super()._map_status(status)


_ERRORS_BY_STATUS: Mapping[int, ErrorMapping] = {
    413: (InvalidInputError, "Lower batch_size, or raise the server's own limit."),
    422: (InvalidInputError, "Check that dialect= names the server at this address."),
    501: (ServiceError, "Start the server for reranking; llama.cpp with --reranking."),
}

_STATUSES_OF_INPUT = (200, 400, 413, 422, 500)
"""The statuses of such responses. llama.cpp sends 500."""

COMMON = ServerDialect(
    "The server",
    takes_top_n=False,
    prompt_obstacle="servers join the query and the text in different ways",
)
"""The protocol that any server at a path like /v1/rerank understands."""

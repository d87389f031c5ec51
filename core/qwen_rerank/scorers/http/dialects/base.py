"""The interface between HttpScorer and the protocol of a rerank service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

from qwen_rerank.errors import (
    AuthenticationError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.http.dialects.responses import (
    ErrorResponse,
    InvalidRankingError,
    RankingResponse,
    read_error,
    read_ranking,
)

__all__ = [
    "FAILING",
    "SLOW",
    "THROTTLED",
    "Dialect",
    "ErrorMapping",
    "ErrorResponse",
    "InvalidRankingError",
    "RankingResponse",
]

ErrorMapping: TypeAlias = tuple[type[QwenRerankError], str | None]
"""The type of an error, and its remedy or None."""

THROTTLED: ErrorMapping = (
    RateLimitError,
    "Lower max_concurrency, set requests_per_minute to your quota, ask for a higher quota, or "
    "wait.",
)

SLOW: ErrorMapping = (
    RequestTimeoutError,
    "Rank fewer or shorter texts, or try again later. To fail sooner, set deadline= or use a "
    "FallbackScorer.",
)

FAILING: ErrorMapping = (
    ServiceError,
    "Try again later. To keep going meanwhile, use a FallbackScorer.",
)

_REDIRECTED: ErrorMapping = (
    ServiceError,
    "Check the address, and use the one that it redirects to if you trust it.",
)

_ERRORS_BY_STATUS: Mapping[int, ErrorMapping] = {
    400: (InvalidInputError, None),
    401: (AuthenticationError, "Check the key, and that it belongs to this address."),
    403: (AuthenticationError, "Check what the key is allowed to do."),
    404: (InvalidInputError, "Check the model's name and the address."),
    407: (ServiceError, "Check the user and the password of the proxy."),
    408: SLOW,
    429: THROTTLED,
}


class Dialect(ABC):
    """The protocol of a rerank service: how requests are written and responses read.

    A subclass writes requests. Responses have so much in common that they are read here: results
    in any of the usual places, errors in any of the usual forms.

    Attributes:
        service: The name of the service in messages.
        results: Where a response has its results, such as `"output.results"`, for messages.
        codes: Error types and remedies by the beginning of the service's own error code.
        score_range: The lowest and the highest score that there can be. One outside is refused.
        incomplete_remedy: What to do if a response does not have one score per document.
    """

    service: str
    results: str = "results"
    codes: Mapping[str, ErrorMapping] = {}
    score_range: tuple[float, float] = (-inf, inf)
    incomplete_remedy: str | None = None

    @property
    def provider(self) -> str | None:
        """The name of the service in traces; None if it is not known."""
        return self.service.lower()

    @abstractmethod
    def request_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            model: The model's name.
            query: The query.
            documents: The documents of this request.
            instruct: The task instruction; None for the model's default.
            top_n: Ask for the best `top_n` results only; None for all. A service that cannot
                return fewer ignores it: a response with all results is always accepted.
        """

    def other_body(
        self,
        model: str,
        query: Item,
        documents: Sequence[Item],
        instruct: str | None,
        top_n: int | None = None,
    ) -> dict[str, Any]:
        """Like `request_body`, in another form that the service may expect instead."""
        return self.request_body(model, query, documents, instruct, top_n)

    def parse_ranking(self, body: bytes) -> RankingResponse:
        """Read the body of a response as a ranking.

        Raises:
            InvalidRankingError: It is not a ranking, or holds an error code.
        """
        return read_ranking(body, self.results, self.score_range)

    def parse_error(self, body: bytes) -> ErrorResponse:
        """Read the body of a response that is not a ranking. Never raises."""
        return read_error(body)

    def is_too_long(self, message: str) -> bool:
        """Whether the service's message says that a text is longer than its model can read."""
        return False

    def is_malformed(self, message: str) -> bool:
        """Whether an error's message says that the body should have the form of `other_body`."""
        return False

    def map_error(self, error: ErrorResponse, status: int) -> ErrorMapping:
        """Return the error type and the remedy for an error response.

        Args:
            error: What the response's body says.
            status: The HTTP status. A status in the body counts if this one says success.
        """
        if 200 <= status < 300 and error.status is not None:
            status = error.status
        code = _normalized(error.code)
        by_code = (self.codes[start] for start in self.codes if code.startswith(_normalized(start)))
        return next(by_code, None) or self._map_status(status)

    def _map_status(self, status: int) -> ErrorMapping:
        """Return the error type and the remedy for an HTTP status."""
        if 300 <= status < 400:
            return _REDIRECTED
        default = FAILING if status >= 500 else (ServiceError, None)
        return _ERRORS_BY_STATUS.get(status, default)


def _normalized(code: str) -> str:
    """The code as DashScope's OpenAI-compatible endpoints write it, and without underscores."""
    return code.replace("_", "").lower()

"""The exception hierarchy.

    QwenRerankError
    ├── InvalidInputError (ValueError)        an argument that cannot be used, or a text or request
    │   │                                     that the service refuses as invalid
    │   └── MissingKeyError                   no API key, or a string that cannot be one
    ├── AuthenticationError                   the service refused the key or the account
    │   └── MissingKeyError
    ├── RateLimitError                        too many requests or tokens
    ├── RequestTimeoutError                   no response in time, or the deadline has passed
    ├── ServiceError                          the service failed or could not be reached
    ├── BadResponseError                      the response is not a complete, valid ranking
    ├── ContentBlockedError                   the service's content inspection blocked a text
    └── MissingDependencyError (ImportError)  an optional package is not installed

Every error has `code`, `status`, `request_id` and `retry_after`. Each is None if no service was
reached, or if the service did not send it. `usage` is what the failed call cost.
"""

from __future__ import annotations

from qwen_rerank.usage import Usage

__all__ = [
    "AuthenticationError",
    "BadResponseError",
    "ContentBlockedError",
    "InvalidInputError",
    "MissingDependencyError",
    "MissingKeyError",
    "QwenRerankError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServiceError",
]


class QwenRerankError(Exception):
    """Base class of all errors that this package raises on purpose.

    Args:
        message: What happened, in one sentence.
        remedy: What you can do about it; None if there is nothing.
        code: The service's own error code, such as `"Throttling.RateQuota"`.
        status: The HTTP status, such as 429.
        request_id: The service's id of the request, which its support will ask for.
        retry_after: The seconds that the service asked you to wait before trying again.
        usage: What the failed call cost, such as the tokens of its other requests; None if nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.usage = usage

    def __str__(self) -> str:
        facts = {"code": self.code, "status": self.status, "request_id": self.request_id}
        known = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        parts = [self.message, f"[{known}]" if known else None, self.remedy]
        return " ".join(part for part in parts if part)


class InvalidInputError(QwenRerankError, ValueError):
    """An argument cannot be used. The message names it and, if it is short, quotes its value."""


class AuthenticationError(QwenRerankError):
    """The service refused the key (401), its permissions (403) or its account (Arrearage)."""


class MissingKeyError(AuthenticationError, InvalidInputError):
    """There is no API key, or the string cannot be one. Nothing was sent."""


class RateLimitError(QwenRerankError):
    """Too many requests or tokens, even after retries: the service's limits or your own."""


class RequestTimeoutError(QwenRerankError):
    """A request exceeded its timeout, even after retries, or the call exceeded its deadline."""


class ServiceError(QwenRerankError):
    """The service failed (5xx and the like) or could not be reached, even after retries."""


class BadResponseError(QwenRerankError):
    """The response is not JSON, or has a missing, repeated or invalid score. No part is used."""


class ContentBlockedError(QwenRerankError):
    """The service's content inspection blocked the query or a document (DataInspectionFailed)."""


class MissingDependencyError(QwenRerankError, ImportError):
    """An optional package is not installed. The message names the extra that installs it."""

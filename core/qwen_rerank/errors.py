"""What can go wrong, as types.

    QwenRerankError
    ├── InvalidInputError (ValueError)      what you passed can't be ranked or sent
    │   └── MissingKeyError                 no API key, or a string that can't be one
    ├── AuthenticationError                 the service refused the key, or its account
    │   └── MissingKeyError
    ├── RateLimitError                      too many requests or tokens for now
    ├── RequestTimeoutError                 no answer in time, or the deadline passed
    ├── ServiceError                        the service failed, or could not be reached
    ├── BadResponseError                    an answer that is not a whole, valid ranking
    ├── ContentBlockedError                 the service's content inspection refused the text
    └── MissingDependencyError (ImportError)  an optional package is not installed

Every error carries `code`, `status`, `request_id` and `retry_after`, each None where the failure
never reached a service, or where the service did not say.
"""

from __future__ import annotations

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
    """The root of every error this package raises on purpose.

    Args:
        message: What happened, in one sentence.
        remedy: What to do about it, or None where there is nothing to do.
        code: The service's own error code, such as `"Throttling.RateQuota"`.
        status: The HTTP status, such as 429.
        request_id: The service's id of the request, to quote to its support.
        retry_after: Seconds after which the service asked to be tried again.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        facts = {"code": self.code, "status": self.status, "request_id": self.request_id}
        known = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
        parts = [self.message, f"[{known}]" if known else None, self.remedy]
        return " ".join(part for part in parts if part)


class InvalidInputError(QwenRerankError, ValueError):
    """An argument that can't be used: the message names it and, where it is short, its value."""


class AuthenticationError(QwenRerankError):
    """The service refused the key (401), what it may do (403), or its account (Arrearage)."""


class MissingKeyError(AuthenticationError, InvalidInputError):
    """No API key was given or set, or what was given can't be one. Nothing was sent."""


class RateLimitError(QwenRerankError):
    """Too much for now: 429 or a throttling code after the retries, or one's own rates."""


class RequestTimeoutError(QwenRerankError):
    """A request ran past its timeout after the retries, or the call ran past its deadline."""


class ServiceError(QwenRerankError):
    """The service failed (5xx and the like), or could not be reached, after the retries."""


class BadResponseError(QwenRerankError):
    """The answer is not JSON, or lacks, repeats or invents a score. It is never used in part."""


class ContentBlockedError(QwenRerankError):
    """The service's content inspection refused the query or a document (DataInspectionFailed)."""


class MissingDependencyError(QwenRerankError, ImportError):
    """An optional package is needed: the message names the extra that installs it."""

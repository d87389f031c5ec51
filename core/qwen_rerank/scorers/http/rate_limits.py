"""How much a caller lets out in a minute."""

from __future__ import annotations

from dataclasses import dataclass

from qwen_rerank.validation import check_whole

__all__ = ["Rates"]


@dataclass(frozen=True, slots=True)
class Rates:
    """The most that may go out in any minute; None for no limit.

    Attributes:
        requests: Requests, where each attempt is one.
        tokens: Tokens, where each attempt has its own.

    Raises:
        InvalidInputError: A limit that is not a whole number of at least 1.
    """

    requests: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, limit in self._given.items():
            check_whole(name, limit, at_least=1)

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None

    def __str__(self) -> str:
        return " and ".join(f"{name}={limit}" for name, limit in self._given.items())

    @property
    def _given(self) -> dict[str, int]:
        limits = {"requests_per_minute": self.requests, "tokens_per_minute": self.tokens}
        return {name: limit for name, limit in limits.items() if limit is not None}

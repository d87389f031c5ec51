"""How a service writes requests and answers: the one thing in which rerank services differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from qwen_rerank.errors import QwenRerankError
from qwen_rerank.inputs.content import Item

__all__ = ["Dialect", "ErrorMapping", "ErrorResponse", "RankingResponse"]

ErrorMapping: TypeAlias = tuple[type[QwenRerankError], str | None]
"""A kind of error, and its remedy."""


@dataclass(frozen=True, slots=True)
class RankingResponse:
    """A ranking as the service returned it, in its own order. Not yet checked to be complete.

    Attributes:
        indices: For each result, the index of its document in the request.
        scores: For each result, its relevance score. As long as `indices`.
        tokens: Tokens billed, or 0 if the service does not report them.
        request_id: The service's request id, if it has one.
    """

    indices: list[int]
    scores: list[float]
    tokens: int = 0
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """What an answer says that is not a ranking; "" for what it does not say."""

    code: str = ""
    message: str = ""
    request_id: str = ""


class Dialect(ABC):
    """How a service writes requests and answers.

    Attributes:
        service: What the service is called in messages.
        codes: The kinds of errors by the beginnings of the service's own codes.
    """

    service: str
    codes: Mapping[str, ErrorMapping] = {}

    @property
    def provider(self) -> str | None:
        """What the service is called in traces; None where that is not known."""
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
        """Build the body of a request.

        Args:
            model: The service's name of the model.
            query: The query.
            documents: The documents to score.
            instruct: The task instruction, or None for the model's default.
            top_n: Ask for the best `top_n` results only, or None for all. A service that cannot
                return fewer ignores it: a response with all results is always accepted.
        """

    @abstractmethod
    def parse_ranking(self, body: bytes) -> RankingResponse:
        """Read the answer's body.

        Raises:
            pydantic.ValidationError: It is not a ranking.
        """

    @abstractmethod
    def parse_error(self, body: dict[str, Any]) -> ErrorResponse:
        """Read what an answer that is no ranking says, whatever the types of its values."""

    def map_error(self, code: str, status: int) -> ErrorMapping | None:
        """The kind of error that code and status stand for here; None for what HTTP means by it."""
        return next((kind for known, kind in self.codes.items() if code.startswith(known)), None)

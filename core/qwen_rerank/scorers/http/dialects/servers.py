"""How self-hosted rerank servers write requests and answers.

Most follow one shape, which Jina's and Cohere's services have made common. What differs is written
down here a server a line, as its own source has it; docs/scorers.md names those sources.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Annotated, Any, Required

from pydantic import AliasChoices, AllowInfNan, Field, Strict, TypeAdapter
from typing_extensions import TypedDict

from qwen_rerank.errors import InvalidInputError, ServiceError
from qwen_rerank.inputs.content import Item
from qwen_rerank.scorers.base import sigmoid
from qwen_rerank.scorers.dashscope import CODES
from qwen_rerank.scorers.http.dialects.base import (
    Dialect,
    ErrorMapping,
    ErrorResponse,
    RankingResponse,
)
from qwen_rerank.scorers.limits import Limits

__all__ = ["COMMON", "SERVERS", "ServerDialect"]

_ANY = sys.maxsize

_LIMITS = Limits(128, item_tokens=_ANY, request_tokens=_ANY)
"""So many documents a request, however long they are: the server knows what it can read.

The servers have no limit of their own but for TEI, DashScope, and Infinity with 2,048. 128 is small
enough to be answered within a timeout and large enough to fill a batch on a GPU.
"""


class _Scored(TypedDict):
    index: Annotated[int, Strict()]
    score: Annotated[
        float,
        Strict(),
        AllowInfNan(False),
        # llama.cpp scores -1e6 what it failed on
        Field(gt=-1e6, validation_alias=AliasChoices("relevance_score", "score")),
    ]


class _Usage(TypedDict, total=False):
    total_tokens: int | None


class _Body(TypedDict, total=False):
    results: Required[list[_Scored]]
    usage: _Usage | None
    id: str | None


_index: Callable[[_Scored], int] = itemgetter("index")
_score: Callable[[_Scored], float] = itemgetter("score")

_body = TypeAdapter(_Body)
_list = TypeAdapter(list[_Scored])


@dataclass(frozen=True)
class ServerDialect(Dialect):
    """How one kind of server speaks.

    Attributes:
        service: What the server is called in messages.
        path: Where it ranks.
        documents: What a request calls the documents.
        instruct: What a request calls the instruction; None where there is no place for one.
        needs_model: Whether a request must name the model.
        names_model: Whether a request does name it.
        extra: What else goes into every request.
        limits: How large a request may be.
        logits: Whether scores are logits, to be turned into probabilities.
        codes: The kinds of errors by the beginnings of the server's own codes.
        takes_top_n: Whether the server's API has `top_n`.
    """

    service: str
    path: str = "/v1/rerank"
    documents: str = "documents"
    instruct: str | None = None
    needs_model: bool = False
    names_model: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = _LIMITS
    logits: bool = False
    codes: Mapping[str, ErrorMapping] = field(default_factory=dict)
    takes_top_n: bool = True

    @property
    def provider(self) -> str | None:
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

    def parse_ranking(self, body: bytes) -> RankingResponse:
        if body.lstrip().startswith(b"["):
            return self._ranking(_list.validate_json(body))
        answer = _body.validate_json(body)
        return self._ranking(
            answer["results"],
            tokens=(answer.get("usage") or {}).get("total_tokens") or 0,
            request_id=answer.get("id"),
        )

    def _ranking(
        self, results: list[_Scored], tokens: int = 0, request_id: str | None = None
    ) -> RankingResponse:
        scores = map(_score, results)
        return RankingResponse(
            list(map(_index, results)),
            list(map(sigmoid, scores) if self.logits else scores),
            tokens,
            request_id,
        )

    def parse_error(self, body: dict[str, Any]) -> ErrorResponse:
        """Read an error: OpenAI's form, nested or flat, FastAPI's, TEI's, or a text alone."""
        said = body.get("error", body)
        error = said if isinstance(said, dict) else {**body, "message": said}
        codes = (error.get(name) for name in ("code", "type", "error_type"))
        messages = (error.get(name) for name in ("message", "detail"))
        return ErrorResponse(
            code=next((code for code in codes if code and isinstance(code, str)), ""),
            message=next((text for text in messages if text and isinstance(text, str)), ""),
            request_id=str(body.get("request_id") or ""),
        )

    def map_error(self, code: str, status: int) -> ErrorMapping | None:
        if status == 404:
            return InvalidInputError, (
                f"Check the path, {self.path}, the model's name, and that the server was started "
                "with a reranker: some have the path only then."
            )
        return super().map_error(code, status) or _ERRORS_BY_STATUS.get(status)


_ERRORS_BY_STATUS: Mapping[int, ErrorMapping] = {
    413: (InvalidInputError, "Lower batch_size, or raise the server's own limit."),
    422: (InvalidInputError, "Check that dialect= names the server that answers there."),
    501: (ServiceError, "Start the server for reranking; llama.cpp's with --reranking."),
}


COMMON = ServerDialect("The server", takes_top_n=False)
"""What is spoken at a path like /v1/rerank, whoever answers there."""

SERVERS: Mapping[str, ServerDialect] = {
    "vllm": ServerDialect("vLLM", instruct="instruction"),
    "llama.cpp": ServerDialect("llama.cpp"),
    "sglang": ServerDialect("SGLang", instruct="instruct", extra={"return_documents": False}),
    "infinity": ServerDialect("Infinity", "/rerank"),
    "tei": ServerDialect(
        "TEI",
        "/rerank",
        documents="texts",
        extra={"truncate": True},
        limits=replace(_LIMITS, documents=32),
        takes_top_n=False,
    ),
    "localai": ServerDialect("LocalAI"),
    "xinference": ServerDialect("Xinference", needs_model=True),
    "dashscope": ServerDialect(
        "DashScope",
        "/compatible-api/v1/reranks",
        instruct="instruct",
        needs_model=True,
        limits=Limits(),
        codes=CODES,
    ),
}
"""The servers by the names that users give them."""

"""Serve any scorer over HTTP with Ray Serve. Needs the extra `ray`.

The server speaks the protocol of Jina, Cohere and vLLM at `/v1/rerank` and `/rerank`, and
DashScope's own at `/api/v1/services/rerank/text-rerank/text-rerank`.
"""

# No `from __future__ import annotations`: replicas get a copy of the routes, in which FastAPI could
# not look up the names in annotations that are strings.

import hmac
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.metrics import Counter, Histogram

from qwen_rerank.errors import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    MissingKeyError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.scorers.base import Scorer, Scores, check_scorer, checked
from qwen_rerank.scorers.wrappers.cascade import best_first
from qwen_rerank.validation import check_whole

__all__ = ["KEY", "application", "keys"]

KEY = "QWEN_RERANK_SERVE_KEY"
"""The environment variable with the keys that clients may use, separated by commas."""

_DASHSCOPE_PATH = "/api/v1/services/rerank/text-rerank/text-rerank"

_RETRY_AFTER = 1
"""The seconds after which a client should try again if the queue is full."""


class _Document(BaseModel):
    """A document that is an object."""

    text: str


class _RerankRequest(BaseModel):
    """The body of Jina's, Cohere's and vLLM's requests."""

    query: str
    documents: list[str | _Document] = Field(min_length=1)
    model: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    instruct: None = None
    instruction: None = None


class _Parameters(BaseModel):
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    instruct: None = None


class _Input(BaseModel):
    query: str | _Document
    documents: list[str | _Document] = Field(min_length=1)


class _DashScopeRequest(BaseModel):
    """The body of DashScope's requests, in either of its forms."""

    model: str | None = None
    input: _Input
    parameters: _Parameters = _Parameters()

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, body: Any) -> Any:
        """Nest the flat form, with which the newest page shows qwen3-rerank."""
        if not isinstance(body, dict) or "input" in body:
            return body
        return {"model": body.get("model"), "input": body, "parameters": body}


_app = FastAPI(title="qwen-rerank", openapi_url=None)


def keys() -> list[str]:
    """Return the keys in the environment; none if clients need none."""
    return [key.strip() for key in os.environ.get(KEY, "").split(",") if key.strip()]


async def _check_key(request: Request) -> None:
    """Raise unless the request has one of the keys, or none is needed."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    # All keys are compared, each in constant time.
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys()]
    if matches and not (is_bearer and any(matches)):
        raise HTTPException(401, "The API key is missing or wrong.", {"WWW-Authenticate": "Bearer"})


def _ranked(scores: Scores, indices: Sequence[int], count: int) -> list[tuple[int, float]]:
    """Return the index and the score of each text, best first.

    Clients know no tiers, but sort by the scores. So texts that only the first stages of a cascade
    scored get scores below those of the others. Blank texts, which were not scored, come last.

    Args:
        scores: The scores of the texts that are not blank.
        indices: The indices of these texts.
        count: How many texts there are.
    """
    order = best_first(scores)
    tiers = scores.tiers or [0] * len(order)
    best = [scores.values[index] for index in order if tiers[index] == 0]
    values = best + _values_below(min(best, default=0.0), len(order) - len(best))
    lowest = min(values, default=0.0)
    blank = lowest - 1 if lowest < 0 else 0.0
    ranked = [(indices[index], value) for index, value in zip(order, values, strict=True)]
    return ranked + [(index, blank) for index in sorted({*range(count)} - {*indices})]


def _values_below(lowest: float, count: int) -> list[float]:
    """Return falling numbers below another, and above 0 if that is."""
    if lowest > 0:
        return [lowest * (1 - place / (count + 1)) for place in range(1, count + 1)]
    return [lowest - place for place in range(1, count + 1)]


def _text(document: str | _Document) -> str:
    return document if isinstance(document, str) else document.text


_STATUSES: Sequence[tuple[type[QwenRerankError], int, str]] = (
    (AuthenticationError, 502, "ScorerFailed"),  # the scorer's own key, not the client's
    (ContentBlockedError, 400, "DataInspectionFailed"),
    (InvalidInputError, 400, "InvalidParameter"),
    (RateLimitError, 429, "Throttling"),
    (RequestTimeoutError, 504, "RequestTimeOut"),
    (ServiceError, 503, "ServiceUnavailable"),
    (BadResponseError, 502, "BadResponse"),
    (QwenRerankError, 502, "ScorerFailed"),
)
"""The status and the code of each error."""


@_app.exception_handler(QwenRerankError)
async def _on_error(_: Request, error: QwenRerankError) -> JSONResponse:
    status, code = next(
        (status, code) for kind, status, code in _STATUSES if isinstance(error, kind)
    )
    retry_after = error.retry_after or _RETRY_AFTER
    headers = {"Retry-After": str(math.ceil(retry_after))} if status in (429, 503) else None
    return _error(status, code, str(error), headers)


@_app.exception_handler(RequestValidationError)
async def _on_invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return _error(400, "InvalidParameter", f"{field}: {first['msg']}.")


@_app.exception_handler(HTTPException)
async def _on_http_error(_: Request, error: HTTPException) -> JSONResponse:
    code = "InvalidApiKey" if error.status_code == 401 else "InvalidParameter"
    return _error(error.status_code, code, str(error.detail), error.headers)


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error that clients of either protocol understand."""
    return JSONResponse(
        {
            "code": code,
            "message": message,
            "request_id": uuid4().hex,
            "error": {"message": message, "type": code, "code": status},
        },
        status,
        headers,
    )


# Below all that it needs: Ray Serve copies the routes when it decorates the class.
@serve.deployment
@serve.ingress(_app)
class _Reranking:
    """A replica, with a scorer of its own."""

    def __init__(
        self,
        scorer: Callable[[], Scorer],
        needs_key: bool,
        warm_up: bool,
    ) -> None:
        if needs_key and not keys():
            raise MissingKeyError(
                f"{KEY} is set where the server was started, but not on this node.",
                remedy="Set it on all nodes before you start Ray there.",
            )
        self._scorer = scorer()
        check_scorer(self._scorer, "scorer must create a Scorer")
        if warm_up:
            self._scorer.score("warm up", ["warm up"])
        self._documents = Counter(
            "qwen_rerank_documents", description="Documents that were reranked."
        )
        self._tokens = Counter("qwen_rerank_tokens", description="Tokens that were processed.")
        self._seconds = Histogram(
            "qwen_rerank_seconds",
            description="Seconds per request.",
            boundaries=[0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30],
            tag_keys=("status",),
        )

    @_app.get("/health")
    async def health(self) -> Mapping[str, str]:
        """Answer if this replica is alive."""
        return {"status": "ok"}

    @_app.get("/ready")
    async def ready(self) -> Mapping[str, str]:
        """Answer if a replica takes requests: its model is loaded."""
        return {"status": "ready", "model": self._scorer.model}

    @_app.get("/v1/models", dependencies=[Depends(_check_key)])
    async def models(self) -> Mapping[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [{"id": self._scorer.model, "object": "model"}]}

    @_app.post("/v1/rerank", dependencies=[Depends(_check_key)])
    @_app.post("/rerank", dependencies=[Depends(_check_key)])
    async def rerank(self, body: _RerankRequest) -> Mapping[str, Any]:
        """Rerank as Jina, Cohere and vLLM do."""
        texts = list(map(_text, body.documents))
        results, scores = await self._results(body.query, texts, body.top_n, body.return_documents)
        tokens = scores.usage.tokens
        return {
            "id": uuid4().hex,
            "model": scores.model or self._scorer.model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    @_app.post(_DASHSCOPE_PATH, dependencies=[Depends(_check_key)])
    async def rerank_as_dashscope(self, body: _DashScopeRequest) -> Mapping[str, Any]:
        """Rerank as DashScope does, with nested or flat parameters."""
        texts = list(map(_text, body.input.documents))
        options = body.parameters
        results, scores = await self._results(
            _text(body.input.query), texts, options.top_n, options.return_documents
        )
        return {
            "request_id": uuid4().hex,
            "output": {"results": results},
            "usage": {"total_tokens": scores.usage.tokens},
        }

    async def _results(
        self, query: str, texts: Sequence[str], top_n: int | None, return_documents: bool
    ) -> tuple[list[Mapping[str, Any]], Scores]:
        """Return the results, best first, and the scores of the texts that are not blank."""
        started = time.perf_counter()
        status = "error"
        try:
            scores, ranked = await self._scored(query, texts)
            status = "ok"
        finally:
            self._seconds.observe(time.perf_counter() - started, {"status": status})
        self._documents.inc(len(texts))
        if scores.usage.tokens:
            self._tokens.inc(scores.usage.tokens)
        return [
            {"index": index, "relevance_score": value}
            | ({"document": {"text": texts[index]}} if return_documents else {})
            for index, value in ranked[:top_n]
        ], scores

    async def _scored(
        self, query: str, texts: Sequence[str]
    ) -> tuple[Scores, list[tuple[int, float]]]:
        """Return the scores of the texts that are not blank, and all texts, best first.

        Requests run concurrently, so that the scorer can put those that wait into one batch.
        """
        if not query.strip():
            raise InvalidInputError("The query is blank.")
        indices = [index for index, text in enumerate(texts) if text.strip()]
        scores = Scores([])
        if indices:
            own = [texts[index] for index in indices]
            scores = checked(await self._scorer.ascore(query, own), len(own), self._scorer.model)
        return scores, _ranked(scores, indices, len(texts))


def application(
    scorer: Callable[[], Scorer],
    *,
    min_replicas: int = 1,
    max_replicas: int = 1,
    num_cpus: float = 0.1,
    num_gpus: float = 0,
    max_ongoing_requests: int = 32,
    max_queued_requests: int = 256,
    warm_up: bool = True,
) -> serve.Application:
    """Return a Ray Serve application around a scorer; start it with `serve.run`.

    Clients need one of the keys in `QWEN_RERANK_SERVE_KEY`, if that is set here. It must then also
    be set on the nodes. Ray Serve listens on 127.0.0.1 unless you tell it otherwise.

    A replica scores its requests concurrently. On a GPU, LocalScorer computes small requests that
    wait at the same time in one batch, whatever their queries. If all replicas are busy and the
    queue is full, a request gets the status 429 with Retry-After.

    Args:
        scorer: A class or a function without arguments that creates the scorer in each replica.
        min_replicas: The least number of replicas, at least 1.
        max_replicas: The most; Ray Serve starts more when requests wait.
        num_cpus: How many CPUs a replica reserves.
        num_gpus: How many GPUs a replica reserves.
        max_ongoing_requests: How many requests a replica handles at the same time, at least 1.
        max_queued_requests: How many requests may wait for a replica, at least 1.
        warm_up: Whether a replica scores a text before it takes requests, so that its model is
            loaded. Pass False for a service that bills it.

    Raises:
        InvalidInputError: An argument is invalid.
    """
    for name, value in {
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "max_ongoing_requests": max_ongoing_requests,
        "max_queued_requests": max_queued_requests,
    }.items():
        check_whole(name, value, at_least=1)
    deployment = _Reranking.options(  # type: ignore[attr-defined]
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER),
        autoscaling_config=AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max(min_replicas, max_replicas),
            target_ongoing_requests=max(1, max_ongoing_requests // 2),
        ),
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
    )
    return deployment.bind(scorer, bool(keys()), warm_up)

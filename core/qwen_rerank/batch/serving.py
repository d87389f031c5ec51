"""Serve any scorer over HTTP with Ray Serve. Needs the extra `ray`.

The server speaks the protocol of Jina, Cohere and vLLM at `/v1/rerank`, `/v2/rerank` and `/rerank`,
DashScope's version of it at `/compatible-api/v1/reranks`, and DashScope's own protocol at
`/api/v1/services/rerank/text-rerank/text-rerank`.
"""

# No `from __future__ import annotations`: replicas get a copy of the routes, in which FastAPI could
# not look up the names in annotations that are strings.

import hmac
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.metrics import Counter, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

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
from qwen_rerank.inputs.content import well_formed
from qwen_rerank.scorers.base import Scorer, Scores, check_scorer, checked
from qwen_rerank.scorers.http.auth import checked_key
from qwen_rerank.scorers.wrappers.cascade import best_first
from qwen_rerank.validation import check_whole, is_finite

__all__ = ["KEY", "application", "keys"]

KEY = "QWEN_RERANK_SERVE_KEY"
"""The environment variable with the keys that clients may use, separated by commas."""

_DASHSCOPE_PATH = "/api/v1/services/rerank/text-rerank/text-rerank"

_RETRY_AFTER = 1
"""The seconds after which a client should try again if the queue is full."""

_OPEN_PATHS = ("/health", "/ready")
"""The paths that need no key."""


def _text_of(value: Any) -> str:
    """Return a text that is a string, or an object with it."""
    if isinstance(value, dict):
        if value.keys() & {"image", "video"}:
            raise PydanticCustomError("text", "Images and videos are not supported")
        value = value.get("text")
    if not isinstance(value, str):
        raise PydanticCustomError("text", "Input should be a string, or an object with a text")
    return well_formed(value)


def _no_instruct(value: Any) -> None:
    """Refuse an instruction, which would be ignored."""
    if value not in (None, ""):
        raise PydanticCustomError(
            "instruct",
            "A request can't choose an instruction. Leave it out, and pass it to the scorer",
        )


_Text = Annotated[str, BeforeValidator(_text_of)]
_NoInstruct = Annotated[None, BeforeValidator(_no_instruct)]


class _Options(BaseModel):
    """What both protocols have, under the same names."""

    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    instruct: _NoInstruct = None
    instruction: _NoInstruct = None


class _Input(BaseModel):
    query: _Text
    documents: list[_Text] = Field(min_length=1)


class _RerankRequest(_Input, _Options):
    """The body of Jina's, Cohere's and vLLM's requests. Other fields are ignored."""


class _DashScopeRequest(BaseModel):
    """The body of DashScope's requests, in either of its forms."""

    input: _Input
    parameters: _Options

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, body: Any) -> Any:
        """Nest the flat form, with which the newest page shows qwen3-rerank."""
        if not isinstance(body, dict):
            return body
        if "input" not in body:
            return {"input": body, "parameters": body}
        return {"input": body["input"], "parameters": body.get("parameters") or {}}


def keys() -> list[str]:
    """Return the keys in the environment; none if the variable is not set.

    Raises:
        MissingKeyError: The variable is set, but holds no key, or what cannot be one.
    """
    listed = os.environ.get(KEY)
    if listed is None:
        return []
    given = [key.strip() for key in listed.split(",") if key.strip()]
    return [checked_key(f"key in {KEY}", key).get_secret_value() for key in given or [""]]


def _has_key(authorization: str) -> bool:
    """Whether the header has one of the keys, or none is needed."""
    scheme, _, given = authorization.partition(" ")
    # All keys are compared, each in constant time.
    matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in keys()]
    return not matches or (scheme.lower() == "bearer" and any(matches))


class _Entrance:
    """Refuses a request that lacks a key or JSON, before its body is read.

    Clients join addresses and paths carelessly, so `/v1//rerank/` is `/v1/rerank`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = re.sub("/+", "/", scope["path"]).rstrip("/")
            scope = {**scope, "path": path or "/"}
        app = self._app if scope["type"] != "http" else _refusal(scope) or self._app
        await app(scope, receive, send)


def _refusal(scope: Scope) -> JSONResponse | None:
    """Return the response to a request that can't be served; None if its headers are fine."""
    headers = Headers(scope=scope)
    if scope["path"] in _OPEN_PATHS:
        return None
    if not _has_key(headers.get("Authorization", "")):
        message = "The API key is missing or wrong. Send it as Authorization: Bearer KEY."
        return _error(401, "InvalidApiKey", message, {"WWW-Authenticate": "Bearer"})
    if scope["method"] != "POST":
        return None
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        message = f"Content-Encoding {encoding!r} is not supported. Send the body uncompressed."
        return _error(415, "UnsupportedMediaType", message)
    media_type = headers.get("Content-Type", "").partition(";")[0].strip()
    if not re.fullmatch(r"application/(.+\+)?json", media_type, re.IGNORECASE):
        message = (
            f"The body must be JSON, with the header Content-Type: application/json; got "
            f"{media_type or 'none'}."
        )
        return _error(415, "UnsupportedMediaType", message)
    return None


_app = FastAPI(title="qwen-rerank", openapi_url=None, redirect_slashes=False)
_app.add_middleware(_Entrance)


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


@_app.exception_handler(Exception)
async def _on_bug(_: Request, error: Exception) -> JSONResponse:
    # Starlette raises it again after the response, so that it is in the replica's log.
    message = f"The scorer failed with {type(error).__name__}. The server's log has the traceback."
    return _error(500, "InternalError", message)


@_app.exception_handler(RequestValidationError)
async def _on_invalid_body(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        message = f"The body is not valid JSON: {first['ctx']['error']} at character {field}."
    elif field:
        message = f"{field}: {first['msg']}."
    else:
        message = "The body must be a JSON object with a query and documents."
    return _error(400, "InvalidParameter", message)


@_app.exception_handler(HTTPException)
async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    code, message = {
        404: ("NotFound", "Nothing is served at this path. Rerank at /v1/rerank."),
        405: ("MethodNotAllowed", f"This path does not take {request.method}."),
    }.get(error.status_code, ("InvalidParameter", "The body is not valid JSON in UTF-8."))
    return _error(error.status_code, code, message, error.headers)


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error that clients of all protocols understand."""
    return JSONResponse(
        {
            "code": code,
            "message": message,
            "request_id": uuid4().hex,
            "error": {"message": message, "type": code, "code": status},
            "detail": message,
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

    @_app.api_route("/health", methods=["GET", "HEAD"])
    async def health(self) -> Mapping[str, str]:
        """Answer if this replica is alive."""
        return {"status": "ok"}

    @_app.api_route("/ready", methods=["GET", "HEAD"])
    async def ready(self) -> Mapping[str, str]:
        """Answer if a replica takes requests: its model is loaded."""
        return {"status": "ready", "model": self._scorer.model}

    @_app.get("/v1/models")
    async def models(self) -> Mapping[str, Any]:
        """List the one model."""
        return {"object": "list", "data": [{"id": self._scorer.model, "object": "model"}]}

    @_app.post("/v1/rerank")
    @_app.post("/v2/rerank")
    @_app.post("/rerank")
    @_app.post("/v1/reranks")
    @_app.post("/reranks")
    @_app.post("/compatible-api/v1/reranks")
    async def rerank(self, body: _RerankRequest) -> Mapping[str, Any]:
        """Rerank as Jina, Cohere and vLLM do, and as DashScope's compatible endpoint does."""
        results, scores = await self._results(body, body)
        tokens = scores.usage.tokens
        return {
            "id": uuid4().hex,
            "model": scores.model or self._scorer.model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    @_app.post(_DASHSCOPE_PATH)
    async def rerank_as_dashscope(self, body: _DashScopeRequest) -> Mapping[str, Any]:
        """Rerank as DashScope does, with nested or flat parameters."""
        results, scores = await self._results(body.input, body.parameters)
        return {
            "request_id": uuid4().hex,
            "output": {"results": results},
            "usage": {"total_tokens": scores.usage.tokens},
        }

    async def _results(
        self, body: _Input, options: _Options
    ) -> tuple[list[Mapping[str, Any]], Scores]:
        """Return the results, best first, and the scores of the texts that are not blank."""
        texts = body.documents
        started = time.perf_counter()
        status = "error"
        try:
            scores, ranked = await self._scored(body.query, texts)
            status = "ok"
        finally:
            self._seconds.observe(time.perf_counter() - started, {"status": status})
        self._documents.inc(len(texts))
        if scores.usage.tokens:
            self._tokens.inc(scores.usage.tokens)
        return [
            {"index": index, "relevance_score": value}
            | ({"document": {"text": texts[index]}} if options.return_documents else {})
            for index, value in ranked[: options.top_n]
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
    max_replicas: int | None = None,
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
        max_replicas: The most, at least `min_replicas`; Ray Serve starts more when requests wait.
            None for as many as `min_replicas`.
        num_cpus: How many CPUs a replica reserves, at least 0.
        num_gpus: How many GPUs a replica reserves, at least 0.
        max_ongoing_requests: How many requests a replica handles at the same time, at least 1.
        max_queued_requests: How many requests may wait for a replica, at least 1.
        warm_up: Whether a replica scores a text before it takes requests, so that its model is
            loaded. Pass False for a service that bills it.

    Raises:
        InvalidInputError: An argument is invalid.
        MissingKeyError: `QWEN_RERANK_SERVE_KEY` is set, but holds no key.
    """
    if not callable(scorer):
        raise InvalidInputError(
            f"scorer must be a class or a function that creates a Scorer, got {scorer!r:.60}.",
            remedy="Each replica creates a scorer of its own: pass lambda: LocalScorer(…).",
        )
    check_whole("min_replicas", min_replicas, at_least=1)
    if max_replicas is None:
        max_replicas = min_replicas
    check_whole("max_replicas", max_replicas, at_least=min_replicas)
    check_whole("max_ongoing_requests", max_ongoing_requests, at_least=1)
    check_whole("max_queued_requests", max_queued_requests, at_least=1)
    for name, value in {"num_cpus": num_cpus, "num_gpus": num_gpus}.items():
        if not is_finite(value) or value < 0:
            raise InvalidInputError(f"{name} must be a number of at least 0, got {value!r}.")
    deployment = _Reranking.options(  # type: ignore[attr-defined]
        max_ongoing_requests=max_ongoing_requests,
        max_queued_requests=max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER),
        autoscaling_config=AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            target_ongoing_requests=max(1, max_ongoing_requests // 2),
        ),
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
    )
    return deployment.bind(scorer, bool(keys()), warm_up)

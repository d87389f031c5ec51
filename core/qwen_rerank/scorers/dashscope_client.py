"""One request to DashScope's TextReRank, through its SDK: scores come back, or a typed error.

Why the SDK's AioTextReRank, and a session of our own in it: Client and AsyncClient turn an answer
without output into an empty result, and AsyncClient is bound to one event loop and slows down as
connections grow; TextReRank logs the documents and can't be cancelled. None of them shows an error
code that comes under HTTP 200. So a middleware reads each answer before the SDK does.

Imported when the first DashScopeScorer is built, since the SDK takes half a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from threading import Lock
from typing import Any

import aiohttp
from dashscope import AioTextReRank, Tokenizer, get_tokenizer
from pydantic import BaseModel, ConfigDict, FiniteFloat, StrictInt, ValidationError

from qwen_rerank import __version__
from qwen_rerank.errors import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.scorers.connections import Connections
from qwen_rerank.scorers.normalizing import normalize

__all__ = ["Answer", "connections", "count_tokens", "rerank"]

_QUOTE = 500
"""How many characters of a service's message go into an error."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The scores of one request's documents, in their order, and the tokens billed for them."""

    values: list[float]
    tokens: int


async def rerank(
    session: aiohttp.ClientSession,
    *,
    model: str,
    query: str | dict[str, str],
    documents: Sequence[str | dict[str, str]],
    instruct: str | None,
    api_key: str,
    workspace: str | None,
    base_url: str,
) -> Answer:
    """Send one request, over the session of `connections`.

    Raises:
        QwenRerankError: The service could not be reached, refused the request, failed, or did not
            give every document exactly one score.
    """
    try:
        response = await AioTextReRank.call(
            model=model,
            query=query,  # type: ignore[arg-type]  # it passes objects on, as vision models take them
            documents=documents,  # type: ignore[arg-type]
            instruct=instruct,
            return_documents=False,
            api_key=api_key,
            workspace=workspace,
            base_address=base_url,
            session=session,
            user_agent=f"qwen-rerank/{__version__}",
            request_timeout=0,  # none: the caller bounds the attempt, and the SDK logs a timeout
        )
    except _Refused as refused:
        raise refused.error from refused.__cause__
    except UnicodeDecodeError as error:
        raise BadResponseError(f"The service's answer is not text: {error}.") from error
    except ValueError as error:  # aiohttp's, of a request that it will not send
        raise InvalidInputError(
            f"The request could not be sent: {error}.",
            remedy="Check the proxy settings, and ~/.netrc for an entry that fits the service.",
        ) from error
    results = response.output.results
    _check_whole([result.index for result in results], len(documents), response.request_id)
    scores = {result.index: result.relevance_score for result in results}
    values = [scores[place] for place in range(len(documents))]
    return Answer(values, tokens=response.usage.get("total_tokens") or 0)


def _check_whole(indices: list[int], count: int, request_id: str) -> None:
    if sorted(indices) == list(range(count)):
        return
    sent, scored = set(range(count)), set(indices)
    raise BadResponseError(
        f"The service gave {len(indices)} scores for {count} documents: {len(sent - scored)} "
        f"missing, {len(scored - sent)} of documents that were not sent, "
        f"{len(indices) - len(scored)} repeated.",
        request_id=request_id,
    )


class _Refused(BaseException):
    """Carries an error past the SDK's `except Exception`.

    The SDK would log a traceback for each, also for those that a retry repairs.
    """

    def __init__(self, error: QwenRerankError) -> None:
        self.error = error


async def _check_answer(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Let only a well-formed ranking pass to the SDK; the session's middleware."""
    mask = _Mask(request)
    try:
        response = await send(request)
        text = await response.text(errors="replace")
    except (aiohttp.ClientError, OSError) as error:
        raise _Refused(_unreachable(request, mask(str(error)), error)) from mask.clean(error)
    failure = _failure(response, text, mask)
    if failure is not None:
        raise _Refused(failure)
    return response


connections = Connections(_check_answer)
"""The connections to the service, shared by all scorers of the process."""


class _Mask:
    """Takes the key out of texts: a service may echo it, as it is or as JSON writes it."""

    def __init__(self, request: aiohttp.ClientRequest) -> None:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self._forms = {json.dumps(key)[1:-1], key} - {""}

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def clean(self, error: Exception) -> Exception | None:
        """The error, unless the key is in it."""
        return error if self(str(error)) == str(error) else None


def _unreachable(request: aiohttp.ClientRequest, said: str, error: Exception) -> QwenRerankError:
    return ServiceError(
        f"{request.url.host} could not be reached, or broke off: {type(error).__name__}: {said}.",
        remedy="Check base_url, the network and the proxy settings.",
    )


def _failure(response: aiohttp.ClientResponse, text: str, mask: _Mask) -> QwenRerankError | None:
    """What is wrong with an answer; None if nothing is."""
    body = _json_object(text)
    code, request_id = (mask(str(body.get(name) or "")) for name in ("code", "request_id"))
    facts: dict[str, Any] = {
        "code": code or None,
        "status": response.status,
        "request_id": request_id or None,
    }
    if response.status != 200 or code:
        kind, remedy = _kind(response.status, code)
        said = mask(str(body.get("message") or text)).strip()[:_QUOTE]
        facts["retry_after"] = _retry_after(response.headers)
        return kind(
            f"DashScope answered with an error: {said or '(no message)'}", remedy=remedy, **facts
        )
    if not body or response.content_type != "application/json":
        return BadResponseError(
            f"The service's answer is {response.content_type}, not a JSON object of type "
            f"application/json: {mask(text)[:100]!r}",
            **facts,
        )
    if wrong := _what_is_wrong(body):
        return BadResponseError(f"The service's answer is not a ranking: {wrong}.", **facts)
    return None


def _what_is_wrong(body: dict[str, Any]) -> str | None:
    try:
        _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return None


def _json_object(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Result(_Strict):
    index: StrictInt
    relevance_score: FiniteFloat


class _Output(_Strict):
    results: list[_Result]


class _Usage(_Strict):
    total_tokens: int | None = None


class _Body(_Strict):
    """The body of a success: checked first, so that the SDK cannot trip over it."""

    output: _Output
    usage: _Usage | None = None


_Kind = tuple[type[QwenRerankError], str | None]

_MODEL = "Check the model's name, and that base_url is of a region that has it."

_BY_CODE: Mapping[str, _Kind] = {
    "Throttling": (RateLimitError, "Lower max_concurrency, or ask for a higher quota."),
    "InvalidApiKey": (AuthenticationError, "Check the key; a key belongs to one region."),
    "AccessDenied": (AuthenticationError, "Check that the key's workspace may use the model."),
    "Arrearage": (AuthenticationError, "Settle the balance of the account."),
    "DataInspectionFailed": (ContentBlockedError, "Leave out the text that was refused."),
    "ModelNotExist": (InvalidInputError, _MODEL),
    "Model.NotExist": (InvalidInputError, _MODEL),
    "InvalidParameter": (InvalidInputError, None),
    "RequestTimeOut": (RequestTimeoutError, None),
}
"""The kind of error and the remedy, by the beginning of the service's code."""

_BY_STATUS: Mapping[int, _Kind] = {
    400: (InvalidInputError, None),
    401: _BY_CODE["InvalidApiKey"],
    403: _BY_CODE["AccessDenied"],
    404: (InvalidInputError, _MODEL),
    408: (RequestTimeoutError, None),
    429: _BY_CODE["Throttling"],
}


def _kind(status: int, code: str) -> _Kind:
    for beginning, kind in _BY_CODE.items():
        if code.startswith(beginning):
            return kind
    return _BY_STATUS.get(status, (ServiceError, None))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The header's seconds, or its date as seconds from now; None where it has neither."""
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan


_loading = Lock()


@cache
def _load_tokenizer() -> Tokenizer:
    return get_tokenizer("qwen-7b-chat")


def count_tokens(text: str) -> int:
    """Exactly how many tokens the text is, by the Qwen tokenizer that the SDK bundles.

    Loads it once a process, in half a second. Special tokens' names count as plain text.
    """
    with _loading:
        tokenizer = _load_tokenizer()
    plain = normalize("NFC", text)  # the tokenizer does it too, but not in linear time
    return len(tokenizer.encode(plain, allowed_special=set(), disallowed_special=()))

"""One request to a rerank service: JSON over HTTP goes out, scores or a typed error come back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from urllib.parse import urlsplit

import aiohttp

from qwen_rerank import __version__
from qwen_rerank.errors import (
    BadResponseError,
    InvalidInputError,
    QwenRerankError,
    ServiceError,
)
from qwen_rerank.scorers.http.dialects.base import Dialect, InvalidRankingError, RankingResponse
from qwen_rerank.scorers.http.io_loop import Connections

__all__ = ["ScoredResponse", "connections", "send"]

connections = Connections()
"""The connections to services, shared by all scorers of the process."""

_MOST_BYTES = 16 * 2**20
"""The largest answer that is read; scores alone take some 60 bytes a document."""

_QUOTE = 500
"""How many characters of a service's message go into an error."""

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": f"qwen-rerank/{__version__}",
}


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """The checked scores of one request.

    Attributes:
        values: One score per document, in the documents' order; or the best `top_n`, best first.
        tokens: Tokens billed, or 0 if the service does not report them.
        indices: The index of each score's document if only the best were returned, else None.
    """

    values: list[float]
    tokens: int
    indices: list[int] | None = None


async def send(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    payload: bytes,
    dialect: Dialect,
    count: int,
    top_n: int | None = None,
) -> ScoredResponse:
    """Send one request.

    Args:
        session: That of `connections`.
        url: Where to.
        headers: The service's own, beside those that every service gets.
        payload: The body, in JSON.
        dialect: Reads the answer.
        count: How many documents are in the request.
        top_n: How many results the request asks for, or None for all.

    Raises:
        QwenRerankError: The service could not be reached, refused the request, failed, or did not
            give every document exactly one score.
    """
    mask = _Mask(headers)
    try:
        async with session.post(
            url, data=_body(payload), headers={**_HEADERS, **headers}, allow_redirects=False
        ) as response:
            body = await _read(response)
    except (aiohttp.ClientError, OSError) as error:
        failure, cause = _unreachable(url, mask(str(error)), error), mask.clean(error)
    except ValueError as error:  # aiohttp's, of a request that it will not send
        failure, cause = _unsendable(mask(str(error))), mask.clean(error)
    else:
        return _scored(response, body, dialect, mask, count, top_n)
    raise failure from cause  # out here, as an error's context may hold the key


def _body(payload: bytes) -> bytes | BytesIO:
    """The payload, and a large one in the form that aiohttp sends piece by piece."""
    return payload if len(payload) <= 2**20 else BytesIO(payload)


def _scored(
    response: aiohttp.ClientResponse,
    body: bytes,
    dialect: Dialect,
    mask: _Mask,
    count: int,
    top_n: int | None,
) -> ScoredResponse:
    if response.status != 200:
        raise _refused(response, body, dialect, mask)
    try:
        ranked = dialect.parse_ranking(body)
    except InvalidRankingError as error:
        failure = _not_a_ranking(response, body, dialect, mask, error)
    else:
        return _checked(ranked, mask, count, top_n)
    raise failure


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise BadResponseError(
                f"The service's answer is larger than {_MOST_BYTES // 2**20} MiB.",
                status=response.status,
            )
    return bytes(body)


def _checked(ranked: RankingResponse, mask: _Mask, count: int, top_n: int | None) -> ScoredResponse:
    """The scores, if they are complete: one per document, or exactly the best `top_n`."""
    by_index = dict(zip(ranked.indices, ranked.scores, strict=True))
    is_distinct = len(by_index) == len(ranked.indices)
    if is_distinct and by_index and 0 <= min(by_index) <= max(by_index) < count:
        if len(by_index) == count:
            return ScoredResponse(list(map(by_index.__getitem__, range(count))), ranked.tokens)
        if len(by_index) == top_n and ranked.scores == sorted(ranked.scores, reverse=True):
            return ScoredResponse(ranked.scores, ranked.tokens, ranked.indices)
    sent = set(range(count))
    raise BadResponseError(
        f"The service gave {len(ranked.scores)} scores for {count} documents: "
        f"{len(sent - by_index.keys())} missing, {len(by_index.keys() - sent)} of documents that "
        f"were not sent, {len(ranked.indices) - len(by_index)} repeated.",
        request_id=mask(ranked.request_id or "") or None,
    )


class _Mask:
    """Takes the key out of texts: a service may echo it, as it is or as JSON writes it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._key = headers.get("Authorization", "").removeprefix("Bearer ")

    def __call__(self, text: str) -> str:
        for form in {json.dumps(self._key)[1:-1], self._key} - {""}:
            text = text.replace(form, "***")
        return text

    def clean(self, error: Exception) -> Exception | None:
        """The error, unless the key is in it, or headers that were sent: a proxy's password."""
        has_headers = isinstance(error, aiohttp.ClientResponseError)
        return None if has_headers or self(str(error)) != str(error) else error


def _unreachable(url: str, said: str, error: Exception) -> QwenRerankError:
    return ServiceError(
        f"{urlsplit(url).hostname} could not be reached, or broke off: "
        f"{type(error).__name__}: {said}.",
        remedy="Check the address, the network and the proxy settings.",
    )


def _unsendable(said: str) -> QwenRerankError:
    return InvalidInputError(
        f"The request could not be sent: {said}.",
        remedy="Check the proxy settings, and ~/.netrc for an entry that fits the service.",
    )


def _not_a_ranking(
    response: aiohttp.ClientResponse,
    body: bytes,
    dialect: Dialect,
    mask: _Mask,
    error: InvalidRankingError,
) -> QwenRerankError:
    """What is wrong with an answer under 200: the service refused after all, or talks nonsense."""
    refusal = dialect.parse_error(body)
    if refusal.code or refusal.message:
        return _refused(response, body, dialect, mask)
    beginning = mask(body.decode(errors="replace"))[:100]
    return BadResponseError(
        f"{dialect.service}'s answer is not a ranking: {mask(str(error))}. "
        f"It begins with {beginning!r}.",
        status=response.status,
        request_id=mask(refusal.request_id) or None,
    )


def _refused(
    response: aiohttp.ClientResponse, body: bytes, dialect: Dialect, mask: _Mask
) -> QwenRerankError:
    refusal = dialect.parse_error(body)
    said = refusal.message or body.decode(errors="replace") or _redirection(response.headers)
    quoted = mask(said).strip()[:_QUOTE] or "(no message)"
    kind, remedy = dialect.map_error(refusal, response.status)
    return kind(
        f"{dialect.service} answered with an error: {quoted}",
        remedy=remedy,
        code=mask(refusal.code) or None,
        status=response.status,
        request_id=mask(refusal.request_id) or None,
        retry_after=_retry_after(response.headers),
    )


def _redirection(headers: Mapping[str, str]) -> str:
    place = headers.get("Location")
    return f"a redirection to {place}, which is not followed." if place else ""


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

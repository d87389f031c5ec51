"""One request to a rerank service: JSON over HTTP goes out; scores or a typed error come back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import cast

from pydantic import SecretStr

from qwen_rerank.errors import BadResponseError, QwenRerankError, ServiceError
from qwen_rerank.scorers.http.auth import Headers
from qwen_rerank.scorers.http.compression import decompress
from qwen_rerank.scorers.http.dialects.base import Dialect, InvalidRankingError, RankingResponse
from qwen_rerank.scorers.http.masking import masked, one_line
from qwen_rerank.scorers.http.pool import (
    ConnectionLostError,
    ConnectionPool,
    Endpoint,
    HTTPResponse,
    InvalidResponseError,
    ResponseTooLargeError,
    UnreachableError,
    max_response_bytes,
)
from qwen_rerank.scorers.http.route import Route
from qwen_rerank.threads import to_thread
from qwen_rerank.usage import Usage

__all__ = ["RerankRequest", "ScoredResponse"]

_MAX_QUOTE = 500
"""How many characters of a service's message are quoted in an error."""

_MAX_FACT = 100
"""How many characters of an error code, a request id or a body are shown."""

_MAX_READ = 10_000
"""How many characters of a service's message are processed."""

_MIN_SECRET = 8
"""The least characters of a header's value that are masked in messages."""

_MAX_QUICK_BYTES = 512 * 2**10
"""The largest body that is parsed on the I/O loop, which takes a few milliseconds."""

_MAX_QUICK_COMPRESSED_BYTES = 8 * 2**10


@cache
def _common_headers() -> dict[str, str]:
    from qwen_rerank import __version__  # lazy: the package imports this module

    return {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"qwen-rerank/{__version__}",
    }


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """The scores of one request, complete and checked.

    Attributes:
        values: One score per document, in the documents' order; or the best `top_n`, best first.
        tokens: Tokens billed; 0 if the service does not report them.
        indices: The index of each score's document, if only the best were returned; else None.
    """

    values: list[float]
    tokens: int
    indices: list[int] | None = None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One request, which can be sent several times.

    Attributes:
        endpoint: Where to send it.
        headers: The service's own headers, besides those that every service gets.
        payload: The body in JSON, in pieces.
        dialect: Reads the response.
        count: The number of documents in the request.
        top_n: How many results the request asks for; None for all.
        route: Through which proxy it goes, and whom to trust.
    """

    endpoint: Endpoint
    headers: Headers
    payload: Sequence[bytes] = field(repr=False)
    dialect: Dialect
    count: int
    top_n: int | None
    route: Route

    async def send(self, pool: ConnectionPool) -> HTTPResponse:
        """Send the request and return the response, whatever it says.

        Raises:
            ServiceError: The connection could not be made or was lost, or the response is not HTTP.
            BadResponseError: The response is too large.
            InvalidInputError: The address of the proxy is invalid, or `ca_bundle` cannot be read.
        """
        try:
            headers = {**_common_headers(), **self.headers}
            return await pool.post(self.endpoint, headers, self.payload, self.route)
        except UnreachableError as error:
            raise self._connection_error("Could not connect to", error) from error
        except ConnectionLostError as error:
            raise self._connection_error("Lost the connection to", error) from error
        except ResponseTooLargeError:
            raise self._too_large() from None
        except InvalidResponseError as error:
            failure = self._connection_error("Invalid response from", error)
        raise failure  # out here: the error can quote headers, which can hold the key

    async def read(self, response: HTTPResponse) -> ScoredResponse:
        """Return the scores, if the response is a complete ranking.

        Raises:
            BadResponseError: The response is not a ranking, or does not have exactly one score per
                document or exactly the best `top_n`.
            QwenRerankError: The error that the service reports.
        """
        encoding = response.headers.get("Content-Encoding", "")
        limit = _MAX_QUICK_COMPRESSED_BYTES if encoding else _MAX_QUICK_BYTES
        if len(response.body) > limit:
            return await to_thread(self._read, response, encoding)
        return self._read(response, encoding)

    def _read(self, response: HTTPResponse, encoding: str) -> ScoredResponse:
        body = self._decompressed(response.body, encoding)
        if not 200 <= response.status < 300:
            raise self._service_error(response, body)
        try:
            ranking = self.dialect.parse_ranking(body)
        except InvalidRankingError as error:
            failure = self._not_a_ranking(response, body, str(error))
        else:
            return self._complete_ranking(ranking)
        raise failure

    def _decompressed(self, body: bytes, encoding: str) -> bytes:
        try:
            return decompress(body, encoding, self._max_response_bytes)
        except ResponseTooLargeError:
            raise self._too_large() from None
        except InvalidResponseError as error:
            failure = BadResponseError(
                self._shown(str(error), _MAX_QUOTE),
                remedy="Have the server or its proxy send gzip, or no compression.",
            )
        raise failure

    def _complete_ranking(self, ranking: RankingResponse) -> ScoredResponse:
        """Return the scores, if there is exactly one per document, or exactly the best `top_n`."""
        values = _values_by_index(ranking, self.count)
        if values is not None:
            return ScoredResponse(values, ranking.tokens)
        if self.top_n is not None and _is_top(ranking, self.top_n, self.count):
            return ScoredResponse(ranking.scores, ranking.tokens, ranking.indices)
        sent, returned = set(range(self.count)), set(ranking.indices)
        raise BadResponseError(
            f"{self.dialect.service} returned {len(ranking.indices)} scores for {self.count} "
            f"documents: {len(sent - returned)} missing, {len(returned - sent)} of documents that "
            f"were not sent, {len(ranking.indices) - len(returned)} repeated.",
            remedy=self.dialect.incomplete_remedy,
            request_id=self._shown(ranking.request_id or "") or None,
            usage=_usage_of(ranking.tokens),
        )

    @property
    def _max_response_bytes(self) -> int:
        return max_response_bytes(sum(map(len, self.payload)))

    def _too_large(self) -> BadResponseError:
        most = self._max_response_bytes // 2**20
        return BadResponseError(f"The response is larger than {most} MiB.")

    def _connection_error(self, what: str, error: Exception) -> ServiceError:
        said = self._shown(str(error).rstrip(".: "), _MAX_QUOTE) or type(error).__name__
        return ServiceError(
            f"{what} {self.endpoint.authority}: {said}.",
            remedy="Check the address, the network and the proxy settings.",
        )

    def _not_a_ranking(self, response: HTTPResponse, body: bytes, why: str) -> QwenRerankError:
        """Return the error for a response that is not a ranking although its status is one."""
        error = self.dialect.parse_error(body)
        if error.code or error.message:
            return self._service_error(response, body)
        beginning = self._shown(body[:_MAX_READ].decode(errors="replace"))
        return BadResponseError(
            f"{self.dialect.service}'s response is not a ranking: {self._shown(why, _MAX_QUOTE)}. "
            f"It begins with {beginning!r}.",
            status=response.status,
            request_id=self._shown(error.request_id) or None,
            usage=_usage_of(error.tokens),
        )

    def _service_error(self, response: HTTPResponse, body: bytes) -> QwenRerankError:
        """The error that the service reports."""
        error = self.dialect.parse_error(body)
        message = (
            error.message or _redirection(response) or body[:_MAX_READ].decode(errors="replace")
        )
        quote = self._shown(message, _MAX_QUOTE) or "(no message)"
        kind, remedy = self.dialect.map_error(error, response.status)
        return kind(
            f"{self.dialect.service} responded with an error: {quote}",
            remedy=remedy,
            code=self._shown(error.code) or None,
            status=response.status,
            request_id=self._shown(error.request_id) or None,
            retry_after=_retry_after(response.headers),
        )

    def _shown(self, text: str, max_length: int = _MAX_FACT) -> str:
        """Return a service's text without the key, on one line."""
        text = text[:_MAX_READ]
        for secret in _secrets_of(self.headers):
            text = masked(text, secret)
        return one_line(text, max_length)


def _values_by_index(ranking: RankingResponse, count: int) -> list[float] | None:
    """The scores in the order of the documents; None unless there is exactly one for each."""
    if len(ranking.indices) != count or min(ranking.indices) < 0:
        return None
    values: list[float | None] = [None] * count
    try:
        for index, score in zip(ranking.indices, ranking.scores, strict=True):
            values[index] = score
    except IndexError:
        return None
    return None if None in values else cast(list[float], values)


def _is_top(ranking: RankingResponse, top_n: int, count: int) -> bool:
    """Whether the scores can be those of the best documents: so many, best first, none repeated."""
    indices, scores = ranking.indices, ranking.scores
    return (
        len(indices) == len({*indices}) == min(top_n, count)
        and 0 <= min(indices) <= max(indices) < count
        and scores == sorted(scores, reverse=True)
    )


def _secrets_of(headers: Headers) -> Iterator[SecretStr]:
    """Return the key, and the other secret values that are too long to be ordinary words."""
    for name, value in headers.items():
        if isinstance(value, SecretStr):
            secret = value.get_secret_value().removeprefix("Bearer ")
            if name == "Authorization" or len(secret) >= _MIN_SECRET:
                yield SecretStr(secret)


def _usage_of(tokens: int) -> Usage | None:
    """The usage of a response that was billed for nothing; None if it does not say so."""
    return Usage(tokens=tokens) if tokens else None


def _redirection(response: HTTPResponse) -> str:
    """Where a redirection leads; "" if the response is not one."""
    location = response.headers.get("Location") if 300 <= response.status < 400 else None
    return f"a redirect to {location}, which is not followed." if location else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of the Retry-After header, or until its date; None if it has neither."""
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

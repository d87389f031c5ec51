"""Reading responses: strict about indices and scores, lenient about everything else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pydantic_core import from_json

from qwen_rerank.validation import is_finite

__all__ = [
    "ErrorResponse",
    "InvalidRankingError",
    "RankingResponse",
    "read_error",
    "read_json",
    "read_ranking",
    "tokens_in",
]

_CONTAINERS = ("results", "output", "data", "result")
"""The keys under which services and gateways put results, in order of preference."""

_DEEPEST = 4
"""How deeply the results may be nested."""

_SCORES = ("relevance_score", "score", "relevanceScore")
"""The keys of a result's score, in order of preference."""

_CODES = ("code", "type", "error_type")
_MESSAGES = ("message", "msg", "detail")
"""The keys of an error's code and message, in order of preference."""

_STATUSES = ("status", "status_code")

_MAX_MESSAGE = 10_000
"""How many characters of an error's message are read: patterns are looked for in it."""

_SUCCESS = frozenset({"", "ok", "success", "successful", "succeeded", "none", "null"})


class InvalidRankingError(ValueError):
    """The body of a response is not a ranking. The message says where."""


@dataclass(frozen=True, slots=True)
class RankingResponse:
    """A ranking as the service sent it.

    Attributes:
        indices: The index of each result's document in the request, in the order of the response.
        scores: The score of each result, in the same order. All are finite.
        tokens: Tokens billed; 0 if the service does not say.
        request_id: The service's id of the request, if it has one.
    """

    indices: list[int]
    scores: list[float]
    tokens: int = 0
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error as the service sent it.

    Attributes:
        code: The service's error code; "" if there is none.
        message: The service's message; "" if there is none.
        request_id: The service's id of the request; "" if there is none.
        status: The HTTP status that the body names, from 400 to 599; None if there is none.
        tokens: Tokens billed nevertheless; 0 if the service does not say.
    """

    code: str = ""
    message: str = ""
    request_id: str = ""
    status: int | None = None
    tokens: int = 0


def read_ranking(body: bytes, expected: str, score_range: tuple[float, float]) -> RankingResponse:
    """Read a ranking.

    Results are found at the top level or under `results`, `output`, `data` or `result`, however
    nested; else in the only list of objects with an `index`. Each needs an `index` that is an
    integer, and a `relevance_score` or `score` that is a finite number. Nothing else matters,
    except an error code.

    Args:
        body: The body of the response.
        expected: Where the service has its results, such as `"output.results"`: checked first.
        score_range: The lowest and the highest score that there can be.

    Raises:
        InvalidRankingError: The body is not a ranking, or holds an error code.
    """
    response = read_json(body)
    keys = tuple(dict.fromkeys([*expected.split("."), *_CONTAINERS]))
    path = _results_path(response, keys)
    if path is None and len(others := list(_other_paths(response))) == 1:
        path = others[0]
    if path is None:
        where = expected if isinstance(response, dict) else "body"
        raise InvalidRankingError(f"{where}: expected a list of results")
    objects: list[dict[str, Any]] = []
    for key in path:
        objects.append(response)
        response = response[key]
    if any(map(_holds_error, objects)):
        raise InvalidRankingError("code: reports an error")
    if not response and any(map(_reports_failure, objects)):
        raise InvalidRankingError("error: reports an error instead of results")
    indices, scores = _indices_and_scores(response, path, score_range)
    return RankingResponse(indices, scores, tokens_in(objects), _request_id(objects) or None)


def read_error(body: bytes) -> ErrorResponse:
    """Read an error: DashScope's form, OpenAI's (nested or flat), FastAPI's, TEI's or a gateway's.

    A body in another form, or one that reports success, has no code and no message.
    """
    try:
        response = read_json(body)
    except InvalidRankingError:
        return ErrorResponse()
    objects: list[dict[str, Any]] = []
    while isinstance(response, dict) and _reports_success(response):
        objects.append(response)
        response = next((response[key] for key in _CONTAINERS if response.get(key)), None)
    if not isinstance(response, dict):
        return ErrorResponse(tokens=tokens_in(objects))
    inner = response.get("error") or response
    error = inner if isinstance(inner, dict) else {**response, "message": inner}
    codes = [error.get(key) for key in _CODES]
    messages = [error.get(key) for key in _MESSAGES]
    message = next((text for text in messages if isinstance(text, str) and text), "")[:_MAX_MESSAGE]
    statuses = [each.get(key) for each in (error, response) for key in _STATUSES]
    return ErrorResponse(
        code=_encodable_text(next((code for code in codes if isinstance(code, str) and code), "")),
        message="" if message.strip().lower() in _SUCCESS else _encodable_text(message),
        request_id=_request_id([response]),
        status=next(filter(None, map(_error_status, [*codes, *statuses])), None),
        tokens=tokens_in([*objects, response]),
    )


def read_json(body: bytes) -> Any:
    """Parse a body as JSON.

    Raises:
        InvalidRankingError: It is not JSON.
    """
    with suppress(ValueError):
        return from_json(body, cache_strings="keys")
    try:  # slower, but accepts more: half surrogate pairs, byte order marks, UTF-16
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRankingError(f"Invalid JSON: {error}") from None


def _results_path(
    response: object, keys: Sequence[str], path: tuple[str, ...] = ()
) -> tuple[str, ...] | None:
    """Return the keys that lead to the list of results; None if there is no list."""
    if isinstance(response, list):
        return path
    if isinstance(response, dict) and len(path) < _DEEPEST:
        below = (
            _results_path(response[key], keys, (*path, key)) for key in keys if key in response
        )
        return next((found for found in below if found is not None), None)
    return None


def _other_paths(response: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys that lead to each list that can be the results, whatever the keys."""
    if isinstance(response, list):
        if response and all(isinstance(each, dict) and "index" in each for each in response):
            yield path
    elif isinstance(response, dict) and len(path) < _DEEPEST:
        for key, value in response.items():
            yield from _other_paths(value, (*path, key))


def _indices_and_scores(
    results: list[Any], path: Sequence[str], score_range: tuple[float, float]
) -> tuple[list[int], list[float]]:
    """Return the results' indices and scores."""
    lowest, highest = score_range
    with suppress(KeyError, IndexError, TypeError):  # this slower way names the error
        key = "relevance_score" if "relevance_score" in results[0] else "score"
        indices = [result["index"] for result in results]
        scores = [result[key] for result in results]
        are_numbers = {*map(type, indices)} == {int} and {*map(type, scores)} == {float}
        if (
            are_numbers
            and isfinite(sum(scores))
            and lowest <= min(scores) <= max(scores) <= highest
        ):
            return indices, scores
    first = results[0] if results and isinstance(results[0], dict) else {}
    key = next(filter(first.__contains__, _SCORES), _SCORES[0])
    checked = [
        _index_and_score(result, key, [*path, str(at)], score_range)
        for at, result in enumerate(results)
    ]
    return [index for index, _ in checked], [score for _, score in checked]


def _index_and_score(
    result: object, key: str, path: Sequence[str], score_range: tuple[float, float]
) -> tuple[int, float]:
    """Return the index and the score of one result."""
    where, (lowest, highest) = ".".join(path), score_range
    if not isinstance(result, dict):
        raise InvalidRankingError(f"{where}: expected an object, got {_shown(result)}")
    for required in ("index", key):
        if required not in result:
            raise InvalidRankingError(f"{where}.{required}: missing")
    index, score = result["index"], result[key]
    if type(index) is not int:
        raise InvalidRankingError(f"{where}.index: expected an integer, got {_shown(index)}")
    if not is_finite(score):
        raise InvalidRankingError(f"{where}.{key}: expected a finite number, got {_shown(score)}")
    if not lowest <= score <= highest:
        expected = f"a number from {lowest:g} to {highest:g}"
        raise InvalidRankingError(f"{where}.{key}: expected {expected}, got {_shown(score)}")
    return index, float(score)


def _shown(value: object) -> str:
    """Return a short form of a JSON value. Strings are left out: they may quote a document."""
    is_short = value is None or isinstance(value, bool | float)
    return repr(value) if is_short else type(value).__name__


def _holds_error(response: dict[str, Any]) -> bool:
    """Whether the response has an error code beside its results."""
    code = response.get("code")
    if isinstance(code, str) and not code.isdigit():
        return code.strip().lower() not in _SUCCESS
    return _error_status(code) is not None


def _reports_failure(response: dict[str, Any]) -> bool:
    """Whether the response says, besides its code, that there is an error."""
    return bool(response.get("error")) or response.get("success") is False


def _reports_success(response: dict[str, Any]) -> bool:
    """Whether the response has a gateway's code for success."""
    return "error" not in response and any(_is_success(response.get(key)) for key in _CODES)


def _is_success(code: object) -> bool:
    """Whether the code is a word or a number for success."""
    if isinstance(code, str) and not code.isdigit():
        return bool(code) and code.strip().lower() in _SUCCESS
    number = _code_as_number(code)
    return number == 0 or number in range(200, 300)


def _error_status(code: object) -> int | None:
    """Return the code if it is the HTTP status of an error."""
    number = _code_as_number(code)
    return number if number in range(400, 600) else None


def _code_as_number(code: object) -> int:
    """Return the number that a code is or consists of; -1 if it is something else."""
    if isinstance(code, str) and code.isdecimal() and len(code) <= 9:
        return int(code)
    return code if type(code) is int else -1


def tokens_in(responses: Iterable[dict[str, Any]]) -> int:
    """Return the tokens billed; 0 if the response has no number above 0.

    They are in `usage`, or in `meta` as with Cohere, Xinference and SiliconFlow.
    """
    for response in responses:
        usage = response.get("usage")
        if tokens := _count_above_zero(usage, "total_tokens"):
            return tokens
        if isinstance(meta := response.get("meta"), dict):
            for key in ("billed_units", "tokens"):
                if tokens := _count_above_zero(meta.get(key), "input_tokens"):
                    return tokens
    return 0


def _count_above_zero(counts: object, key: str) -> int:
    count = counts.get(key) if isinstance(counts, dict) else None
    return int(count) if is_finite(count) and count > 0 else 0


def _request_id(responses: Iterable[dict[str, Any]]) -> str:
    """Return the service's id of the request; "" if there is none."""
    ids = (response.get(key) for response in responses for key in ("request_id", "id"))
    return next((_encodable_text(id_) for id_ in ids if id_ and type(id_) in (str, int)), "")


def _encodable_text(value: object) -> str:
    """Return the value as a string that can be encoded: JSON can hold half surrogate pairs."""
    return str(value).encode(errors="replace").decode()

"""A service that refuses, throttles, fails or stays silent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank import (
    AuthenticationError,
    ContentBlockedError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.testing.faults import hangs, refuses, says, streams
from qwen_rerank.testing.loopback import Fault, Loopback
from tests.contract.entry_points import KEY, TEXT, EntryPoint
from tests.contract.faces import Item
from tests.contract.rows import Row, at_the_scorer, each_row, play
from tests.contract.services import DASHSCOPE, TEI, VLLM, Service, with_service

MESSAGE = f"Because of {KEY}."
MASKED = "Because of ***."

HTML = says(f"<html>Bad gateway for {KEY}</html>", 503, "text/html")

Responses = list[tuple[int, str]]
ErrorResponses = list[tuple[int, str, type[QwenRerankError]]]


def retried(status: int, code: str) -> Row:
    """An error response that a retry repairs."""
    name = f"{status} {code}".strip()
    return Row(name, faults=[refuses(status, code, MESSAGE)], requests=2)


def final(service: Service, status: int, code: str, error: type[QwenRerankError]) -> Row:
    """An error response that is raised at once, with everything the service said."""
    facts = {"code": code, "status": status, "request_id": service.request_id}
    stated = ", ".join(f"{name}={fact}" for name, fact in facts.items() if fact)
    return Row(
        f"{status} {code}".strip(),
        faults=[refuses(status, code, MESSAGE)],
        raises=error,
        naming=re.escape(f"{MASKED} [{stated}]"),
    )


def always(name: str, fault: Fault, error: type[QwenRerankError], naming: str) -> Row:
    """A failure that the retry does not repair."""
    return Row(name, faults=[fault] * 2, requests=2, raises=error, naming=naming)


def remedied(status: int, error: type[QwenRerankError], remedy: str) -> Row:
    """An error response without a remedy, to which the scorer adds one."""
    naming = f"{re.escape(MASKED)}.*status={status}.*{remedy}"
    fault = refuses(status, "", MESSAGE)
    return Row(f"{status} with a remedy", faults=[fault], raises=error, naming=naming)


def in_form(name: str, text: str) -> Row:
    """An error response in another form than the dialect's own."""
    naming = f"{re.escape(MASKED)}.*status=400"
    return Row(f"400 {name}", faults=[says(text, 400)], raises=InvalidInputError, naming=naming)


def wrong_key(name: str, key: str | None, naming: str) -> Row:
    """A key that is well formed and that the service does not know."""
    return Row(name, options={"api_key": key}, raises=AuthenticationError, naming=naming)


RETRIED: Responses = [
    (408, "RequestTimeOut"),
    (409, "Conflict"),
    (429, "Throttling.RateQuota"),
    (500, "InternalError"),
    (502, "BadGateway"),
    (503, "ServiceUnavailable"),
    (504, "GatewayTimeout"),
    (200, "InternalError"),
]
"""By the status, which both dialects share."""

DASHSCOPE_RETRIED: Responses = [
    (429, ""),
    (429, "DataInspectionFailed"),
    (503, "InvalidParameter"),
    (200, "Throttling.AllocationQuota"),
    (400, "Throttling"),
]
"""By the status before the code, and by the code where the status says nothing."""

RETRIED_BY_TRANSPORT = [
    Row("503 in HTML", faults=[HTML], requests=2),
    Row(
        "429 twice with Retry-After",
        faults=[refuses(429, "Throttling", MESSAGE, retry_after="0.01")] * 2,
        options={"max_retries": 2},
        requests=3,
    ),
    Row(
        "429 with Retry-After before the deadline",
        faults=[refuses(429, "Throttling", MESSAGE, retry_after="0.01")],
        options={"deadline": 20},
        requests=2,
    ),
    Row("silence once", faults=[hangs], options={"timeout": 1.0}, requests=2),
]
"""Whatever the dialect."""


def retried_rows(service: Service) -> Iterator[Row]:
    yield from (retried(*response) for response in RETRIED)
    if service is DASHSCOPE:
        yield from (retried(*response) for response in DASHSCOPE_RETRIED)
        yield from RETRIED_BY_TRANSPORT


@each_row(retried_rows, DASHSCOPE, VLLM)
@at_the_scorer
def test_a_failure_that_can_pass_is_retried(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


AT_ONCE: ErrorResponses = [
    (400, "InvalidParameter", InvalidInputError),
    (400, "Whatever", InvalidInputError),
    (404, "ModelNotExist", InvalidInputError),
    (404, "", InvalidInputError),
    (401, "InvalidApiKey", AuthenticationError),
    (403, "", AuthenticationError),
    (405, "", ServiceError),
]

DASHSCOPE_AT_ONCE: ErrorResponses = [
    (400, "Model.NotExist", InvalidInputError),
    (400, "DataInspectionFailed", ContentBlockedError),
    (400, "Arrearage", AuthenticationError),
    (401, "Throttling", RateLimitError),
    (403, "AccessDenied.Unpurchased", AuthenticationError),
    (200, "InvalidParameter", InvalidInputError),
    (200, "DataInspectionFailed", ContentBlockedError),
]
"""DashScope's codes have the same meaning under any status."""

SERVER_AT_ONCE: ErrorResponses = [
    (400, "Throttling", InvalidInputError),
    (401, "Throttling", AuthenticationError),
    (424, "Backend", ServiceError),
]
"""A server's status has the same meaning with any code."""

FINAL = [
    Row(
        "the key as the code",
        faults=[refuses(400, KEY, MESSAGE)],
        raises=InvalidInputError,
        naming=r"code=\*\*\*, status=400",
    ),
    always(
        "429 always",
        refuses(429, "Throttling.RateQuota", MESSAGE),
        RateLimitError,
        "Lower max_concurrency",
    ),
    always("500 always", refuses(500, "InternalError", MESSAGE), ServiceError, "InternalError"),
    always("503 in HTML always", HTML, ServiceError, r"Bad gateway for \*\*\*.*status=503"),
    always("408 always", refuses(408, "", MESSAGE), RequestTimeoutError, "status=408"),
]

DASHSCOPE_FINAL = [
    always("200 Throttling always", refuses(200, "Throttling"), RateLimitError, "status=200"),
    wrong_key("a wrong key", f"{KEY}-of-another", "InvalidApiKey.*Check the key"),
    Row(
        "429 with Retry-After past the deadline",
        faults=[refuses(429, "Throttling", MESSAGE, retry_after="30")],
        options={"deadline": 5},
        raises=RateLimitError,
        naming="Throttling",
    ),
]

SERVER_FINAL = [
    always(
        "200 and an error always", says(json.dumps({"error": MESSAGE})), ServiceError, "status=200"
    ),
    wrong_key("a wrong key", f"{KEY}-of-another", "status=401.*Check the key"),
    wrong_key("no key", None, "status=401.*Check the key"),
    remedied(404, InvalidInputError, "/rerank, the model's name"),
    remedied(413, InvalidInputError, "Lower batch_size"),
    remedied(422, InvalidInputError, "dialect="),
    remedied(501, ServiceError, "--reranking"),
    in_form("nested", json.dumps({"error": {"message": MESSAGE, "type": None, "code": 400}})),
    in_form("flat", json.dumps({"object": "error", "message": MESSAGE, "type": "", "code": 400})),
    in_form("as an error", json.dumps({"error": MESSAGE})),
    in_form("as a detail", json.dumps({"detail": MESSAGE})),
    in_form("as details", json.dumps({"detail": [{"loc": ["body", "query"], "msg": MESSAGE}]})),
    in_form("as text", MESSAGE),
]


def final_rows(service: Service) -> Iterator[Row]:
    of_dashscope = service is DASHSCOPE
    yield from FINAL
    yield from DASHSCOPE_FINAL if of_dashscope else SERVER_FINAL
    for response in (*AT_ONCE, *(DASHSCOPE_AT_ONCE if of_dashscope else SERVER_AT_ONCE)):
        yield final(service, *response)


def tei_rows(service: Service) -> Iterator[Row]:
    """TEI's error responses have a form of their own, and its 401 has no body at all."""
    yield final(service, 400, "Validation", InvalidInputError)
    yield wrong_key("a wrong key", f"{KEY}-of-another", "status=401.*Check the key")


@each_row(final_rows, DASHSCOPE, VLLM)
@at_the_scorer
def test_any_other_failure_is_raised_with_what_the_service_said(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@each_row(tei_rows, TEI)
@at_the_scorer
def test_an_error_response_of_another_form_is_understood(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@pytest.mark.parametrize(
    ("fault", "options", "naming"),
    [
        pytest.param(hangs, {"timeout": 1.5, "max_retries": 0}, r"within 1\.5 s", id="silence"),
        pytest.param(
            hangs,
            {"deadline": 2.5},
            r"deadline of 2\.5 s, waiting for 127\.0\.0\.1:\d+ \(1 attempt\)\..*FallbackScorer",
            id="silence and a deadline",
        ),
        pytest.param(streams(b" ", pause=0.02), {"deadline": 2.5}, r"of 2\.5 s", id="a trickle"),
    ],
)
def test_a_response_that_comes_too_late_is_abandoned(
    entry_point: EntryPoint, server: Loopback, fault: Fault, options: dict[str, Any], naming: str
) -> None:
    late = Row("late", faults=[fault], options=options, raises=RequestTimeoutError, naming=naming)
    play(late, [entry_point], server)
    assert server.disconnected.wait(25)


@with_service(DASHSCOPE, VLLM)
def test_a_request_that_is_refused_cancels_the_others(
    entry_point: EntryPoint, service: Service, server: Loopback
) -> None:
    server.answer_only_when(in_flight=3)
    server.disconnects_awaited = 2
    count = 2 * service.batch + 1
    refused = Row(
        f"{count} documents",
        items=[Item(f"{index}", {"text": f"{TEXT} {index}"}) for index in range(count)],
        options={"max_concurrency": 3},
        faults=[hangs, hangs, refuses(401, "InvalidApiKey", MESSAGE)],
        requests=3,
        raises=AuthenticationError,
        naming=re.escape(MASKED),
    )
    play(refused, [entry_point], server)
    assert server.disconnected.wait(25)

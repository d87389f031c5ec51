"""A service that refuses, throttles, fails or is silent, through all six doors."""

from __future__ import annotations

import re
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
from tests.contract.doors import KEY, TEXT, Door
from tests.contract.faces import Item
from tests.contract.matrix import Row, each_of, play
from tests.support.loopback import Fault, LoopbackDashScope, hangs, refuses, says, streams

SAID = f"Because of {KEY}."
HEARD = "Because of ***."

THROTTLED = refuses(429, "Throttling.RateQuota", SAID)
HTML = says(f"<html>Bad gateway for {KEY}</html>", 503, "text/html")


def refusal(status: int, code: str) -> dict[str, Any]:
    """A row's name and fault."""
    return {"name": f"{status} {code}".strip(), "faults": [refuses(status, code, SAID)]}


def final(status: int, code: str, kind: type[QwenRerankError]) -> Row:
    """A refusal that is raised at once, with all that the service said of it."""
    coded = f"code={code}, " if code else ""
    said = re.escape(f"{HEARD} [{coded}status={status}, request_id=loopback-refusal]")
    return Row(**refusal(status, code), raises=kind, naming=said)


def always(name: str, fault: Fault, kind: type[QwenRerankError], naming: str) -> Row:
    """A failure that its retry does not repair."""
    return Row(name, faults=[fault] * 2, requests=2, raises=kind, naming=naming)


PASSING = [
    *(
        Row(**refusal(status, code), requests=2)
        for status, code in (
            (408, "RequestTimeOut"),
            (409, "Conflict"),
            (429, "Throttling.RateQuota"),
            (429, ""),
            (429, "DataInspectionFailed"),
            (500, "InternalError"),
            (502, "BadGateway"),
            (503, "ServiceUnavailable"),
            (503, "InvalidParameter"),
            (504, "GatewayTimeout"),
            (200, "Throttling.AllocationQuota"),
            (200, "InternalError"),
            (400, "Throttling"),
        )
    ),
    Row("503 in HTML", faults=[HTML], requests=2),
    Row(
        "429 twice with Retry-After",
        faults=[refuses(429, "Throttling", SAID, retry_after="0.2")] * 2,
        options={"max_retries": 2},
        requests=3,
    ),
    Row(
        "429 with Retry-After within the deadline",
        faults=[refuses(429, "Throttling", SAID, retry_after="0.2")],
        options={"deadline": 20},
        requests=2,
    ),
    Row("silence once", faults=[hangs], options={"timeout": 0.5}, requests=2),
]

FINAL = [
    final(400, "InvalidParameter", InvalidInputError),
    final(400, "Whatever", InvalidInputError),
    final(400, "DataInspectionFailed", ContentBlockedError),
    final(400, "Arrearage", AuthenticationError),
    final(400, "Model.NotExist", InvalidInputError),
    final(404, "ModelNotExist", InvalidInputError),
    final(404, "", InvalidInputError),
    final(401, "InvalidApiKey", AuthenticationError),
    final(401, "Throttling", RateLimitError),
    final(403, "AccessDenied.Unpurchased", AuthenticationError),
    final(403, "", AuthenticationError),
    final(405, "", ServiceError),
    final(200, "InvalidParameter", InvalidInputError),
    final(200, "DataInspectionFailed", ContentBlockedError),
    Row(
        "a wrong key",
        options={"api_key": f"{KEY}-of-another"},
        raises=AuthenticationError,
        naming="InvalidApiKey.*Check the key",
    ),
    always("429 always", THROTTLED, RateLimitError, "Lower max_concurrency"),
    always("500 always", refuses(500, "InternalError", SAID), ServiceError, "InternalError"),
    always("503 in HTML always", HTML, ServiceError, r"Bad gateway for \*\*\*.*status=503"),
    always("408 always", refuses(408, "", SAID), RequestTimeoutError, "status=408"),
    always("200 Throttling always", refuses(200, "Throttling"), RateLimitError, "status=200"),
    Row(
        "429 with Retry-After past the deadline",
        faults=[refuses(429, "Throttling", SAID, retry_after="30")],
        options={"deadline": 5},
        raises=RateLimitError,
        naming="Throttling",
    ),
]


@each_of(PASSING)
def test_what_passes_is_tried_again(row: Row, door: Door, service: LoopbackDashScope) -> None:
    play(row, door, service)


@each_of(FINAL)
def test_what_stays_is_raised_with_what_the_service_said(
    row: Row, door: Door, service: LoopbackDashScope
) -> None:
    play(row, door, service)


@pytest.mark.parametrize(
    ("fault", "options", "naming"),
    [
        pytest.param(hangs, {"timeout": 0.2, "max_retries": 0}, r"within 0\.2 s", id="silence"),
        pytest.param(hangs, {"deadline": 0.3}, r"deadline of 0\.3 s", id="silence and a deadline"),
        pytest.param(streams(b" ", pause=0.02), {"deadline": 0.3}, r"of 0\.3 s", id="a trickle"),
    ],
)
def test_an_answer_that_does_not_come_in_time_is_left(
    door: Door, service: LoopbackDashScope, fault: Fault, options: dict[str, Any], naming: str
) -> None:
    late = Row("late", faults=[fault], options=options, raises=RequestTimeoutError, naming=naming)
    play(late, door, service)
    assert service.disconnected.wait(10)


def test_one_request_that_is_refused_ends_the_others(
    door: Door, service: LoopbackDashScope
) -> None:
    service.answer_only_when(in_flight=3)
    service.disconnects_awaited = 2
    refused = Row(
        "1,001 documents",
        items=[Item(f"{place}", {"text": f"{TEXT} {place}"}) for place in range(1_001)],
        options={"max_concurrency": 3},
        faults=[hangs, hangs, refuses(401, "InvalidApiKey", SAID)],
        requests=3,
        raises=AuthenticationError,
        naming=re.escape(HEARD),
    )
    play(refused, door, service)
    assert service.disconnected.wait(10)

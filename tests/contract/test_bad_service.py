"""A service that refuses, throttles, fails or is silent, through all six doors."""

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
from tests.contract.doors import KEY, TEXT, Door
from tests.contract.faces import Item
from tests.contract.matrix import Row, each_of, play
from tests.contract.services import DASHSCOPE, ONE_A_SCORER, Service, behind
from tests.support.loopback import Fault, Loopback, hangs, refuses, says, streams

SAID = f"Because of {KEY}."
HEARD = "Because of ***."

THROTTLED = refuses(429, "Throttling.RateQuota", SAID)
HTML = says(f"<html>Bad gateway for {KEY}</html>", 503, "text/html")


def refusal(status: int, code: str) -> dict[str, Any]:
    """A row's name and fault."""
    return {"name": f"{status} {code}".strip(), "faults": [refuses(status, code, SAID)]}


def final(service: Service, status: int, code: str, kind: type[QwenRerankError]) -> Row:
    """A refusal that is raised at once, with all that the service said of it."""
    facts = {"code": code, "status": status, "request_id": service.refusal}
    known = ", ".join(f"{name}={fact}" for name, fact in facts.items() if fact)
    return Row(**refusal(status, code), raises=kind, naming=re.escape(f"{HEARD} [{known}]"))


def always(name: str, fault: Fault, kind: type[QwenRerankError], naming: str) -> Row:
    """A failure that its retry does not repair."""
    return Row(name, faults=[fault] * 2, requests=2, raises=kind, naming=naming)


def remedied(status: int, kind: type[QwenRerankError], remedy: str) -> Row:
    """A refusal that says nothing of its own remedy, which we know."""
    said = f"{re.escape(HEARD)}.*status={status}.*{remedy}"
    return Row(f"{status} remedied", faults=[refuses(status, "", SAID)], raises=kind, naming=said)


def formed(name: str, text: str) -> Row:
    """A refusal in a form of its own."""
    said = f"{re.escape(HEARD)}.*status=400"
    return Row(f"400 {name}", faults=[says(text, 400)], raises=InvalidInputError, naming=said)


def turned_down(name: str, key: str | None, naming: str) -> Row:
    """A key that may be one, and that the service does not know."""
    return Row(name, options={"api_key": key}, raises=AuthenticationError, naming=naming)


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
        )
    ),
    Row("503 in HTML", faults=[HTML], requests=2),
    Row(
        "429 twice with Retry-After",
        faults=[refuses(429, "Throttling", SAID, retry_after="0.1")] * 2,
        options={"max_retries": 2},
        requests=3,
    ),
    Row(
        "429 with Retry-After within the deadline",
        faults=[refuses(429, "Throttling", SAID, retry_after="0.1")],
        options={"deadline": 20},
        requests=2,
    ),
    Row("silence once", faults=[hangs], options={"timeout": 0.5}, requests=2),
]


def passing_rows(service: Service) -> Iterator[Row]:
    yield from PASSING
    if service is DASHSCOPE:
        yield Row(**refusal(400, "Throttling"), requests=2)


FINAL = [
    Row(
        "the key for a code",
        faults=[refuses(400, KEY, SAID)],
        raises=InvalidInputError,
        naming=r"code=\*\*\*, status=400",
    ),
    always("429 always", THROTTLED, RateLimitError, "Lower max_concurrency"),
    always("500 always", refuses(500, "InternalError", SAID), ServiceError, "InternalError"),
    always("503 in HTML always", HTML, ServiceError, r"Bad gateway for \*\*\*.*status=503"),
    always("408 always", refuses(408, "", SAID), RequestTimeoutError, "status=408"),
    Row(
        "429 with Retry-After past the deadline",
        faults=[refuses(429, "Throttling", SAID, retry_after="30")],
        options={"deadline": 5},
        raises=RateLimitError,
        naming="Throttling",
    ),
]


DASHSCOPES_FINAL = [
    always("200 Throttling always", refuses(200, "Throttling"), RateLimitError, "status=200"),
    turned_down("a wrong key", f"{KEY}-of-another", "InvalidApiKey.*Check the key"),
]

SERVERS_FINAL = [
    always(
        "200 and an error always", says(json.dumps({"error": SAID})), ServiceError, "status=200"
    ),
    turned_down("a wrong key", f"{KEY}-of-another", "status=401.*Check the key"),
    turned_down("no key", None, "status=401.*Check the key"),
    remedied(404, InvalidInputError, "/rerank, the model's name"),
    remedied(413, InvalidInputError, "Lower batch_size"),
    remedied(422, InvalidInputError, "dialect="),
    remedied(501, ServiceError, "--reranking"),
    formed("nested", json.dumps({"error": {"message": SAID, "type": None, "code": 400}})),
    formed("flat", json.dumps({"object": "error", "message": SAID, "type": "", "code": 400})),
    formed("as an error", json.dumps({"error": SAID})),
    formed("as a detail", json.dumps({"detail": SAID})),
    formed("as details", json.dumps({"detail": [{"loc": ["body", "query"], "msg": SAID}]})),
    formed("as text", SAID),
]

Refusals = list[tuple[int, str, type[QwenRerankError]]]

AT_ONCE: Refusals = [
    (400, "InvalidParameter", InvalidInputError),
    (400, "Whatever", InvalidInputError),
    (400, "Model.NotExist", InvalidInputError),
    (404, "ModelNotExist", InvalidInputError),
    (404, "", InvalidInputError),
    (401, "InvalidApiKey", AuthenticationError),
    (403, "AccessDenied.Unpurchased", AuthenticationError),
    (403, "", AuthenticationError),
    (405, "", ServiceError),
]

DASHSCOPES_AT_ONCE: Refusals = [
    (400, "DataInspectionFailed", ContentBlockedError),
    (400, "Arrearage", AuthenticationError),
    (401, "Throttling", RateLimitError),
    (200, "InvalidParameter", InvalidInputError),
    (200, "DataInspectionFailed", ContentBlockedError),
]
"""What its codes mean, whatever the status."""

SERVERS_AT_ONCE: Refusals = [
    (400, "Throttling", InvalidInputError),
    (401, "Throttling", AuthenticationError),
    (424, "Backend", ServiceError),
]
"""What the status means, whatever the code."""


def final_rows(service: Service) -> Iterator[Row]:
    own = DASHSCOPES_AT_ONCE if service is DASHSCOPE else SERVERS_AT_ONCE
    yield from FINAL
    yield from DASHSCOPES_FINAL if service is DASHSCOPE else SERVERS_FINAL
    yield from (final(service, *refused) for refused in (*AT_ONCE, *own))


@each_of(passing_rows, *ONE_A_SCORER)
def test_what_passes_is_tried_again(row: Row, door: Door, server: Loopback) -> None:
    play(row, door, server)


@each_of(final_rows)
def test_what_stays_is_raised_with_what_the_service_said(
    row: Row, door: Door, server: Loopback
) -> None:
    play(row, door, server)


@behind(*ONE_A_SCORER)
@pytest.mark.parametrize(
    ("fault", "options", "naming"),
    [
        pytest.param(hangs, {"timeout": 0.2, "max_retries": 0}, r"within 0\.2 s", id="silence"),
        pytest.param(hangs, {"deadline": 0.3}, r"deadline of 0\.3 s", id="silence and a deadline"),
        pytest.param(streams(b" ", pause=0.02), {"deadline": 0.3}, r"of 0\.3 s", id="a trickle"),
    ],
)
def test_an_answer_that_does_not_come_in_time_is_left(
    door: Door, server: Loopback, fault: Fault, options: dict[str, Any], naming: str
) -> None:
    late = Row("late", faults=[fault], options=options, raises=RequestTimeoutError, naming=naming)
    play(late, door, server)
    assert server.disconnected.wait(10)


def test_one_request_that_is_refused_ends_the_others(
    door: Door, service: Service, server: Loopback
) -> None:
    server.answer_only_when(in_flight=3)
    server.disconnects_awaited = 2
    count = 2 * service.batch + 1
    refused = Row(
        f"{count} documents",
        items=[Item(f"{place}", {"text": f"{TEXT} {place}"}) for place in range(count)],
        options={"max_concurrency": 3},
        faults=[hangs, hangs, refuses(401, "InvalidApiKey", SAID)],
        requests=3,
        raises=AuthenticationError,
        naming=re.escape(HEARD),
    )
    play(refused, door, server)
    assert server.disconnected.wait(10)

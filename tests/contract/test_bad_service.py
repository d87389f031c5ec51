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


def final_rows(service: Service) -> Iterator[Row]:
    yield from FINAL
    yield final(service, 400, "InvalidParameter", InvalidInputError)
    yield final(service, 400, "Whatever", InvalidInputError)
    yield final(service, 400, "Model.NotExist", InvalidInputError)
    yield final(service, 404, "ModelNotExist", InvalidInputError)
    yield final(service, 404, "", InvalidInputError)
    yield final(service, 401, "InvalidApiKey", AuthenticationError)
    yield final(service, 403, "AccessDenied.Unpurchased", AuthenticationError)
    yield final(service, 403, "", AuthenticationError)
    yield final(service, 405, "", ServiceError)
    yield from dashscopes_final_rows() if service is DASHSCOPE else servers_final_rows(service)


def wrong_key(naming: str) -> Row:
    """The service itself turns the key down."""
    options = {"api_key": f"{KEY}-of-another"}
    return Row("a wrong key", options=options, raises=AuthenticationError, naming=naming)


def dashscopes_final_rows() -> Iterator[Row]:
    """What it says by its codes, whatever the status."""
    yield final(DASHSCOPE, 400, "DataInspectionFailed", ContentBlockedError)
    yield final(DASHSCOPE, 400, "Arrearage", AuthenticationError)
    yield final(DASHSCOPE, 401, "Throttling", RateLimitError)
    yield final(DASHSCOPE, 200, "InvalidParameter", InvalidInputError)
    yield final(DASHSCOPE, 200, "DataInspectionFailed", ContentBlockedError)
    yield always("200 Throttling always", refuses(200, "Throttling"), RateLimitError, "status=200")
    yield wrong_key("InvalidApiKey.*Check the key")


def servers_final_rows(service: Service) -> Iterator[Row]:
    """What they say by the status alone, and in many forms."""
    yield final(service, 400, "Throttling", InvalidInputError)
    yield final(service, 401, "Throttling", AuthenticationError)
    yield final(service, 424, "Backend", ServiceError)
    yield remedied(404, InvalidInputError, r"/rerank, the model's name")
    yield remedied(413, InvalidInputError, r"Lower batch_size")
    yield remedied(422, InvalidInputError, r"dialect=")
    yield remedied(501, ServiceError, r"--reranking")
    for name, form in {
        "nested": {"error": {"message": SAID, "type": None, "code": 400}},
        "flat": {"object": "error", "message": SAID, "type": "", "code": 400},
        "as an error": {"error": SAID},
        "as a detail": {"detail": SAID},
        "as details": {"detail": [{"loc": ["body"], "msg": SAID}]},
        "as text": SAID,
    }.items():
        text = form if isinstance(form, str) else json.dumps(form)
        yield Row(
            f"400 {name}",
            faults=[says(text, 400)],
            raises=InvalidInputError,
            naming=rf"{re.escape(HEARD)}.*status=400",
        )
    said = says(json.dumps({"error": SAID}))
    yield always("200 with an error always", said, ServiceError, f"{re.escape(HEARD)}.*status=200")
    yield wrong_key("status=401.*Check the key")
    yield Row(
        "no key where one is asked for",
        options={"api_key": None},
        raises=AuthenticationError,
        naming="status=401.*Check the key",
    )


def remedied(status: int, kind: type[QwenRerankError], remedy: str) -> Row:
    """A refusal with a remedy of its own."""
    said = f"{re.escape(HEARD)}.*status={status}.*{remedy}"
    return Row(
        f"{status} with a remedy", faults=[refuses(status, "", SAID)], raises=kind, naming=said
    )


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

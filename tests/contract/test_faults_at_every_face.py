"""One fault of each kind at every face; the other test files have all faults, at the scorer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.testing.faults import drops, edits, hangs, refuses, says
from qwen_rerank.testing.loopback import Loopback
from tests.contract.entry_points import KEY, TEXT, EntryPoint
from tests.contract.rows import Row, at_every_face, each_row, play
from tests.contract.services import DASHSCOPE, VLLM, Service

MESSAGE = f"{TEXT}, because of {KEY}."
MASKED = re.escape(f"{TEXT}, because of ***.")

ERROR_RESPONSES = [
    (400, "InvalidParameter", InvalidInputError),
    (400, "DataInspectionFailed", ContentBlockedError),
    (403, "AccessDenied", AuthenticationError),
    (405, "", ServiceError),
]
THROTTLED = refuses(429, "Throttling", MESSAGE)
BROKEN = says(f"<html>{KEY}</html>", 503, "text/html")
NO_CONNECTION = (
    r"(Could not connect to|Lost the connection to|Invalid response from) 127\.0\.0\.1:\d+: "
)


def faults(service: Service) -> Iterator[Row]:
    for status, code, error in ERROR_RESPONSES:
        fault = refuses(status, code, MESSAGE)
        yield Row(f"{status} {code}".strip(), faults=[fault], raises=error, naming=MASKED)
    yield Row("429 once", faults=[THROTTLED], requests=2)
    yield Row(
        "429 always", faults=[THROTTLED] * 2, requests=2, raises=RateLimitError, naming=MASKED
    )
    yield Row(
        "503 in HTML always",
        faults=[BROKEN] * 2,
        requests=2,
        raises=ServiceError,
        naming=r"<html>\*\*\*</html>.*status=503",
    )
    yield Row(
        "silence",
        faults=[hangs],
        options={"timeout": 0.2, "max_retries": 0},
        raises=RequestTimeoutError,
        naming=r"within 0\.2 s",
    )
    yield Row("a dropped connection", faults=[drops], requests=2)
    yield Row(
        "connections that are always dropped",
        faults=[drops] * 2,
        requests=2,
        raises=ServiceError,
        naming=NO_CONNECTION,
    )
    yield Row(
        "not JSON",
        faults=[says(f"Sorry, {KEY}!")],
        raises=BadResponseError,
        naming=r"Sorry, \*\*\*!",
    )
    yield Row(
        "a score is missing",
        faults=[edits(list.pop)],
        raises=BadResponseError,
        naming="2 scores for 3 documents",
    )
    yield Row("unsorted results", faults=[edits(list.reverse)])


def faults_of_a_server(service: Service) -> Iterator[Row]:
    yield Row("503 once", faults=[refuses(503, "", MESSAGE)], requests=2)
    yield Row(
        "a wrong key",
        options={"api_key": f"{KEY}-of-another"},
        raises=AuthenticationError,
        naming="status=401.*Check the key",
    )


@each_row(faults, DASHSCOPE)
@at_every_face
def test_every_face_survives_a_fault_or_raises_it(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@each_row(faults_of_a_server, VLLM)
@at_every_face
def test_every_face_does_so_with_a_server_scorer(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)

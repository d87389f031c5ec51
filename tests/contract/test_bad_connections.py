"""Connections that are refused, dropped or led elsewhere, through all six doors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen_rerank import ServiceError
from tests.contract.doors import ITEMS, KEY, Door
from tests.contract.matrix import Row, each_of, play
from tests.contract.services import ONE_A_SCORER, Service, behind
from tests.support.loopback import (
    Loopback,
    babbles,
    breaks_off,
    closes_afterwards,
    drops,
    redirects,
)

RIGHT = Row("all is well").answer
GONE = r"127\.0\.0\.1 could not be reached, or broke off"

BREAKS = {
    "dropped before the answer": drops,
    "dropped in the middle of the answer": breaks_off,
    "answered not in HTTP": babbles,
}

CONNECTIONS = [
    *(Row(name, faults=[fault], requests=2) for name, fault in BREAKS.items()),
    *(
        Row(f"always {name}", faults=[fault] * 2, requests=2, raises=ServiceError, naming=GONE)
        for name, fault in BREAKS.items()
    ),
]


def connection_rows(service: Service) -> Iterator[Row]:
    yield from CONNECTIONS
    nobody = {service.address: "http://127.0.0.1:9/api/v1"}
    yield Row("refused", options=nobody, requests=0, raises=ServiceError, naming=GONE)


@each_of(connection_rows, *ONE_A_SCORER)
def test_a_broken_connection_is_tried_again_and_then_raised(
    row: Row, door: Door, server: Loopback
) -> None:
    play(row, door, server)


@behind(*ONE_A_SCORER)
def test_a_connection_that_was_closed_between_two_calls_is_not_missed(
    door: Door, server: Loopback
) -> None:
    server.faults.append(closes_afterwards)
    rank = door.open()
    assert rank(ITEMS) == rank(ITEMS) == RIGHT
    assert server.connections == len(server.received) == 2


@behind(*ONE_A_SCORER)
def test_a_service_that_was_restarted_between_two_calls_is_not_missed(
    door: Door, service: Service
) -> None:
    server = service.server(key=KEY)
    with server:
        rank = door.open(**service.options(server))
        assert rank(ITEMS) == RIGHT
    with server:
        assert rank(ITEMS) == RIGHT
    assert server.connections == len(server.received) == 2


@behind(*ONE_A_SCORER)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_key_does_not_follow_a_redirect(
    door: Door, service: Service, server: Loopback, host: str
) -> None:
    with service.server(key=KEY) as other:
        led = Row(
            "led elsewhere",
            faults=[redirects(f"http://{host}:{other.port}{other.paths[0]}")],
            raises=ServiceError,
            naming="status=307",
        )
        play(led, door, server)
        assert other.received == []

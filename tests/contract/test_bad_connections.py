"""Connections that are refused, dropped or led elsewhere, through all six doors."""

from __future__ import annotations

import pytest

from qwen_rerank import ServiceError
from tests.contract.doors import ITEMS, KEY, Door
from tests.contract.matrix import Row, each_of, play
from tests.support.loopback import (
    PATH,
    LoopbackDashScope,
    breaks_off,
    closes_afterwards,
    drops,
    redirects,
)

RIGHT = Row("all is well").answer
GONE = r"127\.0\.0\.1 could not be reached, or broke off"

CONNECTIONS = [
    Row(
        "refused",
        options={"base_url": "http://127.0.0.1:9/api/v1"},
        requests=0,
        raises=ServiceError,
        naming=GONE,
    ),
    Row("dropped before the answer", faults=[drops], requests=2),
    Row("dropped in the middle of the answer", faults=[breaks_off], requests=2),
    Row(
        "always dropped before the answer",
        faults=[drops] * 2,
        requests=2,
        raises=ServiceError,
        naming=GONE,
    ),
    Row(
        "always dropped in the middle of the answer",
        faults=[breaks_off] * 2,
        requests=2,
        raises=ServiceError,
        naming=GONE,
    ),
]


@each_of(CONNECTIONS)
def test_a_broken_connection_is_tried_again_and_then_raised(
    row: Row, door: Door, service: LoopbackDashScope
) -> None:
    play(row, door, service)


def test_a_connection_that_was_closed_between_two_calls_is_not_missed(
    door: Door, service: LoopbackDashScope
) -> None:
    service.faults.append(closes_afterwards)
    rank = door.open()
    assert rank(ITEMS) == rank(ITEMS) == RIGHT
    assert service.connections == len(service.received) == 2


def test_a_service_that_was_restarted_between_two_calls_is_not_missed(door: Door) -> None:
    service = LoopbackDashScope(key=KEY)
    with service:
        rank = door.open(base_url=service.base_url)
        assert rank(ITEMS) == RIGHT
    with service:
        assert rank(ITEMS) == RIGHT
    assert service.connections == len(service.received) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_key_does_not_follow_a_redirect(
    door: Door, service: LoopbackDashScope, host: str
) -> None:
    with LoopbackDashScope(key=KEY) as other:
        led = Row(
            "led elsewhere",
            faults=[redirects(f"http://{host}:{other.port}{PATH}")],
            raises=ServiceError,
            naming="status=307",
        )
        play(led, door, service)
        assert other.received == []

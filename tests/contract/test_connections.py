"""Connections that are refused, dropped or redirected."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen_rerank import ServiceError
from qwen_rerank.testing.faults import babbles, breaks_off, closes_afterwards, drops, redirects
from qwen_rerank.testing.loopback import Loopback
from tests.contract.entry_points import ITEMS, KEY, EntryPoint
from tests.contract.rows import Row, at_the_scorer, each_row, play
from tests.contract.services import DASHSCOPE, VLLM, Service, with_service

EXPECTED = Row("without a fault").expected
NO_CONNECTION = (
    r"(Could not connect to|Lost the connection to|Invalid response from) 127\.0\.0\.1:\d+: "
)

BREAKS = {
    "dropped before the response": drops,
    "dropped in the middle of the response": breaks_off,
    "answered not in HTTP": babbles,
}


def connection_rows(service: Service) -> Iterator[Row]:
    failing = {"raises": ServiceError, "naming": NO_CONNECTION}
    for name, fault in BREAKS.items():
        yield Row(name, faults=[fault], requests=2)
        yield Row(f"always {name}", faults=[fault] * 2, requests=2, **failing)
    nobody = {service.address: "http://127.0.0.1:9/api/v1"}
    yield Row("refused", options=nobody, requests=0, **failing)


@each_row(connection_rows, DASHSCOPE)
@at_the_scorer
def test_a_broken_connection_is_retried_and_then_an_error(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


def test_a_connection_that_was_closed_between_two_calls_is_replaced(
    entry_point: EntryPoint, server: Loopback
) -> None:
    server.faults.append(closes_afterwards)
    rank = entry_point.open()
    assert rank(ITEMS) == rank(ITEMS) == EXPECTED
    assert server.connections == len(server.received) == 2


def test_a_service_may_restart_between_two_calls(entry_point: EntryPoint, service: Service) -> None:
    server = service.server(key=KEY)
    with server:
        rank = entry_point.open(**service.options(server))
        assert rank(ITEMS) == EXPECTED
    with server:
        assert rank(ITEMS) == EXPECTED
    assert server.connections == len(server.received) == 2


@with_service(DASHSCOPE, VLLM)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_key_does_not_follow_a_redirect(
    entry_point: EntryPoint, service: Service, server: Loopback, host: str
) -> None:
    with service.server(key=KEY) as other:
        redirected = Row(
            "redirected",
            faults=[redirects(f"http://{host}:{other.port}{other.paths[0]}")],
            raises=ServiceError,
            naming="status=307",
        )
        play(redirected, [entry_point], server)
        assert other.received == []

"""Options and keys that cannot be used: all are refused by the constructor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from qwen_rerank import InvalidInputError, MissingKeyError
from qwen_rerank.testing.loopback import Loopback
from tests.contract.entry_points import KEY, EntryPoint
from tests.contract.rows import Row, at_every_constructor, at_the_scorer, each_row
from tests.contract.services import DASHSCOPE, VLLM, Service, with_service

MALFORMED_KEYS = {
    "a line break": f"{KEY}\n",
    "white space": f" {KEY}",
    "letters of another script": f"{KEY}-ключ",
    "half a surrogate pair": f"{KEY}\ud800",
}


def refused(name: str, naming: str, error: Any = InvalidInputError, **options: Any) -> Row:
    """Options that the constructor refuses."""
    return Row(name, options=options, raises=error, naming=naming)


def rows_of_the_scorer(service: Service) -> Iterator[Row]:
    """Keys and addresses, and what tests/scorers does not have."""
    yield refused("a timeout of text", "timeout", timeout="soon")
    for what, key in MALFORMED_KEYS.items():
        yield refused(f"a key with {what}", "API key", MissingKeyError, api_key=key)
    yield refused("a key in a list", "API key", MissingKeyError, api_key=[KEY])
    address = {service.address: f"https://{KEY}@/"}
    yield refused("an address without a host", service.address, **address)
    yield from ROWS_OF_DASHSCOPE if service is DASHSCOPE else ROWS_OF_A_SERVER


ROWS_OF_DASHSCOPE = [
    refused("no key", "DASHSCOPE_API_KEY", MissingKeyError, api_key=None),
    refused("an empty key", "API key is empty", MissingKeyError, api_key=""),
    refused("an unknown option", "topk", topk=3),
]

ROWS_OF_A_SERVER = [
    refused("an empty key", "API key is empty", MissingKeyError, api_key=""),
    refused("a key in the address", "url", url=f"http://localhost/rerank?key={KEY}"),
    refused("an unknown option", "topk", topk=3),
    refused("an address without a dialect", "Pass dialect=", dialect=None),
    *(refused(f"batch_size {size!r}", "batch_size", batch_size=size) for size in (1.5, "16")),
    refused("an instruct for TEI", "instruct, got 'Find.'", dialect="tei", instruct="Find."),
    refused("max_retries of text", "max_retries", max_retries="3"),
    refused("a negative backoff", "backoff", backoff=-1),
]

EITHER = (InvalidInputError, ValidationError)

ROWS_OF_A_FACE = [
    refused("top_n 0", "top_?n", EITHER, top_n=0),
    refused("top_n -1", "top_?n", EITHER, top_n=-1),
    refused("an unknown option", "'topk'. Did you mean 'top_?n'", EITHER, topk=3),
    refused("a timeout of 0", "timeout", timeout=0),
    refused("a timeout of text", "timeout", ValidationError, timeout="soon"),
    refused("an empty model", "model", model=""),
    refused("a malformed key", "API key", MissingKeyError, api_key=MALFORMED_KEYS["a line break"]),
    refused("a key in a list", "api_key", ValidationError, api_key=[KEY]),
    refused("no key", "DASHSCOPE_API_KEY", MissingKeyError, api_key=None),
    refused("an empty key", "API key is empty", MissingKeyError, api_key=""),
    refused("an address without a host", "base_url", base_url=f"https://{KEY}@/"),
]


@each_row(rows_of_the_scorer, DASHSCOPE, VLLM)
@at_the_scorer
def test_a_scorer_refuses_what_it_cannot_use(row: Row, entry_points: list[EntryPoint]) -> None:
    check_refused(row, entry_points)


@each_row(lambda service: ROWS_OF_A_FACE, DASHSCOPE)
@at_every_constructor
def test_a_face_refuses_what_it_cannot_use(row: Row, entry_points: list[EntryPoint]) -> None:
    check_refused(row, entry_points)


def check_refused(row: Row, entry_points: list[EntryPoint]) -> None:
    assert row.raises is not None
    with pytest.raises(row.raises, match=row.naming):
        entry_points[0].open(**row.options)


@with_service(DASHSCOPE, VLLM)
@at_the_scorer
def test_a_scorer_warns_once_of_a_key_that_is_sent_in_the_clear(
    entry_points: list[EntryPoint], service: Service
) -> None:
    check_warning(entry_points[0], service)


@at_every_constructor
def test_a_face_warns_once_of_a_key_that_is_sent_in_the_clear(
    entry_points: list[EntryPoint], service: Service
) -> None:
    check_warning(entry_points[0], service)


def check_warning(entry_point: EntryPoint, service: Service) -> None:
    address = f"http://gateway-{uuid4()}.example/api/v1"  # nothing has warned of this one yet
    with pytest.warns(UserWarning, match="http") as warnings:
        entry_point.open(**{service.address: address})
    entry_point.seen += [str(warning.message) for warning in warnings]
    assert len(warnings) == 1


@with_service(VLLM)
@at_the_scorer
def test_the_key_in_the_environment_is_not_sent_to_your_own_server(
    entry_points: list[EntryPoint], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    server.key = None
    for entry_point in entry_points:
        entry_point.rank(api_key=None)
    assert ["Authorization" in request.headers for request in server.received] == [False] * 2

"""Input, options and keys that are not as they should be, through all six doors."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from qwen_rerank import InvalidInputError, MissingKeyError
from qwen_rerank.scorers.base import sigmoid
from tests.contract.doors import ITEMS, KEY, QUERY, TEXT, Door
from tests.contract.faces import Item
from tests.contract.matrix import Row, each_of, play
from tests.contract.services import DASHSCOPE, ONE_A_SCORER, VLLM, Service, behind
from tests.support.loopback import Loopback

REFUSED = (InvalidInputError, ValidationError)


def items(*texts: Any) -> list[Item]:
    return [Item(f"item-{place}", {"text": text}) for place, text in enumerate(texts)]


def refused(name: str, naming: str, **row: Any) -> Row:
    """A row that fails before anything is sent."""
    return Row(name, **{"raises": InvalidInputError, "requests": 0, "naming": naming, **row})


def refused_queries(*queries: Any) -> Iterator[Row]:
    """With documents and without, as nothing to rank is no excuse."""
    for query in queries:
        yield refused(f"query {query!r}", "query", query=query)
        yield refused(f"query {query!r} and no documents", "query", query=query, items=[])


BLANKS = [Item("missing"), *items(None, "", " \n\t\u3000")]
FIRST = Item("same", {"text": f"{TEXT} score=0.1"})
HELD = {"lock": threading.Lock(), "generator": (place for place in range(3))}

INPUT = [
    Row("no documents", items=[], requests=0),
    Row("blank documents among others", items=[*BLANKS[:2], *ITEMS, *BLANKS[2:]], ranked=ITEMS),
    Row("blank documents alone", items=BLANKS, ranked=[], requests=0),
    *refused_queries("", "  \n", None, 7),
    Row("equal texts", items=items(*[f"{TEXT} score=0.5"] * 3)),
    Row(
        "texts of any script",
        items=items(
            f"{TEXT} NUL \0 score=0.1",
            f"{TEXT} 🐧👩\u200d👩\u200d👧 score=0.4",
            f"{TEXT} \u202eالبطريق פינגווין score=0.2",
            f"{TEXT} <|im_start|> e\u0301 企鹅 score=0.3",
        ),
    ),
    Row("top_n below the count", options={"top_n": 2}, ranked=ITEMS[1:]),
    Row("top_n beyond the count", options={"top_n": 50}),
    Row("top_n None", options={"top_n": None}),
    *(
        Row(f"a field that is {number}", items=[*ITEMS, *items(number)], query=str(number))
        for number in (42, 1.5, 0)
    ),
    refused(
        "a field that is bytes", "text of record 'item-0' is bytes", items=[*ITEMS, *items(b"x")]
    ),
    Row("a field that is a list", items=[*ITEMS, *items([TEXT, "score=0.3"])]),
    Row(
        "documents of one id",
        items=[FIRST, *ITEMS, Item("same", {"text": f"{TEXT} score=1"})],
        ranked=[FIRST, *ITEMS],
    ),
    Row(
        "metadata that can't be copied",
        items=[Item("a", {"text": f"{TEXT} score=0.3", **HELD}), *ITEMS],
    ),
]


def long_documents(count: int) -> list[Item]:
    """Documents of a thousand tokens."""
    return items(*(f"{TEXT} score={place / 100}{' word' * 999}" for place in range(count)))


def input_rows(service: Service) -> Iterator[Row]:
    yield from INPUT
    yield from DASHSCOPES_INPUT if service is DASHSCOPE else SERVERS_INPUT


DASHSCOPES_INPUT = [
    Row(
        "over 30,000 tokens",
        items=long_documents(40),
        options={"max_concurrency": 2},
        requests=2,
    ),
]

SERVERS_INPUT = [
    Row("over 30,000 tokens", items=long_documents(31)),
    Row("a document over 4,000 tokens", items=items(f"{TEXT}{' word' * 10_000}")),
    Row(
        "a batch_size below the count",
        options={"batch_size": 2, "max_concurrency": 2},
        requests=2,
    ),
    Row("logits", items=items(*(f"{TEXT} score={score}" for score in (-8.25, 12.5, 0)))),
    Row(
        "logits to make probabilities of",
        items=items(*(f"{TEXT} score={score}" for score in (-900, 2.5, 0, 900))),
        options={"logits": True},
        turned=sigmoid,
    ),
]

OPTIONS = [
    *(
        refused(f"top_n {top_n}", "top_?n", options={"top_n": top_n}, raises=REFUSED)
        for top_n in (0, -1)
    ),
    refused("an unknown option", "topk", options={"topk": 3}, raises=ValidationError),
    refused("a timeout of 0", "timeout", options={"timeout": 0}),
    refused("a model of no name", "model", options={"model": ""}),
    *(
        refused(f"a key with {what}", "API key", options={"api_key": key}, raises=MissingKeyError)
        for what, key in {
            "a line break": f"{KEY}\n",
            "white space": f" {KEY}",
            "letters of another script": f"{KEY}-ключ",
            "half a surrogate pair": f"{KEY}\ud800",
        }.items()
    ),
]


def option_rows(service: Service) -> Iterator[Row]:
    yield from OPTIONS
    address = {service.address: f"https://{KEY}@/"}
    yield refused("an address of no host", service.address, options=address)
    yield from DASHSCOPES_OPTIONS if service is DASHSCOPE else SERVERS_OPTIONS


DASHSCOPES_OPTIONS = [
    refused("a timeout of text", "timeout", options={"timeout": "soon"}, raises=ValidationError),
    refused("a key in a list", "api_key", options={"api_key": [KEY]}, raises=ValidationError),
    refused("no key", "DASHSCOPE_API_KEY", options={"api_key": None}, raises=MissingKeyError),
    refused("an empty key", "DASHSCOPE_API_KEY", options={"api_key": ""}, raises=MissingKeyError),
]

SERVERS_OPTIONS = [
    refused("a timeout of text", "timeout", options={"timeout": "soon"}),
    refused("a key in a list", "API key", options={"api_key": [KEY]}, raises=MissingKeyError),
    refused("an empty key", "API key is empty", options={"api_key": ""}, raises=MissingKeyError),
    refused("a key in the address", "url", options={"url": f"http://localhost/rerank?key={KEY}"}),
    refused("an address of another port", "url", options={"url": "http://localhost:99999"}),
    refused("a server of no known name", "'vLLM' is not known", options={"dialect": "vLLM"}),
    refused("an address that tells nothing", "Pass dialect=", options={"dialect": None}),
    *(
        refused(f"batch_size {size!r}", "batch_size", options={"batch_size": size})
        for size in (0, 1.5, "16")
    ),
    refused("a blank instruct", "instruct", options={"instruct": " "}),
    refused("an instruct for TEI", "no instruct", options={"dialect": "tei", "instruct": "Find."}),
    refused("max_retries of text", "max_retries", options={"max_retries": "3"}),
    refused("max_concurrency 0", "max_concurrency", options={"max_concurrency": 0}),
]


@each_of(input_rows, *ONE_A_SCORER)
def test_input_is_ranked_or_refused_by_name(row: Row, door: Door, server: Loopback) -> None:
    play(row, door, server)


def test_more_documents_than_a_request_holds_are_ranked_by_two(
    door: Door, service: Service, server: Loopback
) -> None:
    texts = (f"{TEXT} score={place / 1_000}" for place in range(service.batch + 1))
    row = Row("many", items=items(*texts), options={"max_concurrency": 2}, requests=2)
    play(row, door, server)


@each_of(option_rows, *ONE_A_SCORER)
def test_an_option_that_cannot_be_used_is_refused_at_construction(row: Row, door: Door) -> None:
    assert row.raises is not None
    with pytest.raises(row.raises, match=row.naming):
        door.open(**row.options)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        pytest.param("\ud83d", "\ufffd", id="half a pair"),
        pytest.param("\udc27\ud83d", "\ufffd\ufffd", id="halves in the wrong order"),
        pytest.param("\ud83d\udc27", "🐧", id="both halves"),
    ],
)
def test_surrogates_are_sent_as_what_they_stand_for(
    door: Door, server: Loopback, given: str, sent: str
) -> None:
    odd = Item("odd", {"text": f"{TEXT} {given} score=0.7"})
    ranked = door.rank([*ITEMS, odd], f"{QUERY} {given}")
    assert [item.id for item in ranked] == ["high", "odd", "middle", "low"]
    assert ranked[1].fields == odd.fields
    (request,) = server.received
    assert request.query == f"{QUERY} {sent}"
    assert f"{TEXT} {sent} score=0.7" in request.documents


def test_equal_texts_are_sent_once(door: Door, server: Loopback) -> None:
    door.rank(items(*[f"{TEXT} score=0.5"] * 3))
    assert server.received[0].documents == [f"{TEXT} score=0.5"]


@behind(DASHSCOPE)
def test_a_document_over_the_item_limit_is_ranked_with_one_warning(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    long = Item("long", {"text": f"{TEXT} score=0.7{' word' * 10_000}"})
    ranked = door.rank([*ITEMS, long])
    assert [item.id for item in ranked] == ["high", "long", "middle", "low"]
    (warning,) = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert re.search("1 of 5 items .* 4000 tokens", warning)


def test_a_key_in_the_clear_to_another_machine_is_warned_of_once(
    door: Door, service: Service
) -> None:
    address = f"http://gateway-{uuid4()}.example/api/v1"  # that nothing has warned of yet
    with pytest.warns(UserWarning, match="http") as warned:
        door.open(**{service.address: address})
    door.shown += [str(warning.message) for warning in warned]
    assert len(warned) == 1


@behind(VLLM)
def test_the_environments_key_is_not_for_a_server_of_ones_own(
    door: Door, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
    server.key = None
    door.rank(api_key=None)
    assert "Authorization" not in server.received[0].headers

"""Queries and documents that are not as they should be, or that are unusual."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank import InvalidInputError
from qwen_rerank.scorers.base import sigmoid
from qwen_rerank.testing.loopback import Loopback
from tests.contract.entry_points import ITEMS, QUERY, TEXT, EntryPoint
from tests.contract.faces import Item
from tests.contract.rows import (
    Row,
    at_every_face,
    at_one_face,
    at_the_scorer,
    each_row,
    play,
)
from tests.contract.services import DASHSCOPE, TEI, VLLM, Service, with_service


def items(*texts: Any) -> list[Item]:
    return [Item(f"item-{index}", {"text": text}) for index, text in enumerate(texts)]


def refused(name: str, naming: str, **row: Any) -> Row:
    """Input that is refused before anything is sent."""
    return Row(name, raises=InvalidInputError, requests=0, naming=naming, **row)


BLANKS = [Item("missing"), *items(None, "", " \n\t\u3000")]
FIRST = Item("same", {"text": f"{TEXT} score=0.1"})
UNCOPYABLE = {"lock": threading.Lock(), "generator": (index for index in range(3))}

AT_EVERY_FACE = [
    Row("no documents", items=[], requests=0),
    Row("blank documents among others", items=[*BLANKS[:2], *ITEMS, *BLANKS[2:]], ranked=ITEMS),
    Row("only blank documents", items=BLANKS, ranked=[], requests=0),
    refused("query None", "query", query=None),
    refused("query 7", "query", query=7),
    refused("blank query without documents", "query", query=" \n", items=[]),
    Row("equal texts", items=items(*[f"{TEXT} score=0.5"] * 3)),
    Row("top_n less than the count", options={"top_n": 2}, ranked=ITEMS[1:]),
    Row("a number as the text", items=[*ITEMS, *items(1.5)], query="1.5"),
    refused("bytes as the text", "'item-0' is .*bytes", items=[*ITEMS, *items(b"x")]),
    Row("one id and one text twice", items=[FIRST, *ITEMS, FIRST], ranked=[FIRST, *ITEMS]),
    Row("one id and two texts", items=[FIRST, *ITEMS, Item("same", {"text": f"{TEXT} score=1"})]),
    Row(
        "metadata that cannot be copied",
        items=[Item("a", {"text": f"{TEXT} score=0.3", **UNCOPYABLE}), *ITEMS],
    ),
]

AT_ONE_FACE = [
    refused("query ''", "query", query=""),
    refused("query None without documents", "query", query=None, items=[]),
    Row("top_n greater than the count", options={"top_n": 50}),
    Row("top_n None", options={"top_n": None}),
    Row("the number 42 as the text", items=[*ITEMS, *items(42)], query="42"),
    Row("the number 0 as the text", items=[*ITEMS, *items(0)], query="0"),
    Row("a list as the text", items=[*ITEMS, *items([TEXT, "score=0.3"])]),
    Row(
        "texts in any script",
        items=items(
            f"{TEXT} NUL \0 score=0.1",
            f"{TEXT} 🐧👩\u200d👩\u200d👧 score=0.4",
            f"{TEXT} \u202eالبطريق פינגווין score=0.2",
            f"{TEXT} <|im_start|> e\u0301 企鹅 score=0.3",
        ),
    ),
]


@each_row(lambda service: AT_EVERY_FACE, DASHSCOPE)
@at_every_face
def test_every_face_ranks_input_or_refuses_it_by_name(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@each_row(lambda service: AT_ONE_FACE, DASHSCOPE)
@at_one_face
def test_unusual_input_is_ranked_or_refused_by_name(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


def long_documents(count: int) -> list[Item]:
    """Documents of a thousand tokens."""
    return items(*(f"{TEXT} score={index / 100}{' word' * 999}" for index in range(count)))


def rows_of_the_scorer(service: Service) -> Iterator[Row]:
    texts = (f"{TEXT} score={index / 1_000}" for index in range(service.batch + 1))
    in_two = {"options": {"max_concurrency": 2}, "requests": 2}
    yield Row("more documents than a request holds", items=items(*texts), **in_two)
    if service is DASHSCOPE:
        yield Row("over 30,000 tokens", items=long_documents(40), **in_two)
    if service is VLLM:
        yield from ROWS_OF_A_SERVER


LOGITS = (-900, 2.5, 0, 900)

ROWS_OF_A_SERVER = [
    Row("over 30,000 tokens", items=long_documents(31)),
    Row("a document over 4,000 tokens", items=items(f"{TEXT}{' word' * 10_000}")),
    Row(
        "batch_size less than the count",
        options={"batch_size": 2, "max_concurrency": 2},
        requests=2,
    ),
    Row("logits", items=items(*(f"{TEXT} score={score}" for score in (-8.25, 12.5, 0)))),
    Row(
        "logits to convert to probabilities",
        items=items(*(f"{TEXT} score={score}" for score in LOGITS)),
        options={"logits": True},
        transform=sigmoid,
    ),
]


@each_row(rows_of_the_scorer, DASHSCOPE, VLLM, TEI)
@at_the_scorer
def test_documents_of_any_number_and_length_are_scored(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@at_the_scorer
def test_a_document_over_the_item_limit_is_scored_with_one_warning(
    entry_points: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    long = Item("long", {"text": f"{TEXT} score=0.7{' word' * 10_000}"})
    for entry_point in entry_points:
        caplog.clear()
        ranked = entry_point.rank([*ITEMS, long])
        assert [item.id for item in ranked] == ["high", "long", "middle", "low"]
        warnings = [each.getMessage() for each in caplog.records if each.levelno > logging.INFO]
        assert len(warnings) == 1
        assert re.search("1 of 5 items .* 4000 tokens", warnings[0])


SURROGATES = {
    "half a pair": ("\ud83d", "\ufffd"),
    "halves in the wrong order": ("\udc27\ud83d", "\ufffd\ufffd"),
    "both halves": ("\ud83d\udc27", "🐧"),
}


@pytest.mark.parametrize(("text", "sent"), SURROGATES.values(), ids=list(SURROGATES))
@at_one_face
def test_surrogates_are_sent_as_what_they_stand_for(
    entry_points: list[EntryPoint], server: Loopback, text: str, sent: str
) -> None:
    _check_surrogates(entry_points, server, text, sent)


@at_every_face
def test_surrogates_do_no_harm_at_any_face(
    entry_points: list[EntryPoint], server: Loopback
) -> None:
    _check_surrogates(entry_points, server, *SURROGATES["half a pair"])


def _check_surrogates(
    entry_points: list[EntryPoint], server: Loopback, text: str, sent: str
) -> None:
    odd = Item("odd", {"text": f"{TEXT} {text} score=0.7"})
    for entry_point in entry_points:
        server.received.clear()
        ranked = entry_point.rank([*ITEMS, odd], f"{QUERY} {text}")
        assert [item.id for item in ranked] == ["high", "odd", "middle", "low"]
        assert ranked[1].fields == odd.fields
        (request,) = server.received
        assert request.query == f"{QUERY} {sent}"
        assert f"{TEXT} {sent} score=0.7" in request.documents


@with_service(DASHSCOPE, VLLM, TEI)
@at_one_face
def test_equal_texts_are_sent_once(entry_points: list[EntryPoint], server: Loopback) -> None:
    for entry_point in entry_points:
        entry_point.rank(items(*[f"{TEXT} score=0.5"] * 3))
    assert [request.documents for request in server.received] == [[f"{TEXT} score=0.5"]] * 2

"""Responses that are not a complete ranking."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qwen_rerank import BadResponseError
from qwen_rerank.testing.faults import edits, packs, rewrites, says, streams
from qwen_rerank.testing.loopback import Fault, Loopback
from tests.contract.entry_points import KEY, EntryPoint
from tests.contract.rows import Row, at_the_scorer, each_row, play
from tests.contract.services import DASHSCOPE, TEI, VLLM, Service

Edit = Callable[[list[Any]], object]

LONG_KEY = f"{KEY}{'0' * 41}"  # 16 times in a thousand characters, and most of a 17th


def rejected(name: str, fault: Fault, naming: str) -> Row:
    """A response that is useless, and that is not asked for again."""
    return Row(name, faults=[fault], raises=BadResponseError, naming=naming)


def shaped(name: str, body: Any, naming: str) -> Row:
    """A response of another shape."""
    return rejected(name, says(json.dumps(body)), naming)


def edited(name: str, edit: Edit, naming: str) -> Row:
    """A response whose results were changed."""
    return rejected(f"results {name}", edits(edit), naming)


def not_utf8(response: bytes) -> bytes:
    return response.replace(b"{", b'{"\xff": 0, ', 1)


UNREADABLE = [
    rejected("HTML", says(f"<html>{KEY}", content_type="text/html"), "Invalid JSON.*<html>"),
    rejected("nothing", says(""), "Invalid JSON"),
    rejected("truncated", rewrites(lambda text: text[: len(text) // 2]), "Invalid JSON"),
    rejected("deep", says("[" * 200_000), "Invalid JSON"),
    rejected("not UTF-8", rewrites(not_utf8), "Invalid JSON.*utf-8"),
    rejected("a bomb", packs(b" " * (1 << 26)), "16 MiB"),
    Row(
        "the key again and again",
        options={"api_key": LONG_KEY},
        faults=[says(LONG_KEY * 20)],
        raises=BadResponseError,
        naming="Invalid JSON",
    ),
]

INCOMPLETE = [
    edited("empty", list.clear, "0 scores for 3 documents: 3 missing"),
    edited("too many", lambda results: results.append({**results[0], "index": 3}), "not sent"),
    edited("twice", lambda results: results.append(results[0]), "1 repeated"),
    edited("of one for another", lambda results: results[0].update(results[1]), "1 missing.*1 rep"),
    edited("of index -1", lambda results: results[0].update(index=-1), "1 missing, 1 of documents"),
    edited("of index 3", lambda results: results[0].update(index=3), "1 missing, 1 of documents"),
]

EVERY_DIALECT = [
    rejected("not JSON", says(f"Sorry, {KEY}!"), r"Invalid JSON.*Sorry, \*\*\*!"),
    shaped("a list", [KEY], "ranking: 0: expected an object"),
    shaped("null", None, "ranking: body: expected a list"),
    shaped("a text", KEY, "ranking: body: expected a list"),
    edited("short", list.pop, "2 scores for 3 documents: 1 missing"),
]

DASHSCOPE_SHAPES = [
    shaped("no output", {"request_id": "r"}, r"ranking: output\.results: "),
    shaped("output null", {"output": None}, r"ranking: output\.results: "),
    shaped("no results", {"output": {}}, r"ranking: output\.results: "),
    *(
        shaped(
            f"a score of {score}",
            DASHSCOPE.response([{"index": 0, "relevance_score": score}]),
            "expected a number from 0 to 1",
        )
        for score in (-0.01, 1.01)
    ),
]

SERVER_SHAPES = [
    shaped("no results", {}, "ranking: results: "),
    shaped("nothing but results in a list", [{"results": []}], r"ranking: 0\.index: "),
]


def whatever_the_dialect(service: Service) -> Iterator[Row]:
    yield from (*UNREADABLE, *INCOMPLETE)


def of_the_dialect(service: Service) -> Iterator[Row]:
    """What the dialect has to notice; tests/scorers/http/test_dialects.py has more values."""
    score, where = service.server.score, f"ranking: {service.path()}: "
    yield from EVERY_DIALECT
    yield edited("of a text", lambda results: results.append(KEY), f"{service.path(3)}: ")
    yield edited("of null", lambda results: results.append(None), f"{service.path(3)}: ")
    yield without(service, "index", named="index")
    yield without(service, score, named="relevance_score")  # whatever this service calls it
    yield from (first(service, "index", value) for value in (KEY, None))
    yield from (first(service, score, value) for value in (KEY, math.nan))
    if service.results:
        yield shaped("the key as the id", {**service.response([]), **IDS}, r"0 scores.*=\*\*\*")
        yield shaped("results null", service.response(None), where)
        yield shaped("results an object", service.response({}), where)
    if service is DASHSCOPE:
        yield from DASHSCOPE_SHAPES
    else:
        yield from SERVER_SHAPES
        yield first(service, score, -1e6)  # which llama.cpp gives a text that it failed on


IDS = {"id": KEY, "request_id": KEY}


def first(service: Service, key: str, value: Any) -> Row:
    """The first result has this value."""
    where = f"ranking: {service.path(0, key)}: "
    return edited(f"of {key} {value!r}", lambda results: results[0].update({key: value}), where)


def without(service: Service, key: str, *, named: str) -> Row:
    """The first result lacks a value."""
    where = f"ranking: {service.path(0, named)}: missing"
    return edited(f"without {key}", lambda results: results[0].pop(key), where)


@each_row(whatever_the_dialect, DASHSCOPE)
@at_the_scorer
def test_a_response_that_is_unreadable_or_incomplete_is_an_error(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@each_row(of_the_dialect, DASHSCOPE, VLLM, TEI)
@at_the_scorer
def test_a_response_that_breaks_the_dialect_is_an_error(
    row: Row, entry_points: list[EntryPoint], server: Loopback
) -> None:
    play(row, entry_points, server)


@pytest.mark.parametrize("service", [DASHSCOPE, VLLM, TEI], ids=str, indirect=True)
@at_the_scorer
def test_results_can_come_in_any_order(entry_points: list[EntryPoint], server: Loopback) -> None:
    play(Row("unsorted", faults=[edits(list.reverse)]), entry_points, server)


def test_an_endless_response_is_abandoned(entry_point: EntryPoint, server: Loopback) -> None:
    play(rejected("endless", streams(b" " * (1 << 18)), "16 MiB"), [entry_point], server)
    assert server.disconnected.wait(25)

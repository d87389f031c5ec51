"""Answers that are not a whole ranking, through all six doors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from qwen_rerank import BadResponseError
from tests.contract.doors import KEY, Door
from tests.contract.matrix import Row, each_of, play
from tests.contract.services import DASHSCOPE, Service
from tests.support.loopback import Fault, Loopback, edits, packs, rewrites, says, streams

Edit = Callable[[list[Any]], object]

LONG_KEY = f"{KEY}{'0' * 41}"  # 16 times in a thousand characters, and most of a 17th


def refused(name: str, fault: Fault, naming: str) -> Row:
    """An answer that is of no use, and asked for only once."""
    return Row(name, faults=[fault], raises=BadResponseError, naming=naming)


def shaped(name: str, body: Any, naming: str) -> Row:
    """An answer of another shape."""
    return refused(name, says(json.dumps(body)), naming)


def results(name: str, edit: Edit, naming: str) -> Row:
    """An answer with results that are edited."""
    return refused(f"results {name}", edits(edit), naming)


def not_utf8(answer: bytes) -> bytes:
    return answer.replace(b"{", b'{"\xff": 0, ', 1)


ANSWERS = [
    refused("no JSON", says(f"Sorry, {KEY}!"), r"Invalid JSON.*Sorry, \*\*\*!"),
    refused("HTML", says(f"<html>{KEY}", content_type="text/html"), "Invalid JSON.*<html>"),
    refused("nothing", says(""), "Invalid JSON"),
    refused("truncated", rewrites(lambda answer: answer[: len(answer) // 2]), "Invalid JSON"),
    refused("deep", says("[" * 200_000), "Invalid JSON"),
    refused("no UTF-8", rewrites(not_utf8), "Invalid JSON.*utf-8"),
    refused("a bomb", packs(b" " * (1 << 26)), "16 MiB"),
    shaped("a list", [KEY], "ranking: 0: expected an object"),
    shaped("null", None, "ranking: body: expected a list"),
    shaped("a text", KEY, "ranking: body: expected a list"),
    results("empty", list.clear, "0 scores for 3 documents: 3 missing"),
    results("short", list.pop, "2 scores for 3 documents: 1 missing"),
    results("too many", lambda found: found.append({**found[0], "index": 3}), "not sent"),
    results("twice", lambda found: found.append(found[0]), "1 repeated"),
    results("of one for another", lambda found: found[0].update(found[1]), "1 missing.*1 rep"),
    results("of index -1", lambda found: found[0].update(index=-1), "1 missing, 1 of documents"),
    results("of index 3", lambda found: found[0].update(index=3), "1 missing, 1 of documents"),
    Row(
        "the key again and again",
        options={"api_key": LONG_KEY},
        faults=[says(LONG_KEY * 20)],
        raises=BadResponseError,
        naming="Invalid JSON",
    ),
]

DASHSCOPES_ANSWERS = [
    shaped("no output", {"request_id": "r"}, r"ranking: output\.results: "),
    shaped("output null", {"output": None}, r"ranking: output\.results: "),
    shaped("no results", {"output": {}}, r"ranking: output\.results: "),
    *(
        shaped(
            f"a score of {score}",
            DASHSCOPE.answer([{"index": 0, "relevance_score": score}]),
            "expected a number from 0 to 1",
        )
        for score in (-0.01, 1.01)
    ),
]

SERVERS_ANSWERS = [
    shaped("no results", {}, "ranking: results: "),
    shaped("nothing but results in a list", [{"results": []}], r"ranking: 0\.index: "),
]


def named_by_the_key(service: Service) -> dict[str, Any]:
    """A short answer, of which the key is the id."""
    return {**service.answer([]), "id": KEY, "request_id": KEY}


def answer_rows(service: Service) -> Iterator[Row]:
    score, where = service.server.score, f"ranking: {service.place()}: "
    yield from ANSWERS
    yield results("of a text", lambda found: found.append(KEY), f"{service.place(3)}: ")
    yield results("of null", lambda found: found.append(None), f"{service.place(3)}: ")
    yield without(service, "index", named="index")
    yield without(service, score, named="relevance_score")  # whatever this service calls it
    yield from (first(service, "index", value) for value in (KEY, "0", 0.5, None, True))
    yield from (first(service, score, value) for value in (KEY, "0.5", None, math.nan, math.inf))
    if service.results:
        yield shaped("the key for an id", named_by_the_key(service), r"0 scores.*=\*\*\*")
        yield shaped("results null", service.answer(None), where)
        yield shaped("results an object", service.answer({}), where)
    if service is DASHSCOPE:
        yield from DASHSCOPES_ANSWERS
    else:
        yield from SERVERS_ANSWERS
        yield first(service, score, -1e6)  # which llama.cpp gives a text that it failed on


def first(service: Service, key: str, value: Any) -> Row:
    """The first result has this value."""
    where = f"ranking: {service.place(0, key)}: "
    return results(f"of {key} {value!r}", lambda found: found[0].update({key: value}), where)


def without(service: Service, key: str, *, named: str) -> Row:
    """The first result lacks a value."""
    where = f"ranking: {service.place(0, named)}: missing"
    return results(f"without {key}", lambda found: found[0].pop(key), where)


@each_of(answer_rows)
def test_an_answer_that_is_not_a_whole_ranking_is_refused(
    row: Row, door: Door, server: Loopback
) -> None:
    play(row, door, server)


def test_an_answer_that_is_not_sorted_is_put_right(door: Door, server: Loopback) -> None:
    play(Row("unsorted", faults=[edits(list.reverse)]), door, server)


def test_an_endless_answer_is_refused_before_its_end(door: Door, server: Loopback) -> None:
    play(refused("endless", streams(b" " * (1 << 18)), "16 MiB"), door, server)
    assert server.disconnected.wait(10)

"""Answers that are not a whole ranking, through all six doors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from qwen_rerank import BadResponseError
from tests.contract.doors import KEY, Door
from tests.contract.matrix import Row, each_of, play
from tests.support.loopback import Fault, LoopbackDashScope, edits, packs, says, streams

Edit = Callable[[list[Any]], object]

LONG_KEY = f"{KEY}{'0' * 41}"  # 16 times in a thousand characters, and most of a 17th
RESULTS = [{"index": place, "relevance_score": 0.5} for place in range(3)]
WHOLE = json.dumps({"output": {"results": RESULTS}, "request_id": "r"})
NO_UTF8 = WHOLE.encode().replace(b'"r"', b'"\xff"')


def refused(name: str, fault: Fault, naming: str) -> Row:
    """An answer that is of no use, and asked for only once."""
    return Row(name, faults=[fault], raises=BadResponseError, naming=naming)


def shaped(name: str, body: Any, naming: str) -> Row:
    """An answer of another shape."""
    return refused(name, says(json.dumps(body)), naming)


def results(name: str, edit: Edit, naming: str) -> Row:
    """An answer with results that are edited."""
    return refused(f"results {name}", edits(edit), naming)


def first(key: str, value: Any) -> Row:
    """The first result has this value."""
    where = rf"output\.results\.0\.{key}: "
    return results(f"of {key} {value!r}", lambda found: found[0].update({key: value}), where)


def without(key: str) -> Row:
    """The first result lacks a value."""
    return results(f"without {key}", lambda found: found[0].pop(key), rf"results\.0\.{key}: ")


ANSWERS = [
    refused("no JSON", says(f"Sorry, {KEY}!"), r"Invalid JSON.*Sorry, \*\*\*!"),
    refused("HTML", says(f"<html>{KEY}", content_type="text/html"), "Invalid JSON.*<html>"),
    refused("nothing", says(""), "Invalid JSON"),
    refused("truncated", says(WHOLE[:-40]), "Invalid JSON"),
    refused("deep", says("[" * 200_000), "Invalid JSON"),
    refused("no UTF-8", says(NO_UTF8), "Invalid JSON.*unicode"),
    refused("a bomb", packs(b" " * (1 << 26)), "16 MiB"),
    shaped("a list", [KEY], "should be an object"),
    shaped("null", None, "should be an object"),
    shaped("a text", KEY, "should be an object"),
    shaped("no output", {"request_id": "r"}, "ranking: output: "),
    shaped("output null", {"output": None}, "ranking: output: "),
    shaped("output a list", {"output": []}, "ranking: output: "),
    shaped("no results", {"output": {}}, r"ranking: output\.results: "),
    shaped("results null", {"output": {"results": None}}, r"ranking: output\.results: "),
    shaped("results an object", {"output": {"results": {}}}, r"ranking: output\.results: "),
    shaped("results empty", {"output": {"results": []}}, "0 scores for 3 documents: 3 missing"),
    shaped("usage a number", {"output": {"results": []}, "usage": 7}, "ranking: usage: "),
    results("short", lambda found: found.pop(), "2 scores for 3 documents: 1 missing"),
    results("too many", lambda found: found.append({**found[0], "index": 3}), "not sent"),
    results("twice", lambda found: found.append(found[0]), "1 repeated"),
    results("of one for another", lambda found: found[0].update(found[1]), "1 missing.*1 rep"),
    results("of a text", lambda found: found.append(KEY), r"output\.results\.3: "),
    results("of null", lambda found: found.append(None), r"output\.results\.3: "),
    results("of index -1", lambda found: found[0].update(index=-1), "1 missing, 1 of documents"),
    results("of index 3", lambda found: found[0].update(index=3), "1 missing, 1 of documents"),
    *(first("index", value) for value in (KEY, "0", 0.5, None, True)),
    *(first("relevance_score", value) for value in (KEY, "0.5", None, math.nan, math.inf)),
    without("index"),
    without("relevance_score"),
    Row(
        "the key again and again",
        options={"api_key": LONG_KEY},
        faults=[says(LONG_KEY * 20)],
        raises=BadResponseError,
        naming="Invalid JSON",
    ),
]


@each_of(ANSWERS)
def test_an_answer_that_is_not_a_whole_ranking_is_refused(
    row: Row, door: Door, service: LoopbackDashScope
) -> None:
    play(row, door, service)


def test_an_answer_that_is_not_sorted_is_put_right(door: Door, service: LoopbackDashScope) -> None:
    play(Row("unsorted", faults=[edits(lambda found: found.reverse())]), door, service)


def test_an_endless_answer_is_refused_before_its_end(
    door: Door, service: LoopbackDashScope
) -> None:
    play(refused("endless", streams(b" " * (1 << 18)), "16 MiB"), door, service)
    assert service.disconnected.wait(10)

"""Reading a record's text: one field, several, format strings, functions; what values look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import EmbeddedScorer, InvalidInputError, Record, RerankEngine
from qwen_rerank.inputs.values import NoTextError, as_text
from tests.support.interpreter import python
from tests.support.records import read_item

FIELDS = {
    "title": "A <b>bold</b> title",
    "content": "first line\n  second line",
    "year": 1999,
    "price": 12.5,
    "day": date(2024, 2, 29),
    "note": " ",
    "score": math.nan,
    "tags": ["a", None, "b"],
    "raw": b"x",
}


def text(rerank_field: Any, fields: dict[str, Any] = FIELDS) -> Any:
    """What is read of a record with these fields."""
    return read_item(rerank_field, Record("a", fields))


# --- Values


class Colour(str, Enum):  # noqa: UP042 (its str is another than its value)
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Own:
    """Has a text for people, which nobody meant for a model."""

    def __str__(self) -> str:
        return "own"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (" as it\nis ", " as it\nis "),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
        (Decimal("1.10"), "1.10"),
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "2024-02-29T12:30:00+00:00"),
        (time(12, 30), "12:30:00"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Colour.RED, "red"),
        (Level.HIGH, "3"),
        (["a", 1, True], "a, 1, true"),
        (("a", None, " ", math.nan, "b"), "a, b"),
        ({10, 9, math.nan}, "9, 10"),
        pytest.param(frozenset("cab"), "a, b, c", id="a set of texts"),
        ({"b", 1}, "1, b"),
        ({"name": "Ann", "age": 7, "pet": None}, "name: Ann, age: 7"),
        ([{"name": "Ann", "age": 7}, {"name": "Bob"}], "name: Ann, age: 7; name: Bob"),
        ({"names": ["Ann", "Bob"], "year": 1999}, "names: Ann, Bob; year: 1999"),
    ],
)
def test_a_value_is_written_as_people_write_it(value: Any, written: str) -> None:
    assert as_text(value) == written
    assert type(as_text(value)) is str


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (numpy.bool_(True), "true"),
        (numpy.int64(7), "7"),
        (numpy.float32(0.1), "0.1"),
        (numpy.str_("a"), "a"),
        (numpy.datetime64("2024-02-29"), "2024-02-29"),
        (numpy.array(["a", "b"]), "a, b"),
        (numpy.array([[1, 2], [3, 4]]), "1, 2; 3, 4"),
        (numpy.array(5), "5"),
    ],
)
def test_what_numpy_holds_is_written_as_what_it_stands_for(value: Any, written: str) -> None:
    assert as_text(value) == written


def test_what_a_data_frame_holds_is_written_as_what_it_stands_for() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "n": pandas.array([1, None], dtype="Int64"),
            "t": pandas.to_datetime(["2024-02-29 12:30", None]),
            "b": [True, False],
            "s": ["a", None],
        }
    )
    written = [list(map(as_text, row)) for row in frame.itertuples(index=False)]
    assert written == [["1", "2024-02-29T12:30:00", "true", "a"], ["", "", "false", ""]]
    assert as_text([pandas.NA, pandas.NaT]) == ""


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        math.nan,
        -math.nan,
        Decimal("NaN"),
        Decimal("sNaN"),
        numpy.float32("nan"),
        numpy.datetime64("NaT", "s"),
        [],
        {},
        [None, [math.nan, {"a": None}]],
    ],
)
def test_what_is_missing_is_an_empty_text(value: Any) -> None:
    assert as_text(value) == ""


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


def doubled(value: Any, times: int) -> Any:
    """A list that holds the value twice, and so on: small, but its text is not."""
    for _ in range(times):
        value = [value, value]
    return value


def frozen(depth: int) -> Any:
    """Sets in sets."""
    value: Any = "a"
    for _ in range(depth):
        value = frozenset([value])
    return value


def test_sets_in_sets_are_read_once_each() -> None:
    assert as_text(frozen(100)) == "a"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"x", "of type bytes"),
        (timedelta(1), "of type timedelta"),
        (Own(), "of type Own"),
        ({"a": [Own()]}, "of type dict and holds a value of type Own"),
        ([10**5_000], "of type list and holds a value of type int"),
        (ENDLESS, "of type list and nested more than 100 levels deep"),
        (doubled("a", 30), "of type list and holds more than 100,000 values"),
        (doubled("a" * 10**6, 30), "of type list and holds more than 100,000,000 characters"),
        (frozen(101), "of type frozenset and nested more than 100 levels deep"),
    ],
)
def test_anything_else_has_no_text(value: Any, named: str) -> None:
    with pytest.raises(NoTextError, match=f"^{named}$"):
        as_text(value)
    with pytest.raises(InvalidInputError, match=f"^x of record 'a' is {named}, not text"):
        text("x", {"x": value})


def test_numpy_and_pandas_are_not_imported_for_it() -> None:
    code = (
        "import sys\n"
        "from qwen_rerank.inputs.values import NoTextError, as_text\n"
        "try:\n    as_text(object())\n"
        "except NoTextError:\n    print(sorted({'numpy', 'pandas'} & set(sys.modules)))\n"
    )
    assert python(code) == ("[]\n", "")


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.decimals()
)
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(nested)
def test_all_that_json_and_yaml_can_hold_has_a_text(value: Any) -> None:
    assert isinstance(as_text(value), str)


@given(st.sets(st.integers() | st.text() | st.floats() | st.none()), st.randoms())
def test_a_set_has_one_text_whatever_the_order_of_its_members(members: Any, random: Any) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)
    assert as_text(dict.fromkeys(shuffled).keys()) == as_text(members)


# --- One field, and several


@pytest.mark.parametrize(
    ("rerank_field", "read"),
    [
        ("title", FIELDS["title"]),
        (["title"], FIELDS["title"]),
        ("year", "1999"),
        ("tags", "a, b"),
        ("note", None),
        ("score", None),
        (["note", "gone", "score"], None),
        (["year", "note", "title", "gone"], "year: 1999\ntitle: A <b>bold</b> title"),
        (("content", "tags"), "content: first line\n  second line\ntags: a, b"),
    ],
)
def test_one_field_is_its_value_and_several_are_lines_with_their_names(
    rerank_field: Any, read: str | None
) -> None:
    assert text(rerank_field) == read


names = st.text(st.characters(exclude_characters="{}"), min_size=1, max_size=5)


@given(st.lists(names, min_size=2, max_size=6), st.dictionaries(names, scalars))
def test_there_is_a_line_in_the_given_order_for_each_field_that_is_there(
    asked: list[str], fields: dict[str, Any]
) -> None:
    texts = [(name, as_text(fields.get(name)).strip()) for name in asked]
    lines = "\n".join(f"{name}: {found}" for name, found in texts if found)
    read = read_item(asked, Record("a", dict.fromkeys(asked) | fields))
    assert (read or "") == lines.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- Format strings


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("{title}\n{content}", f"{FIELDS['title']}\n{FIELDS['content']}"),
        ("{year}: {tags} {{{gone}{note}}}", "1999: a, b { }"),
        ("{price:.2f} EUR, {day:%d %B %Y}, {score:.2f}", "12.50 EUR, 29 February 2024, "),
        ("{gone}, {note}, {score:.2f}", None),
        ("{year:>6}", "  1999"),
    ],
)
def test_a_format_string_is_filled_in(template: str, read: str | None) -> None:
    assert text(template) == read


@given(st.lists(st.tuples(st.text(), st.sampled_from("abc")), min_size=1), st.text(), st.data())
def test_a_format_string_of_texts_is_what_str_format_makes_of_it(
    parts: list[tuple[str, str]], end: str, data: st.DataObject
) -> None:
    fields = {name: data.draw(st.text("xyzé \n", min_size=1)) + "." for name in "abc"}
    quoted = [before.replace("{", "{{").replace("}", "}}") for before, _ in parts]
    template = "".join(
        f"{before}{{{name}}}" for before, (_, name) in zip(quoted, parts, strict=True)
    ) + end.replace("{", "{{").replace("}", "}}")
    expected = template.format_map(fields)
    read = read_item(template, Record("a", fields))
    assert read == expected.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{title.upper}", r"\{title\.upper\}"),
        ("{tags[0]}", r"\{tags\[0\]\}"),
        ("{title!r}", r"\{title!r\}"),
        ("{price:{width}}", r"\{price:\{width\}\}"),
        ("{}", r"\{\}"),
        ("{0}", r"\{0\}"),
        ("{ title }", r"\{ title \}"),
        ("{title", "expected '}'"),
        ("title}", "Single '}'"),
        ("{{title}}", "does not name a field"),
    ],
)
def test_a_format_string_of_anything_but_names_is_refused_when_it_is_given(
    template: str, named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"rerank_field .*{named}"):
        read_item(template, Record("a", {"x": "y"}))


@pytest.mark.parametrize("template", ["{title:.2f}", "{tags:>5}", "{year:c}", "{raw}"])
def test_a_value_that_a_format_does_not_fit_is_refused_and_named(template: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^(title|tags|year|raw) of record 'a'"):
        text(template, {**FIELDS, "year": 10**10})


@pytest.mark.parametrize("rerank_field", ["gone", ["gone", "lost"], "{gone}: {lost}"])
def test_fields_that_no_record_has_are_an_error_that_lists_the_fields_there_are(
    rerank_field: Any,
) -> None:
    with pytest.raises(InvalidInputError, match=r"None of the 1 records has .*'gone'.*'content'"):
        text(rerank_field)


def test_records_without_the_field_are_logged_with_the_fields_there_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = [Record("a", {"body": "x"}), Record("b", {"title": "y"}), Record("c", {"body": ""})]
    engine = RerankEngine(EmbeddedScorer(), rerank_field="body")
    assert engine.candidates(records).items == ["x", None, None]
    assert caplog.messages == [
        "1 of 3 records do not have the field 'body'. Their fields: 'title'."
    ]


# --- Functions


@pytest.mark.parametrize(
    ("function", "read"),
    [
        (lambda record: record.id * 2, "aa"),
        (lambda record: record.fields["tags"], "a, b"),
        (lambda record: None, None),
        (lambda record: "\n", None),
    ],
)
def test_a_function_reads_the_text(function: Callable[[Record], Any], read: str | None) -> None:
    assert text(function) == read


@pytest.mark.parametrize(
    "rerank_field", ["", None, [], ["a", 3], ["a", ""], ["a", "{b}"], 5, {"a": "b"}, [None]]
)
def test_what_names_no_field_is_refused(rerank_field: Any) -> None:
    with pytest.raises(InvalidInputError, match="rerank_field"):
        read_item(rerank_field, Record("a", {"x": "y"}))

"""The engine: order, ties, dedup, texts, thresholds; nothing lost, nothing sent in vain."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import (
    BadResponseError,
    InvalidInputError,
    QwenRerankError,
    Ranking,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    ServiceError,
    Usage,
)


class LengthScorer(Scorer):
    """Scores a text by its length, and remembers what it was sent."""

    model = "length"

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent.append(list(texts))
        return Scores([float(len(text)) for text in texts], Usage(texts_sent=len(texts)))


class FixedScorer(Scorer):
    """Gives the same values whatever comes."""

    model = "fixed"

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores(self.values)


def engine(scorer: Any = None, **options: Any) -> RerankEngine:
    options.setdefault("rerank_field", "text")
    return RerankEngine(scorer or LengthScorer(), **options)


def records(*texts: Any) -> list[Record]:
    return [Record(str(index), {"text": text}) for index, text in enumerate(texts)]


@pytest.mark.parametrize("given", [["a text"], "a text", [records("a")[0], None], {"one": ["a"]}])
def test_what_is_no_record_is_refused_before_anything_is_sent(given: Any) -> None:
    scorer = LengthScorer()
    with pytest.raises(InvalidInputError, match="records must be Records, got "):
        engine(scorer).rerank("q", given)
    assert scorer.sent == []


def ids(ranking: Ranking) -> list[str]:
    return [record.id for record in ranking]


some_records = st.lists(
    st.builds(
        Record,
        id=st.text("abcdef", min_size=1, max_size=1),
        fields=st.fixed_dictionaries({"text": st.text(" xy", max_size=3) | st.none()}),
        score=st.none() | st.floats(0, 1),
    ),
    max_size=15,
)


@given(some_records, st.none() | st.integers(1, 8), st.sampled_from(["skip", "keep"]))
def test_what_comes_out_is_each_id_and_text_once_in_a_stable_order(
    candidates: list[Record], top_n: int | None, missing: Any
) -> None:
    ranking = engine(missing=missing).rerank("q", candidates, top_n)

    def text(record: Record) -> str:
        return (record.fields["text"] or "").strip() and record.fields["text"]

    texted = {(record.id, text(record)): record for record in reversed(candidates)}
    first = sorted((r for r in texted.values() if text(r)), key=candidates.index)
    with_text = {record.id for record in first}
    textless = {r.id: r for r in reversed(candidates) if r.id not in with_text}
    kept = sorted(textless.values(), key=candidates.index)
    expected = sorted(first, key=lambda record: -len(record.fields["text"]))
    expected += kept if missing == "keep" else []
    assert ids(ranking) == [record.id for record in expected][:top_n]
    assert ranking.skipped == (len(kept) if missing == "skip" else 0)
    assert ranking.duplicates == len(candidates) - len(first) - len(kept)
    assert [record.score for record in ranking] == [
        float(len(record.fields["text"])) if record in first else None for record in expected
    ][:top_n]


@given(some_records)
def test_sync_and_async_agree(candidates: list[Record]) -> None:
    ranking = engine().rerank("q", candidates)
    assert asyncio.run(engine().arerank("q", candidates)).records == ranking.records


def test_equal_texts_are_sent_once_and_share_the_score() -> None:
    scorer = LengthScorer()
    ranking = engine(scorer).rerank("q", records("same", "longer", "same", "same"))
    assert scorer.sent == [["same", "longer"]]
    assert ids(ranking) == ["1", "0", "2", "3"]
    assert (ranking.usage.texts_sent, ranking.usage.duplicate_texts) == (2, 2)


def test_the_records_passed_in_are_unchanged() -> None:
    candidates = [Record("a", {"text": "x"}, score=0.7)]
    ranking = engine().rerank("q", candidates)
    assert candidates == [Record("a", {"text": "x"}, score=0.7)]
    assert ranking[0] == Record("a", {"text": "x"}, score=1.0)


def test_a_ranking_is_a_sequence() -> None:
    ranking = engine().rerank("q", records("a", "bbb", "cc"))
    assert (len(ranking), ranking[0].id, ranking[-1].id) == (3, "1", "0")
    assert [record.id for record in ranking[:2]] == ["1", "2"]
    assert ranking[0] in ranking


@pytest.mark.parametrize("candidates", [[], records("", "  \n", None)])
def test_nothing_to_score_is_an_empty_answer_without_a_request(candidates: list[Record]) -> None:
    scorer = LengthScorer()
    ranking = engine(scorer).rerank("q", candidates)
    assert (ids(ranking), ranking.skipped, scorer.sent) == ([], len(candidates), [])
    assert ranking.usage == Usage()


@pytest.mark.parametrize(
    ("candidates", "warned"),
    [
        (records("", None), ["None of 2 documents has a text to rank: check rerank_field."]),
        (records("", "a"), []),
        ([], []),
    ],
)
def test_that_no_record_has_a_text_is_a_warning(
    caplog: pytest.LogCaptureFixture, candidates: list[Record], warned: list[str]
) -> None:
    engine().rerank("q", candidates)
    assert caplog.messages == warned


def test_records_without_text_are_kept_behind_the_others_unscored() -> None:
    candidates = [Record("a", {"text": " "}, 0.9), Record("b", {"text": "x"}), Record("c", {})]
    ranking = engine(missing="keep", min_score=0.5).rerank("q", candidates)
    assert ids(ranking) == ["b", "a", "c"]
    assert [record.score for record in ranking] == [1.0, None, None]
    assert ranking.skipped == 0


def test_records_without_text_can_be_an_error_that_names_the_first() -> None:
    scorer = LengthScorer()
    with pytest.raises(InvalidInputError, match=r"2 documents.*'1'"):
        engine(scorer, missing="error").rerank("q", records("x", "", None))
    assert scorer.sent == []


def test_records_that_score_less_than_min_score_are_left_out() -> None:
    assert ids(engine(min_score=2.0).rerank("q", records("a", "bb", "ccc"))) == ["2", "1"]


def test_a_function_can_read_the_text() -> None:
    scorer = LengthScorer()
    reader = engine(scorer, rerank_field=lambda record: record.id * 2)
    reader.rerank("q", [Record("ab", {})])
    assert scorer.sent == [["abab"]]


def test_arguments_that_were_swapped_are_not_quoted_whole() -> None:
    with pytest.raises(InvalidInputError, match="got str") as failure:
        engine().rerank(records("secret"), "q")  # type: ignore[arg-type]
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("query", ["", " \n", None, 7])
def test_a_blank_query_is_refused_before_anything_is_sent(query: Any) -> None:
    scorer = LengthScorer()
    with pytest.raises(InvalidInputError, match="query"):
        engine(scorer).rerank(query, records("a"))
    with pytest.raises(InvalidInputError, match="query"):
        engine(scorer).rerank(query, [])
    assert scorer.sent == []


@pytest.mark.parametrize("top_n", [0, -1, 1.5, "3", True])
def test_a_top_n_below_one_is_refused_before_anything_is_sent(top_n: Any) -> None:
    scorer = LengthScorer()
    with pytest.raises(InvalidInputError, match=f"top_n .* got {top_n!r}"):
        engine(scorer).rerank("q", records("a"), top_n)
    assert scorer.sent == []


class AsynchronousCallback:
    async def __call__(self, usage: Usage) -> None: ...


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scorer", "embedded"),
        ("usage_callback", "print"),
        ("usage_callback", asyncio.sleep),
        ("usage_callback", AsynchronousCallback()),
        ("missing", "drop"),
        ("min_score", math.nan),
        ("min_score", "0.5"),
        ("rerank_field", ""),
        ("rerank_field", None),
        ("rerank_field", []),
        ("rerank_field", ["a", 3]),
        ("rerank_field", 5),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_and_named(option: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=option):
        engine(**{option: value})


@pytest.mark.parametrize(
    "values",
    [
        None,
        10**400,
        [10**400, 1],
        [],
        [0.5],
        [0.5, 0.5, 0.5],
        [0.5, math.nan],
        [math.inf, 0.5],
        [0.5, None],
        [True, 0],
    ],
)
def test_scores_that_are_not_one_finite_number_a_text_are_an_error(values: list[Any]) -> None:
    with pytest.raises(BadResponseError, match="fixed returned"):
        engine(FixedScorer(values)).rerank("q", records("a", "b"))


@pytest.mark.parametrize(
    ("returned", "naming"),
    [
        ([0.5], "unwrapped returned list instead of Scores"),
        (None, "unwrapped returned NoneType instead of Scores"),
        (Scores(numpy.array([0.5])), r"unwrapped returned its scores as ndarray.* tolist\(\)"),
    ],
)
def test_what_a_scorer_should_have_returned_is_said(returned: Any, naming: str) -> None:
    class Unwrapped(Scorer):
        model = "unwrapped"

        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return returned

    with pytest.raises(BadResponseError, match=naming):
        engine(Unwrapped()).rerank("q", records("a"))


def test_records_without_an_id_are_different_records() -> None:
    candidates = [Record("", {"text": "a"}), Record("", {"text": "bb"})]
    assert [record.score for record in engine().rerank("q", candidates)] == [2.0, 1.0]


def test_usages_add_up() -> None:
    one = Usage(requests=1, tokens=10, texts_sent=3, duplicate_texts=1, retries=2, seconds=0.5)
    assert one + one == Usage(2, 20, 6, 2, 4, 1.0)
    assert sum([one, one, one], Usage()) == one + one + one


class Failing(Scorer):
    """Fails after tokens were billed."""

    model = "failing"

    def __init__(self, usage: Usage | None) -> None:
        self.usage = usage

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise ServiceError("Down.", usage=self.usage)


class Short(Scorer):
    """Returns a score too few, and a bill."""

    model = "short"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([0.5] * (len(texts) - 1), Usage(requests=1, tokens=7))


@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize(
    ("scorer", "billed"),
    [
        (Failing(Usage(requests=2, tokens=7)), [7]),
        (Failing(None), []),
        (Short(), [7]),
    ],
)
def test_what_a_failed_call_cost_is_reported(scorer: Scorer, billed: list[int], run: str) -> None:
    usages: list[Usage] = []
    failing = engine(scorer, usage_callback=usages.append)
    call = failing.rerank if run == "sync" else lambda *each: asyncio.run(failing.arerank(*each))
    with pytest.raises(QwenRerankError):
        call("q", records("a", "b"))
    assert [usage.tokens for usage in usages] == billed


class Threaded(dict[str, Any]):
    """Keeps the threads that read it."""

    threads: ClassVar[set[threading.Thread]] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.threads.add(threading.current_thread())
        return super().get(key, default)


def test_several_fields_are_not_read_in_the_event_loop() -> None:
    """One of them may hold a long list, which takes milliseconds to write as text."""
    reranker = RerankEngine(LengthScorer(), rerank_field=["title", "tags"])
    records = [Record("a", Threaded(title="t", tags=["x"] * 1_000))]
    assert len(asyncio.run(reranker.arerank("q", records))) == 1
    assert Threaded.threads
    assert threading.current_thread() not in Threaded.threads

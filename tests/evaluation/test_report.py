"""Reports: the measures, the comparisons, and every form in which they are shown."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import ir_measures
import numpy as np
import pandas
import pytest
from ir_measures import AP, RR, Measure, P, nDCG

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import Report, compare, perfect

JUDGEMENTS = {
    "q1": {"a": 3, "b": 1},
    "q2": {"c": 1},
    "q3": {"d": 2},
    "q4": {"a": 1},
}
BEFORE = {"q1": ["x", "a", "b"], "q2": ["c", "x"], "q3": ["d"], "q4": ["x", "y", "a"]}
AFTER = {"q1": ["a", "b", "x"], "q2": ["x", "c"], "q3": ["d"], "q4": ["x", "a", "y"]}
RECIPROCAL_RANKS = {"before": [1 / 2, 1, 1, 1 / 3], "after": [1, 1 / 2, 1, 1 / 2]}


@pytest.fixture
def report() -> Report:
    return compare(
        {"before": BEFORE, "after": AFTER},
        JUDGEMENTS,
        measures=["RR", "nDCG@10"],
        queries={"q1": "one?", "q2": "two?", "q3": "three?", "q4": "four?"},
    )


def shuffled(seed: int) -> dict[str, dict[str, float]]:
    draw = random.Random(seed)
    return {query_id: {document: draw.random() for document in "abcdxy"} for query_id in JUDGEMENTS}


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("nDCG@10", nDCG @ 10),
        ("MRR", RR),
        ("P(rel=2)@5", P(rel=2) @ 5),
        ("AP", AP),
    ],
)
def test_the_means_are_those_of_ir_measures(name: str, measure: Measure) -> None:
    report = compare({"run": shuffled(1)}, JUDGEMENTS, measures=[name])
    expected = ir_measures.calc_aggregate([measure], JUDGEMENTS, shuffled(1))[measure]
    assert report.mean(report.measures[0], "run") == pytest.approx(expected)
    assert compare({"run": shuffled(1)}, JUDGEMENTS, measures=[measure]).values == report.values


def test_ties_count_in_the_order_of_the_run_not_by_id() -> None:
    for ranking in ({"a": 0.5, "z": 0.5}, {"z": 0.5, "a": 0.5}):
        report = compare({"run": {"q4": ranking}}, {"q4": {"a": 1}}, measures=["RR"])
        assert report.mean("RR", "run") == 1 / (1 + list(ranking).index("a"))


def test_judgements_may_be_rows_of_ir_measures(report: Report) -> None:
    rows = [
        ir_measures.Qrel(query_id, document_id, gain)
        for query_id, gains in JUDGEMENTS.items()
        for document_id, gain in gains.items()
    ]
    assert compare({"run": AFTER}, rows, measures=["RR"]).mean("RR", "run") == 3 / 4


def test_contradictory_rows_are_refused() -> None:
    rows = [ir_measures.Qrel("q1", "a", gain) for gain in (1, 1, 2)]
    assert compare({"run": AFTER}, rows[:2], measures=["RR"]).mean("RR", "run") == 1
    with pytest.raises(InvalidInputError, match="'a' has more than one relevance"):
        compare({"run": AFTER}, rows)


@pytest.mark.parametrize("made", [list, iter, pandas.DataFrame], ids=["list", "iter", "frame"])
def test_a_run_may_be_rows_of_ir_measures_or_a_data_frame(made: Callable[[Any], Any]) -> None:
    rows = [
        ir_measures.ScoredDoc(query_id, document_id, score)
        for query_id, ranking in shuffled(1).items()
        for document_id, score in ranking.items()
    ]
    judgements = pandas.DataFrame([("q1", "a", 3)], columns=["query_id", "doc_id", "relevance"])
    report = compare({"run": made(rows)}, judgements, measures=["AP"])
    assert report.values == compare({"run": shuffled(1)}, {"q1": {"a": 3}}, measures=["AP"]).values
    assert perfect(made(rows), JUDGEMENTS) == perfect(shuffled(1), JUDGEMENTS)


@pytest.mark.parametrize(
    ("ranking", "judged"),
    [
        ([8, 7], {1: {7: 1}}),
        ({7: 0.1, 8: 0.9}, {"1": {"7": np.int64(1)}}),
        (np.array([8, 7]), {1: {7: 1.0}}),
        ([[8, 0.9], (7, None)], {1: {7: 1}}),
        (["8", "7"], {1: {7: 1}}),
    ],
)
def test_ids_may_be_numbers_in_runs_judgements_and_queries(ranking: Any, judged: Any) -> None:
    report = compare({"run": {1: ranking}}, judged, measures=["RR"], queries={1: "one?"})
    assert report.values["run"]["RR"] == {"1": 1 / 2}
    assert report.only([1]).judgements == {"1": {"7": 1}}
    assert list(perfect({1: ranking}, judged)["1"]) == ["7", "8"]


def test_runs_are_compared_by_query(report: Report) -> None:
    assert list(report.values["before"]["RR"].values()) == pytest.approx(RECIPROCAL_RANKS["before"])
    assert list(report.values["after"]["RR"].values()) == pytest.approx(RECIPROCAL_RANKS["after"])
    assert report.gains("RR") == pytest.approx({"q1": 1 / 2, "q4": 1 / 6, "q3": 0, "q2": -1 / 2})
    assert list(report.gains("RR")) == ["q1", "q4", "q3", "q2"]
    comparison = report.comparison("RR")
    assert (comparison.baseline, comparison.run) == ("before", "after")
    assert (comparison.better, comparison.same, comparison.worse) == (2, 1, 1)
    assert comparison.gain == pytest.approx((1 / 2 + 1 / 6 - 1 / 2) / 4)
    assert comparison.p_value == 1
    assert report.comparison("RR", "before", "after").gain == pytest.approx(-comparison.gain)


def test_every_run_is_compared_with_the_first() -> None:
    runs = {"first": BEFORE, "second": AFTER, "third": BEFORE}
    report = compare(runs, JUDGEMENTS, measures=["RR", "AP"])
    assert [(c.measure, c.run, c.baseline) for c in report.comparisons()] == [
        ("RR", "second", "first"),
        ("RR", "third", "first"),
        ("AP", "second", "first"),
        ("AP", "third", "first"),
    ]
    assert "not corrected" in str(report)


def test_the_table_shows_every_number(report: Report) -> None:
    lines = str(report).splitlines()
    assert lines[0].split() == ["measure", "run", "mean", "gain", "p", "better", "same", "worse"]
    assert lines[2].split() == ["RR", "before", "0.708"]
    assert lines[3].split() == ["after", "0.750", "+0.042", "1.000", "2", "1", "1"]
    assert "Means over 4 queries." in lines


def test_the_table_is_plain_text_whatever_the_terminal(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = str(report)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert str(report) == plain
    assert "\x1b" not in plain


def test_the_html_has_the_same_cells_and_escapes_names() -> None:
    report = compare({"a": BEFORE, "<b>": AFTER}, JUDGEMENTS, measures=["RR"])
    html = report._repr_html_()
    assert html.count("<tr>") == 3
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "+0.042" in html
    assert "color" not in html


def test_only_reports_some_of_the_queries(report: Report) -> None:
    part = report.only(["q4", "q1"])
    assert list(part.queries) == ["q4", "q1"]
    assert part.mean("RR", "before") == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert list(part.runs["after"]) == ["q4", "q1"]
    with pytest.raises(InvalidInputError, match="q9"):
        report.only(["q9"])
    with pytest.raises(InvalidInputError, match="no query"):
        report.only([])


def test_to_dict_has_means_comparisons_and_every_query(report: Report) -> None:
    read = json.loads(json.dumps(report.to_dict()))
    assert read["measures"]["RR"] == pytest.approx({"before": 17 / 24, "after": 3 / 4})
    assert read["comparisons"][0]["gain"] == pytest.approx(1 / 24)
    assert read["per_query"]["after"]["RR"]["q2"] == 0.5
    assert read["usage"] is None


def test_to_pandas_has_one_row_per_query(report: Report) -> None:
    frame = report.to_pandas()
    assert list(frame.index) == ["q1", "q2", "q3", "q4"]
    assert frame[("RR", "after")].mean() == pytest.approx(3 / 4)
    assert frame["nDCG@10"].columns.tolist() == ["before", "after"]


def test_perfect_orders_by_gain() -> None:
    best = perfect({"q1": {"x": 0.9, "b": 0.8, "a": 0.7}, "q9": {"x": None}}, JUDGEMENTS)
    assert best == {"q1": {"a": 3, "b": 1, "x": 0}, "q9": {"x": 0}}
    assert list(best["q1"]) == ["a", "b", "x"]


def test_a_judged_query_that_a_run_lacks_counts_as_0_as_in_ir_measures() -> None:
    runs = {"before": shuffled(1), "after": {"q1": {"a": 1.0}, "q9": {"a": 1.0}}}
    judgements = {**JUDGEMENTS, "q5": {"a": 1}}
    report = compare(runs, judgements, measures=["RR"])
    for name, run in runs.items():
        expected = ir_measures.calc_aggregate([RR], judgements, run)[RR]
        assert report.mean("RR", name) == pytest.approx(expected)
    assert report.mean("RR", "after") == 1 / 5
    assert report.notes == (
        "1 of 6 queries have no judgements and were left out.",
        "before has no documents for 1 of 5 queries, which count as 0.",
        "after has no documents for 4 of 5 queries, which count as 0.",
    )


def test_queries_choose_what_is_measured() -> None:
    report = compare({"run": AFTER}, JUDGEMENTS, queries={"q1": "one?"}, measures=["RR"])
    assert report.values["run"]["RR"] == {"q1": 1}
    assert report.notes == ("3 of 4 judged queries are not among the queries and were left out.",)


def test_a_query_without_a_relevant_document_is_noted_and_one_without_judgements_left_out() -> None:
    report = compare({"run": BEFORE}, {"q1": {"a": 1}, "q2": {"c": 0, "x": -1}, "q3": {}})
    assert list(report.queries) == ["q1", "q2"]
    assert report.notes == (
        "2 of 4 queries have no judgements and were left out.",
        "1 of 2 queries have no relevant document and count as 0.",
    )


def test_the_runs_of_a_report_keep_their_order_whatever_the_scores() -> None:
    by_distance = compare({"run": {"q1": [("a", 0.1), ("x", 0.2), ("y", None)]}}, JUDGEMENTS)
    assert by_distance.runs["run"]["q1"] == {"a": 0.1, "x": 0.2, "y": None}
    again = compare(by_distance.runs, JUDGEMENTS)
    assert again.values == by_distance.values
    assert again.mean("RR", "run") == 1 / 4


def test_documents_without_a_score_come_last() -> None:
    report = compare({"run": {"q4": {"a": None, "x": None, "y": 0.1}}}, {"q4": {"a": 1}})
    assert list(report.runs["run"]["q4"]) == ["y", "a", "x"]


def test_a_measure_is_known_by_each_of_its_names() -> None:
    report = compare({"before": BEFORE, "after": AFTER}, JUDGEMENTS, measures=["MRR", nDCG @ 10])
    assert report.mean("MRR", "after") == report.mean(RR, "after") == report.mean("RR", "after")
    assert report.gains(nDCG @ 10) == report.gains("nDCG@10") == report.gains("nDCG(cutoff=10)")
    assert report.comparison("MRR").measure == "RR"


def test_a_measure_that_ir_measures_cannot_compute_is_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InvalidInputError, match="can't compute ERR@10"):
        compare({"run": BEFORE}, JUDGEMENTS, measures=["ERR@10"])


def test_a_run_without_any_judged_document_is_noted() -> None:
    report = compare({"run": {"q1": ["A", "B"]}}, JUDGEMENTS)
    assert any("run has no judged document" in note for note in report.notes)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda report: report.mean("AP", "after"), "RR, nDCG@10"),
        (lambda report: report.mean("RR", "later"), "before, after"),
        (lambda report: compare({"one": BEFORE}, JUDGEMENTS).comparison("RR"), "one"),
        (lambda report: compare({}, JUDGEMENTS), "no run"),
        (lambda report: compare({"one": BEFORE}, JUDGEMENTS, queries={"q9": "?"}), "'q9'"),
        (lambda report: compare({"one": BEFORE}, JUDGEMENTS, queries=["q1"]), "queries"),
        (
            lambda report: compare({"one": BEFORE}, JUDGEMENTS, queries={"q1": None}),
            "strings by id",
        ),
        (lambda report: compare([BEFORE], JUDGEMENTS), "runs"),
        (lambda report: compare({"one": ["a"]}, JUDGEMENTS), "query_id, doc_id and score"),
        (lambda report: compare({"one": BEFORE}, {"q1": ["a"]}), "judgements of query 'q1'"),
        (lambda report: compare({"one": BEFORE}, {"q1": {"a": 1}, 1: {}, "1": {}}), "once"),
        (lambda report: compare({"one": BEFORE}, "qrels.txt"), "'qrels.txt'"),
    ],
)
def test_an_invalid_argument_is_named(report: Report, ask: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ask(report)


@pytest.mark.parametrize("wrong", ["\ud800", "a\0b"])
def test_ids_that_crash_the_measuring_tools_are_refused(wrong: str) -> None:
    for run, judgements in (
        ({"q": ["a", wrong]}, {"q": {"a": 1}}),
        ({"q": ["a"]}, {"q": {"a": 1, wrong: 1}}),
        ({wrong: ["a"]}, {wrong: {"a": 1}}),
    ):
        with pytest.raises(InvalidInputError, match="another id"):
            compare({"run": run}, judgements, measures=["RR"])

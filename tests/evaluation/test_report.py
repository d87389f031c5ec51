"""What a report says of runs, and that it says so everywhere in the same figures."""

from __future__ import annotations

import json
import random
from typing import Any

import ir_measures
import pytest
from ir_measures import AP, RR, Measure, P, R, nDCG

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
        ("nDCG@2", nDCG @ 2),
        ("RR", RR),
        ("MRR", RR),
        ("R@1", R @ 1),
        ("P(rel=2)@5", P(rel=2) @ 5),
        ("AP", AP),
    ],
)
def test_the_means_are_those_of_ir_measures(name: str, measure: Measure) -> None:
    report = compare({"run": shuffled(1)}, JUDGEMENTS, measures=[name])
    expected = ir_measures.calc_aggregate([measure], JUDGEMENTS, shuffled(1))[measure]
    assert report.mean(report.measures[0], "run") == pytest.approx(expected)
    assert compare({"run": shuffled(1)}, JUDGEMENTS, measures=[measure]).values == report.values


def test_equal_scores_count_by_their_places_and_not_by_their_ids() -> None:
    for ranking in ({"a": 0.5, "z": 0.5}, {"z": 0.5, "a": 0.5}):
        report = compare({"run": {"q4": ranking}}, JUDGEMENTS, measures=["RR"])
        assert report.mean("RR", "run") == 1 / (1 + list(ranking).index("a"))


def test_judgements_may_be_rows_as_ir_measures_reads_them(report: Report) -> None:
    rows = [
        ir_measures.Qrel(query_id, document_id, gain)
        for query_id, gains in JUDGEMENTS.items()
        for document_id, gain in gains.items()
    ]
    assert compare({"run": AFTER}, rows, measures=["RR"]).mean("RR", "run") == 3 / 4


def test_runs_are_compared_by_query(report: Report) -> None:
    assert list(report.values["before"]["RR"].values()) == pytest.approx(RECIPROCAL_RANKS["before"])
    assert list(report.values["after"]["RR"].values()) == pytest.approx(RECIPROCAL_RANKS["after"])
    assert report.gains("RR") == pytest.approx({"q1": 1 / 2, "q4": 1 / 6, "q3": 0, "q2": -1 / 2})
    assert list(report.gains("RR")) == ["q1", "q4", "q3", "q2"]
    found = report.comparison("RR")
    assert (found.baseline, found.run) == ("before", "after")
    assert (found.better, found.same, found.worse) == (2, 1, 1)
    assert found.gain == pytest.approx((1 / 2 + 1 / 6 - 1 / 2) / 4)
    assert found.p_value == 1
    assert report.comparison("RR", "before", "after").gain == pytest.approx(-found.gain)


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


def test_the_table_shows_every_figure(report: Report) -> None:
    lines = str(report).splitlines()
    assert lines[0].split() == ["measure", "run", "mean", "gain", "p", "better", "same", "worse"]
    assert lines[2].split() == ["RR", "before", "0.708"]
    assert lines[3].split() == ["after", "0.750", "+0.042", "1.000", "2", "1", "1"]
    assert "Means over 4 queries." in lines


def test_the_table_is_plain_wherever_it_goes(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = str(report)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert str(report) == plain
    assert "\x1b" not in plain


def test_the_html_has_the_same_cells_and_nothing_of_the_users_markup() -> None:
    report = compare({"a": BEFORE, "<b>": AFTER}, JUDGEMENTS, measures=["RR"])
    html = report._repr_html_()
    assert html.count("<tr>") == 3
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "+0.042" in html
    assert "color" not in html


def test_the_report_of_some_queries_is_theirs_alone(report: Report) -> None:
    part = report.only(["q4", "q1"])
    assert list(part.queries) == ["q4", "q1"]
    assert part.mean("RR", "before") == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert list(part.runs["after"]) == ["q4", "q1"]
    with pytest.raises(InvalidInputError, match="q9"):
        report.only(["q9"])
    with pytest.raises(InvalidInputError, match="no query"):
        report.only([])


def test_as_json_it_has_means_comparisons_and_every_query(report: Report) -> None:
    read = json.loads(json.dumps(report.to_dict()))
    assert read["measures"]["RR"] == pytest.approx({"before": 17 / 24, "after": 3 / 4})
    assert read["comparisons"][0]["gain"] == pytest.approx(1 / 24)
    assert read["per_query"]["after"]["RR"]["q2"] == 0.5


def test_as_a_data_frame_it_has_a_row_a_query(report: Report) -> None:
    frame = report.to_pandas()
    assert list(frame.index) == ["q1", "q2", "q3", "q4"]
    assert frame[("RR", "after")].mean() == pytest.approx(3 / 4)
    assert frame["nDCG@10"].columns.tolist() == ["before", "after"]


def test_the_best_order_is_that_of_the_gains() -> None:
    best = perfect({"q1": {"x": 0.9, "b": 0.8, "a": 0.7}, "q9": {"x": None}}, JUDGEMENTS)
    assert best == {"q1": {"a": 3, "b": 1, "x": 0}, "q9": {"x": 0}}
    assert list(best["q1"]) == ["a", "b", "x"]


def test_a_query_that_one_run_lacks_counts_nothing_and_one_that_all_lack_is_left_out() -> None:
    runs = {"before": BEFORE, "after": {"q1": ["a"], "q9": ["a"]}}
    report = compare(runs, {**JUDGEMENTS, "q5": {"a": 1}}, measures=["RR"])
    assert report.mean("RR", "after") == 1 / 4
    assert report.notes == (
        "1 of 5 queries are not judged and were left out.",
        "1 of 5 judged queries were not asked for and were left out.",
        "after found nothing for 3 of 4 queries: they count 0.",
    )


def test_ids_that_never_meet_are_told_of() -> None:
    report = compare({"run": {"q1": ["A", "B"]}}, JUDGEMENTS)
    assert any("run has no document that was judged" in note for note in report.notes)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda report: report.mean("AP", "after"), "RR, nDCG@10"),
        (lambda report: report.mean("RR", "later"), "before, after"),
        (lambda report: report.comparison("RR", "later"), "later"),
        (lambda report: compare({"one": BEFORE}, JUDGEMENTS).comparison("RR"), "one"),
        (lambda report: compare({}, JUDGEMENTS), "no run"),
        (lambda report: compare({"one": {"q9": ["a"]}}, JUDGEMENTS), "'q9'"),
    ],
)
def test_what_is_not_there_is_named(report: Report, ask: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        ask(report)

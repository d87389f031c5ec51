"""Calibration: the chosen min_score, its intervals, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import calibrate

RUN = {
    "q1": {"a": 0.91, "b": 0.72, "x": 0.31, "y": 0.12},
    "q2": {"c": 0.83, "x": 0.44, "d": 0.43, "y": None},
}
JUDGEMENTS = {"q1": {"a": 2, "b": 1, "x": 0}, "q2": {"c": 1, "d": 1, "gone": 1}}


def noisy(queries: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Relevant documents score 0.7 on average, others 0.3."""
    draw = random.Random(0)
    run: dict[str, dict[str, float]] = {}
    judgements: dict[str, dict[str, int]] = {}
    for query in map(str, range(queries)):
        gains = judgements[query] = {document: int(document < "d") for document in "abcdefghijkl"}
        run[query] = {id_: draw.gauss(0.7 if gain else 0.3, 0.2) for id_, gain in gains.items()}
    return run, judgements


def test_it_maximizes_f1_and_takes_a_short_number_between_the_scores() -> None:
    chosen = calibrate(RUN, JUDGEMENTS)
    # Keeping five documents, four of them relevant: F1 = 8 / 9.
    assert chosen.min_score == 0.37
    assert (chosen.precision, chosen.recall) == (4 / 5, 1)
    assert (chosen.queries, chosen.relevant, chosen.others, chosen.kept) == (2, 4, 3, 5)
    assert chosen.curve[0] == (0.91, 1.0, 0.25)
    assert chosen.curve[-1] == (0.12, 4 / 7, 1.0)


def test_the_line_of_code_keeps_the_same_documents_where_scores_are_close() -> None:
    chosen = calibrate({"q": {"a": 0.99999962, "b": 0.99999951}}, {"q": {"a": 1}})
    assert 0.99999951 < chosen.min_score <= 0.99999962
    assert chosen.code == f"QwenRerank(min_score={chosen.min_score!r})"
    assert repr(chosen.min_score) in str(chosen).splitlines()[0]


def test_it_says_if_the_scores_do_not_separate() -> None:
    for run in ({"a": 0.5, "b": 0.5}, {"a": 1e308, "b": 1.7e308}):
        assert "do not separate" in str(calibrate({"q": run}, {"q": {"a": 1}}))
    assert "do not separate" not in str(calibrate(RUN, JUDGEMENTS))


def test_beta_below_one_prefers_precision() -> None:
    chosen = calibrate(RUN, JUDGEMENTS, beta=0.25)
    assert chosen.min_score == 0.58
    assert (chosen.precision, chosen.recall) == (1, 3 / 4)


def test_one_sample_of_few_queries_and_a_huge_beta_are_enough() -> None:
    run = {"q1": {"a": 0.9, "b": 0.1}, "q2": {"c": 0.3}}
    for seed in range(8):
        chosen = calibrate(run, {"q1": {"a": 1}, "q2": {"c": 0}}, rounds=1, seed=seed, beta=1e200)
        assert chosen.min_score_interval == (0.6, 0.6)


@pytest.mark.parametrize(("recall", "kept"), [(0.25, 1), (0.5, 2), (0.75, 3), (0.76, 5), (1, 5)])
def test_recall_chooses_the_highest_min_score_that_keeps_enough(recall: float, kept: int) -> None:
    chosen = calibrate(RUN, JUDGEMENTS, recall=recall)
    assert chosen.kept == kept
    assert chosen.recall >= recall
    assert (
        sum((score or 0) >= chosen.min_score for q in RUN.values() for score in q.values()) == kept
    )


def test_the_intervals_contain_the_values_and_shrink_with_more_queries() -> None:
    few, many = (calibrate(*noisy(queries), rounds=300) for queries in (10, 160))
    for chosen in (few, many):
        assert chosen.min_score == pytest.approx(0.5, abs=0.15)
        low, high = chosen.min_score_interval
        assert low - 0.001 <= chosen.min_score <= high + 0.001  # which is shortened
        low, high = chosen.precision_interval
        assert low <= chosen.precision <= high
        low, high = chosen.recall_interval
        assert low <= chosen.recall <= high
    (low, high), (lowest, highest) = many.precision_interval, few.precision_interval
    assert high - low < (highest - lowest) / 2
    assert calibrate(*noisy(10), rounds=300) == few
    assert calibrate(*noisy(10), rounds=300, seed=1) != few


def test_it_is_shown_with_the_line_of_code_and_drawn() -> None:
    chosen = calibrate(RUN, JUDGEMENTS, rounds=100)
    assert str(chosen).splitlines()[0].startswith("min_score    0.37   95% interval 0.")
    assert str(chosen).endswith("\n\nQwenRerank(min_score=0.37)")
    assert "keeps 5 of 7 documents, 4 of them relevant; 4 of the 7 are relevant." in str(chosen)
    alt = chosen.plot().alt
    assert "min_score=0.37, chosen for the highest F1, has a precision of 0.800" in alt
    assert chosen.to_dict()["code"] == "QwenRerank(min_score=0.37)"


@pytest.mark.parametrize(
    ("run", "judgements", "options", "message"),
    [
        (RUN, JUDGEMENTS, {"recall": 0}, "recall must be above 0"),
        (RUN, JUDGEMENTS, {"beta": 0}, "beta must be above 0"),
        (RUN, JUDGEMENTS, {"rounds": 0}, "rounds"),
        (RUN, {"q1": {"x": 0}}, {}, "0 scores of relevant documents and 4 of others"),
        ({"q1": ["a", "x"]}, JUDGEMENTS, {}, "0 scores of relevant"),
        ({"q1": {"a": -1.0, "x": -2.0}}, JUDGEMENTS, {}, "ranks instead of scores"),
    ],
)
def test_an_invalid_argument_is_named(
    run: Any, judgements: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        calibrate(run, judgements, **options)

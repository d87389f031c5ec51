"""Scores that look as if the model did not rerank."""

from __future__ import annotations

import pytest

from qwen_rerank.evaluation import compare
from qwen_rerank.scorers.doubts import doubt_about


@pytest.mark.parametrize(
    ("scores", "doubt"),
    [
        ([[0.7] * 3, [0.2] * 9], "same score"),
        ([[0.7] * 3, [0.2] * 9, [0.1, 0.2, 0.3]], None),
        ([[0.7] * 2], None),
        ([[0.49, 0.51, 0.5, 0.53], [0.47, 0.5, 0.52, 0.49]], "prompt template"),
        ([[0.49, 0.51, 0.5, 0.53], [0.1, 0.5, 0.52, 0.49]], None),
        ([[0.49, 0.51, 0.5]], None),
        ([], None),
    ],
)
def test_scores_that_are_equal_or_near_one_half_are_doubtful(
    scores: list[list[float]], doubt: str | None
) -> None:
    found = doubt_about(scores)
    assert (found is None) if doubt is None else (doubt in (found or ""))


def test_a_report_notes_doubtful_scores_of_what_was_reranked() -> None:
    equal = {"q": dict.fromkeys("abc", 0.4)}
    good = {"q": {"a": 0.9, "b": 0.2, "c": 0.1}}
    judgements = {"q": {"a": 1}}
    report = compare({"before": equal, "after": equal, "good": good}, judgements)
    (note,) = report.notes
    assert note.startswith("after: All texts of a query have the same score.")
    assert note in str(report)

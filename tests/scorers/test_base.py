"""The scorer interface: fingerprints, checks of scores, and logits as probabilities."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import BadResponseError, Record, RerankEngine, Scorer, Scores
from qwen_rerank.scorers.base import checked, probabilities
from tests.support.interpreter import python

OWN_SCORER = """
from qwen_rerank import CachedScorer, Scorer, Scores

class OwnScorer(Scorer):
    model = "own"

    def score(self, query, texts):
        return Scores([{score}] * len(texts))
"""


def test_classes_with_the_same_name_in_two_modules_share_no_cache(tmp_path: Path) -> None:
    for name, score in (("one", 0.1), ("other", 0.9)):
        (tmp_path / f"{name}.py").write_text(OWN_SCORER.format(score=score))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import one, other\n"
        "store = {}\n"
        "for module in (one, other):\n"
        "    print(module.CachedScorer(module.OwnScorer(), store).score('q', ['a']).values)\n"
    )
    assert python(code) == ("[0.1]\n[0.9]\n", "")


def test_classes_with_the_same_name_in_two_scripts_share_no_cache(tmp_path: Path) -> None:
    use = (
        "import diskcache\n"
        f"with diskcache.Cache({str(tmp_path / 'store')!r}) as store:\n"
        "    print(CachedScorer(OwnScorer(), store).score('q', ['a']).values)\n"
    )
    printed = []
    for name, score in (("one", 0.1), ("other", 0.9)):
        script = tmp_path / f"{name}.py"
        script.write_text(OWN_SCORER.format(score=score) + use)
        run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        printed.append(run.stdout)
    assert printed == ["[0.1]\n", "[0.9]\n"]


class Fixed(Scorer):
    """Returns these scores."""

    model = "fixed"

    def __init__(self, scores: Scores) -> None:
        self._scores = scores

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return self._scores


def order(scores: Scores, **options: Any) -> str:
    records = [Record(text, {"text": text}) for text in "abcdef"[: len(scores.values)]]
    ranking = RerankEngine(Fixed(scores), rerank_field="text", **options).rerank("q", records)
    return "".join(record.id for record in ranking)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([38.0, 45.0, 0.0, 700.0], "dbac"),
        ([-800.0, -760.0, -900.0], "bac"),
        ([36.9, 36.8, 36.95], "cab"),
        ([40.0, 40.0, 40.0], "abc"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"min_score": 0.0}], ids=str)
def test_logits_rank_however_large_they_are(
    logits: list[float], expected: str, options: dict[str, Any]
) -> None:
    scores = probabilities(Scores(logits))
    assert all(0 <= value <= 1 for value in scores.values)
    assert order(scores, **options) == expected


def test_tie_breakers_only_break_ties() -> None:
    assert order(Scores([0.1, 0.9, 0.5], tie_breakers=[3.0, 1.0, 2.0])) == "bca"


def test_tie_breakers_rank_within_a_tier() -> None:
    scores = Scores([1.0, 1.0, 1.0, 1.0], tiers=[0, 1, 1, 0], tie_breakers=[1.0, 3.0, 4.0, 2.0])
    assert order(scores) == "dacb"


@pytest.mark.parametrize("tie_breakers", [[1.0], [1.0, math.nan], [1.0, None]])
def test_tie_breakers_must_be_one_finite_number_per_score(tie_breakers: Any) -> None:
    scores = Scores([0.5, 0.5], tie_breakers=tie_breakers)
    with pytest.raises(BadResponseError, match="fixed returned"):
        checked(scores, 2, "fixed")


def test_tie_breakers_become_floats() -> None:
    scores = checked(Scores([0.5, 0.5], tie_breakers=[1, 2]), 2, "fixed")
    assert list(map(type, scores.tie_breakers or [])) == [float, float]

"""What users test with."""

from __future__ import annotations

import pytest

from qwen_rerank import DashScopeScorer, InvalidInputError, Limits
from qwen_rerank.testing import FakeScorer, LoopbackDashScope
from tests.support.interpreter import python


def test_importing_the_library_does_not_import_what_tests_need() -> None:
    code = "import qwen_rerank, sys; print({*sys.modules} & {'pytest', 'qwen_rerank.testing'})"
    assert python(code) == ("set()\n", "")


def test_the_fake_scorer_and_the_loopback_service_need_no_pytest() -> None:
    code = """
import sys
sys.modules["pytest"] = None
from qwen_rerank.testing import FakeScorer, LoopbackDashScope
print(FakeScorer())
from qwen_rerank.testing import ScorerTests
"""
    out, err = python(code)
    assert out == "FakeScorer(model='fake')\n"
    assert err.rstrip().endswith("Install it: pip install pytest")


def test_the_fake_scorer_gives_the_scores_that_it_was_given() -> None:
    scorer = FakeScorer({"a": 0.25})
    assert scorer.score("b c", ["a", "B", "x score=-1.5 y", "z"]).values == [0.25, 0.5, -1.5, 0.0]
    assert scorer.fingerprint != FakeScorer().fingerprint
    with pytest.raises(InvalidInputError, match="nan"):
        FakeScorer({"a": float("nan")})
    with pytest.raises(InvalidInputError, match="scores must be numbers by text, got int"):
        FakeScorer(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["text"] * 501, "501 documents"), (["word " * 3_999] * 8, "too many tokens")],
)
def test_the_loopback_service_refuses_what_is_over_the_limits(
    dashscope: LoopbackDashScope, texts: list[str], message: str
) -> None:
    unlimited = Limits(documents=10**6, item_tokens=10**6, request_tokens=10**6)
    with pytest.raises(InvalidInputError, match=message):
        DashScopeScorer(limits=unlimited).score("a query", texts)

"""What users test with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from qwen_rerank import DashScopeScorer, InvalidInputError, Limits, Scorer, Scores
from qwen_rerank.testing import FakeScorer, LoopbackDashScope, ScorerTests
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


class Scaled(FakeScorer):
    """The best text of a call has 1, and the worst 0."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        values = super().score(query, texts).values
        span = max(values) - min(values) or 1
        return Scores([(value - min(values)) / span for value in values])


class OneQuery(FakeScorer):
    """Keeps the scores of its first query."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, float] = {}

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        scores = super().score(query, texts).values
        return Scores(list(map(self._kept.setdefault, texts, scores)))


class OneCall(FakeScorer):
    """Mixes up the calls of threads and of tasks."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self._query, self._texts = query, [*texts]
        time.sleep(0)  # lets another thread run
        return super().score(self._query, self._texts)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        self._query, self._texts = query, [*texts]
        await asyncio.sleep(0)
        return super().score(self._query, self._texts)


class OneLoop(FakeScorer):
    """Works in the first event loop only."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = asyncio.Lock()

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        async with self._lock:
            await asyncio.sleep(0)
            return super().score(query, texts)


class OneList(FakeScorer):
    """Returns the same list each time."""

    def __init__(self) -> None:
        super().__init__()
        self._values: list[float] = []

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self._values[:] = super().score(query, texts).values
        return Scores(self._values)


class Blocking(FakeScorer):
    """Does not let the event loop run."""

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        return self.score(query, texts)


class ShortSighted(FakeScorer):
    """Reads the first 512 words, as if these were all."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return super().score(query, [" ".join(text.split()[:512]) for text in texts])


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (Blocking, ScorerTests.test_the_event_loop_runs_other_tasks_during_ascore),
        (ShortSighted, ScorerTests.test_the_end_of_a_long_text_matters_or_is_counted_as_truncated),
        (Scaled, ScorerTests.test_a_score_does_not_depend_on_the_other_texts),
        (OneQuery, ScorerTests.test_another_query_has_other_scores),
        (OneCall, ScorerTests.test_threads_share_it),
        (OneCall, ScorerTests.test_concurrent_calls_in_one_event_loop_share_it),
        (OneLoop, ScorerTests.test_event_loops_share_it_one_after_another),
        (OneList, ScorerTests.test_scores_are_in_the_order_of_the_texts),
    ],
)
def test_the_tests_for_scorers_find_what_is_wrong(
    wrong: type[FakeScorer], test: Callable[[ScorerTests, Scorer], None]
) -> None:
    test(ScorerTests(), FakeScorer())
    with pytest.raises((AssertionError, RuntimeError)):
        test(ScorerTests(), wrong())

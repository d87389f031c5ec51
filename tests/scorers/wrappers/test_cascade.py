"""CascadeScorer: the second scorer orders the best texts, the first one the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import (
    BadResponseError,
    CascadeScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    Ranking,
    Record,
    RerankEngine,
    Scorer,
    Scores,
)
from tests.scorers.wrappers.conftest import Score
from tests.support.wrapped import Down, Piecewise, Pointwise


class Fixed(Pointwise):
    """Returns these scores."""

    def __init__(self, model: str, **values: float) -> None:
        super().__init__(model)
        self._values = values

    def score_of(self, query: str, text: str) -> float:
        return self._values[text]


def rank(scorer: Scorer, texts: Sequence[str], top_n: int | None = None, **options: Any) -> Ranking:
    records = [Record(text, {"text": text}, 0.5) for text in texts]
    return RerankEngine(scorer, rerank_field="text", **options).rerank("q", records, top_n)


def scored(ranking: Ranking) -> list[tuple[str, float | None]]:
    return [(record.id, record.score) for record in ranking]


def down() -> Scorer:
    """A scorer that fails and falls back to KeepOrder."""
    return FallbackScorer(Down("down"), KeepOrder())


FIRST = Fixed("first", a=0.1, b=0.2, c=0.3, d=0.4, e=0.5)
SECOND = Fixed("second", a=9, b=8, c=7, d=6, e=5)

some_scores = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.2, 0.4])), max_size=9
)


@given(some_scores, st.integers(1, 10), st.none() | st.integers(1, 10))
def test_rescored_texts_come_first_and_the_others_keep_the_order_of_the_first(
    pairs: list[tuple[float, float]], keep: int, top_n: int | None
) -> None:
    texts = [f"text{index}" for index in range(len(pairs))]
    firsts = dict(zip(texts, (first for first, _ in pairs), strict=True))
    seconds = dict(zip(texts, (second for _, second in pairs), strict=True))
    cascade = CascadeScorer(Fixed("first", **firsts), Fixed("second", **seconds), keep)

    by_first = sorted(texts, key=lambda text: -firsts[text])
    best = [text for text in texts if text in by_first[:keep]]
    expected = [(text, seconds[text]) for text in sorted(best, key=lambda text: -seconds[text])]
    expected += [(text, None) for text in by_first[keep:]]
    assert scored(rank(cascade, texts, top_n)) == expected[:top_n]


def test_the_second_scorer_gets_only_the_best_texts(score: Score) -> None:
    first, second = Fixed("first", a=0.1, b=0.3, c=0.2), Pointwise("second")
    scores = score(CascadeScorer(first, second, keep=2), "q", ["a", "b", "c"])
    assert (first.asked, second.asked) == ([["a", "b", "c"]], [["b", "c"]])
    usage = scores.usage
    assert (usage.texts_sent, usage.skipped_by_cascade) == (5, 1)
    assert (usage.requests, usage.tokens, usage.cost) == (2, 20, 1.0)
    assert scores.model is None
    assert scores.tiers == [1, 0, 0]


def test_the_first_is_not_called_for_few_texts() -> None:
    first, second = Pointwise("first"), Pointwise("second")
    scores = CascadeScorer(first, second, keep=2).score("q", ["a", "b"])
    assert (first.asked, second.asked) == ([], [["a", "b"]])
    assert scores.tiers is None
    assert (scores.usage.texts_sent, scores.usage.skipped_by_cascade) == (2, 0)


def test_of_texts_that_tie_in_the_first_the_earlier_are_rescored() -> None:
    even = Fixed("first", a=0.5, b=0.5, c=0.5, d=0.5)
    ranking = rank(CascadeScorer(even, SECOND, keep=2), "dcba")
    assert scored(ranking) == [("c", 7.0), ("d", 6.0), ("b", None), ("a", None)]


def test_min_score_removes_texts_that_were_not_rescored() -> None:
    ranking = rank(CascadeScorer(FIRST, SECOND, keep=3), "abcde", min_score=6)
    assert scored(ranking) == [("c", 7.0), ("d", 6.0)]


def test_the_ranking_names_the_model_of_the_second() -> None:
    cascade = CascadeScorer(FIRST, SECOND, keep=2)
    assert rank(cascade, "abc").model == cascade.model == "second"
    cascade = CascadeScorer(FIRST, FallbackScorer(Down("down"), SECOND), keep=2)
    assert cascade.model == "down"
    assert rank(cascade, "abc").model == "second"


def test_passages_of_the_second_are_kept() -> None:
    cascade = CascadeScorer(FIRST, Piecewise(), keep=2)
    assert cascade.score("q", ["a", "b", "c"]).passages == [None, None, None]
    first = Fixed("first", long=0.9, longer=0.1, short=0.5)
    scores = CascadeScorer(first, Piecewise(), keep=2).score("q", ["longer", "short", "long"])
    assert scores.passages == [None, (1, 5), (1, 4)]


@pytest.mark.parametrize(("keep", "min_score"), [(2, None), (2, 0.45), (9, 0.45)])
def test_if_the_second_falls_back_to_keep_order_the_order_of_the_first_stands(
    keep: int, min_score: float | None
) -> None:
    ranking = rank(CascadeScorer(FIRST, down(), keep), "abcde", min_score=min_score)
    assert scored(ranking) == [(text, None) for text in "edcba"]
    assert (ranking.model, ranking.unranked) == ("first", False)
    assert ranking.usage.texts_sent == 5
    assert ranking.usage.skipped_by_cascade == (3 if keep == 2 else 0)


def test_if_the_first_falls_back_to_keep_order_the_earliest_are_rescored() -> None:
    ranking = rank(CascadeScorer(down(), SECOND, keep=2), "edcba")
    assert scored(ranking) == [("d", 6.0), ("e", 5.0), ("c", None), ("b", None), ("a", None)]


@pytest.mark.parametrize("keep", [2, 9])
def test_if_both_fall_back_to_keep_order_the_order_is_kept(keep: int) -> None:
    ranking = rank(CascadeScorer(down(), down(), keep), "cab", min_score=0.9)
    assert scored(ranking) == [("c", 0.5), ("a", 0.5), ("b", 0.5)]
    assert (ranking.model, ranking.unranked) == ("keep-order", True)


def test_cascades_can_be_nested() -> None:
    third = Fixed("third", a=1, b=2, c=3, d=4, e=5)
    of_two = CascadeScorer(FIRST, SECOND, keep=3)  # e d c, of which it chooses c d e
    assert scored(rank(CascadeScorer(of_two, third, keep=1), "abcde")) == [
        ("c", 3.0),
        *((text, None) for text in "deba"),
    ]
    assert scored(rank(CascadeScorer(FIRST, CascadeScorer(SECOND, third, 1), 3), "abcde")) == [
        ("c", 3.0),
        *((text, None) for text in "deba"),
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_incomplete_scores_are_an_error_that_names_the_model(index: int) -> None:
    class Short(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return Scores([0.5])

    scorers: list[Scorer] = [Pointwise(), Pointwise()]
    scorers[index] = Short("short")
    with pytest.raises(BadResponseError, match=r"short returned 1 scores for \d texts"):
        CascadeScorer(*scorers, keep=2).score("q", ["a", "b", "c"])


@pytest.mark.parametrize("keep", [0, 2.0])
def test_keep_must_be_a_whole_number(keep: Any) -> None:
    with pytest.raises(InvalidInputError, match="keep must be a whole number of at least 1"):
        CascadeScorer(FIRST, SECOND, keep)

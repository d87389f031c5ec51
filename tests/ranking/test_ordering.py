"""Orders made of more than the scores: tiers, a blend with the retrieval order, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import (
    BadResponseError,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    Passage,
    Record,
    Scorer,
    Scores,
    Usage,
)
from tests.ranking.test_engine import FixedScorer, engine, ids, records


class Giving(Scorer):
    """Gives these scores, with all that goes with them, whatever comes."""

    model = "giving"

    def __init__(self, values: list[float], **others: Any) -> None:
        self.scores = Scores(values, **others)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return self.scores


LETTERS = records("a", "b", "c", "d")


def test_a_lower_tier_ranks_first_and_only_the_lowest_shows_its_scores() -> None:
    scorer = Giving([0.9, 0.1, 0.8, 0.2], tiers=[1, 0, 1, 0])
    ranking = engine(scorer).rerank("q", LETTERS)
    assert [(record.id, record.score) for record in ranking] == [
        ("3", 0.2),
        ("1", 0.1),
        ("0", None),
        ("2", None),
    ]


def test_a_threshold_leaves_out_the_tiers_that_have_no_score() -> None:
    scorer = Giving([0.9, 0.1, 0.8, 0.2], tiers=[1, 0, 1, 0])
    assert ids(engine(scorer, min_score=0.15).rerank("q", LETTERS)) == ["3"]


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 2)), max_size=8),
    st.none() | st.integers(1, 9),
)
def test_tiers_come_one_after_the_other_and_lose_nothing(
    scored: list[tuple[float, int]], top_n: int | None
) -> None:
    values, tiers = [value for value, _ in scored], [tier for _, tier in scored]
    candidates = records(*map(str, range(len(scored))))
    ranking = engine(Giving(values, tiers=tiers)).rerank("q", candidates, top_n)
    expected = sorted(range(len(scored)), key=lambda index: (tiers[index], -values[index]))
    assert ids(ranking) == [str(index) for index in expected[:top_n]]


def test_a_record_knows_the_passage_that_its_score_is_of() -> None:
    scorer = Giving([0.1, 0.9], passages=[None, Passage(3, 7)])
    ranking = engine(scorer).rerank("q", records("short", "xx long yy"))
    assert [record.passage for record in ranking] == [(3, 7), None]
    assert ranking[0].passage is not None
    assert ranking[0].passage.of("xx long yy") == "long"


@pytest.mark.parametrize("others", [{"tiers": [0]}, {"passages": [None] * 3}])
def test_tiers_and_passages_that_are_not_one_a_text_are_an_error(others: dict[str, Any]) -> None:
    with pytest.raises(BadResponseError, match=r"giving returned \d scores for 2 texts"):
        engine(Giving([0.1, 0.2], **others)).rerank("q", records("a", "b"))


def test_the_ranking_names_the_model_that_answered() -> None:
    assert engine(Giving([0.1], model="another")).rerank("q", records("a")).model == "another"
    assert engine(Giving([0.1])).rerank("q", records("a")).model == "giving"
    assert engine(Giving([])).rerank("q", []).model == "giving"


def test_a_threshold_is_inclusive() -> None:
    assert ids(engine(FixedScorer([0.5, 0.4]), min_score=0.5).rerank("q", records("a", "b"))) == [
        "0"
    ]


def test_a_blend_mixes_the_score_with_the_reciprocal_rank() -> None:
    ranking = engine(FixedScorer([0.2, 0.8, 0.9]), blend=0.5).rerank("q", records("a", "b", "c"))
    assert [(record.id, record.score) for record in ranking] == [
        ("1", pytest.approx(0.5 * 0.8 + 0.5 / 2)),
        ("2", pytest.approx(0.5 * 0.9 + 0.5 / 3)),
        ("0", pytest.approx(0.5 * 0.2 + 0.5 / 1)),
    ]


def test_a_blend_of_1_is_the_retrieval_order_and_of_0_the_relevance() -> None:
    def order(blend: float | None) -> list[str]:
        return ids(engine(FixedScorer([0.2, 0.9, 0.5]), blend=blend).rerank("q", LETTERS[:3]))

    assert order(1) == ["0", "1", "2"]
    assert order(0) == order(None) == ["1", "2", "0"]


def test_a_threshold_is_compared_with_the_relevance_not_with_the_blend() -> None:
    ranking = engine(FixedScorer([0.2, 0.6]), blend=0.9, min_score=0.5).rerank("q", LETTERS[:2])
    assert ids(ranking) == ["1"]


def test_the_blend_of_several_lists_is_with_their_fused_ranks() -> None:
    lists = {"one": [Record("a", {"text": "a"}), Record("b", {"text": "b"})]}
    lists["two"] = [Record("b", {"text": "b"})]
    assert ids(engine(FixedScorer([0.5, 0.5]), blend=1).rerank("q", lists)) == ["b", "a"]


def test_a_scorer_that_uses_the_order_gets_the_texts_of_several_lists_fused() -> None:
    class Watching(Scorer):
        model = "watching"
        uses_order = True

        def score(self, query: str, texts: Sequence[str]) -> Scores:
            self.texts = list(texts)
            return Scores([1 / ord(text) for text in texts])

    def rerank(scorer: Scorer, **lists: str) -> list[str]:
        named = {name: [Record(id_, {"text": id_}) for id_ in ids_] for name, ids_ in lists.items()}
        return ids(engine(scorer).rerank("q", named))

    scorer = Watching()
    assert rerank(FallbackScorer(scorer, KeepOrder()), dense="bda", words="ac") == list("abcd")
    assert scorer.texts == ["a", "b", "d", "c"]
    assert rerank(scorer, dense="ba", words="a") == ["a", "b"]
    assert scorer.texts == ["a", "b"]
    assert rerank(scorer, words="dcb") == ["b", "c", "d"]
    assert scorer.texts == ["d", "c", "b"]


PENGUINS = ["Penguins eat krill.", "Penguins eat krill and fish.", "Guitars have six strings."]


def diverse(diversity: float | None, *texts: str, top_n: int | None = None) -> list[str]:
    values = [0.9 - 0.1 * index for index in range(len(texts))]
    ranking = engine(FixedScorer(values), diversity=diversity).rerank("q", records(*texts), top_n)
    assert all(record.score == values[int(record.id)] for record in ranking)
    return ids(ranking)


def test_diversity_puts_what_says_the_same_behind_what_says_something_else() -> None:
    assert diverse(None, *PENGUINS) == diverse(0, *PENGUINS) == ["0", "1", "2"]
    assert diverse(0.5, *PENGUINS) == ["0", "2", "1"]
    assert diverse(0.5, *PENGUINS, top_n=2) == ["0", "2"]


@given(st.lists(st.sampled_from([*PENGUINS, "企鹅", "??"]), unique=True), st.integers(1, 6))
def test_diversity_loses_nothing_and_keeps_the_best_one_first(texts: list[str], top_n: int) -> None:
    assert sorted(diverse(1.0, *texts)) == [str(index) for index in range(len(texts))]
    chosen = diverse(0.7, *texts, top_n=top_n)
    assert len(chosen) == min(top_n, len(texts))
    assert chosen[:1] == ["0"][: len(texts)]


def test_diversity_is_among_what_has_a_score() -> None:
    scorer = Giving([0.9, 0.8, 0.7], tiers=[0, 0, 1])
    assert ids(engine(scorer, diversity=0.9).rerank("q", records(*PENGUINS))) == ["0", "1", "2"]


@pytest.mark.parametrize("option", ["blend", "diversity"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_share_that_is_not_from_0_to_1_is_refused(option: str, share: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{option} must be a number.* got"):
        engine(**{option: share})


def test_a_callback_is_told_what_each_ranking_cost() -> None:
    told: list[Usage] = []
    ranking = engine(EmbeddedScorer(), usage_callback=told.append).rerank("q", LETTERS)
    assert told == [ranking.usage]


def test_a_callback_that_fails_does_not_cost_the_ranking(caplog: pytest.LogCaptureFixture) -> None:
    def fail(usage: Usage) -> None:
        raise RuntimeError("no space left")

    assert len(engine(usage_callback=fail).rerank("q", LETTERS)) == 4
    assert "usage_callback failed" in caplog.text


@pytest.mark.parametrize(
    ("usages", "cost"),
    [
        ([], None),
        ([Usage(duplicate_texts=3)], None),
        ([Usage(requests=1, cost=0.5), Usage(requests=1, cost=0.25)], 0.75),
        ([Usage(requests=1, cost=0.5), Usage(duplicate_texts=3)], 0.5),
        ([Usage(cost=0.0), Usage(cache_hits=3)], 0.0),
        ([Usage(requests=1, cost=0.5), Usage(requests=1)], None),
        ([Usage(tokens=7), Usage(cost=0.5)], None),
    ],
)
def test_a_cost_that_is_not_known_in_whole_is_not_known(
    usages: list[Usage], cost: float | None
) -> None:
    assert sum(usages, Usage()).cost == cost
    assert sum(reversed(usages), Usage()).cost == cost

"""What holds for every face, sync and async."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from qwen_rerank import (
    BadResponseError,
    EmbeddedScorer,
    InvalidInputError,
    QwenRerankError,
    Scorer,
    Scores,
    ServiceError,
)
from tests.contract.conftest import Watched
from tests.contract.faces import FACES, Face, Item

Ranked = list[tuple[str, float | None]]
"""Ids and scores, best first."""

RankWith = Callable[..., Ranked]

QUERY = "penguins eat krill"
TEXTS = {
    "stocks": "markets fell on monday",
    "all": "penguins eat krill",
    "one": "penguins lay eggs on bare rock",
    "two": "penguins eat small squid",
}
ITEMS = [Item(id_, {"text": text}) for id_, text in TEXTS.items()]
BEST_FIRST = ["all", "two", "one", "stocks"]


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
def face(request: pytest.FixtureRequest) -> type[Face]:
    chosen: type[Face] = request.param
    return chosen


@pytest.fixture
def rank_with(face: type[Face]) -> RankWith:
    """Ranks with a scorer, sync and async; both must agree and leave the input as it is."""

    def rank_with(
        scorer: Scorer, items: Sequence[Item], query: Any = QUERY, **options: Any
    ) -> Ranked:
        built = face(query, scorer=scorer, **options)
        made = [built.make(item) for item in items]
        before = copy.deepcopy(made)
        ranked, awaited = list(built.rank(made)), list(asyncio.run(built.arank(made)))
        assert ranked == awaited
        assert made == before, "the input was changed"
        return [(item.id, item.score) for item in map(built.read, ranked)]

    return rank_with


@pytest.fixture
def watched() -> Watched:
    return Watched(EmbeddedScorer())


@pytest.fixture
def rank(rank_with: RankWith, watched: Watched) -> RankWith:
    """Ranks with a scorer that needs no service, and whose texts are kept."""
    return partial(rank_with, watched)


def ids(ranked: Ranked) -> list[str]:
    return [id_ for id_, _ in ranked]


def test_each_item_has_the_score_of_its_text_and_the_best_comes_first(
    rank_with: RankWith, scorer: Scorer
) -> None:
    values = scorer.score(QUERY, list(TEXTS.values())).values
    ranked = rank_with(scorer, ITEMS)
    assert ids(ranked) == BEST_FIRST
    assert dict(ranked) == pytest.approx(dict(zip(TEXTS, values, strict=True)))


def test_ties_keep_the_order_of_the_input(rank: RankWith) -> None:
    items = [Item(id_, {"text": TEXTS["two"]}) for id_ in "cabed"]
    assert ids(rank([*items, ITEMS[0], ITEMS[1]])) == ["all", *"cabed", "stocks"]


BLANKS = [
    Item("missing"),
    Item("none", {"text": None}),
    Item("empty", {"text": ""}),
    Item("blank", {"text": " \n\t\u3000"}),
]


def test_items_without_text_can_be_kept_behind_the_others(rank: RankWith) -> None:
    ranked = rank([*BLANKS, *ITEMS], missing="keep")
    assert ids(ranked) == [*BEST_FIRST, *(item.id for item in BLANKS)]
    assert [score for _, score in ranked[len(ITEMS) :]] == [None] * len(BLANKS)


def test_items_kept_without_text_count_toward_top_n(rank: RankWith) -> None:
    assert ids(rank([*BLANKS, *ITEMS], missing="keep", top_n=5)) == [*BEST_FIRST, "missing"]


def test_an_item_without_text_can_be_an_error(rank: RankWith, watched: Watched) -> None:
    for blank in BLANKS:
        with pytest.raises(InvalidInputError, match=blank.id):
            rank([*ITEMS, blank], missing="error")
    assert watched.sent == []


def test_at_most_top_n_items_are_returned(rank: RankWith) -> None:
    for top_n in (1, 2, 4, 50):
        assert ids(rank(ITEMS, top_n=top_n)) == BEST_FIRST[:top_n]


def test_items_that_score_less_than_min_score_are_left_out(rank: RankWith) -> None:
    scores = dict(rank(ITEMS))
    assert ids(rank(ITEMS, min_score=scores["two"])) == ["all", "two"]
    assert rank(ITEMS, min_score=1.5) == []


class Returning(Scorer):
    """A user's own scorer, which returns these values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    @property
    def model(self) -> str:
        return "mine"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([*self.values])


def errors_of(face: type[Face], scorer: Scorer) -> list[QwenRerankError]:
    """The errors of a sync and an async call with a scorer that does not work."""
    built = face(QUERY, scorer=scorer)
    made = list(map(built.make, ITEMS))
    with pytest.raises(QwenRerankError) as sync:
        built.rank(made)
    with pytest.raises(QwenRerankError) as awaited:
        asyncio.run(built.arank(made))
    return [sync.value, awaited.value]


def test_scores_that_are_not_one_finite_number_per_text_are_an_error(face: type[Face]) -> None:
    for values in (
        (),
        (0.1,),
        (0.1,) * 5,
        (0.1, 0.2, 0.3, math.nan),
        (0.1, math.inf, 0, 0),
        (0.1, 0, 0, None),
    ):
        for error in errors_of(face, Returning(*values)):
            assert isinstance(error, BadResponseError)
            assert "mine" in str(error)


def test_scores_may_have_any_size_and_sign(rank_with: RankWith) -> None:
    assert rank_with(Returning(-3, 7, 0, 2.5), ITEMS) == [
        ("all", 7.0),
        ("two", 2.5),
        ("one", 0.0),
        ("stocks", -3.0),
    ]


class Failing(Returning):
    """A scorer that fails."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise ServiceError("The model is down.", code="Down", status=503)


def test_the_error_of_a_scorer_is_raised_unchanged(face: type[Face]) -> None:
    for error in errors_of(face, Failing()):
        assert isinstance(error, ServiceError)
        assert str(error).startswith("The model is down.")
        assert (error.code, error.status) == ("Down", 503)

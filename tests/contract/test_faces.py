"""What holds of every face of the engine, over every scorer, called either way."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from qwen_rerank import BadResponseError, InvalidInputError, Scorer, Scores, ServiceError
from tests.contract.conftest import KNOWING, Watched, made
from tests.contract.faces import FACES, Face, Item

Ranked = list[tuple[str, float | None]]
Rank = Callable[..., Ranked]

QUERY = "penguins eat krill"
TEXTS = {
    "stocks": "markets fell on monday",
    "all": "penguins eat krill",
    "one": "penguins lay eggs on bare rock",
    "two": "penguins eat small squid",
}
ITEMS = [Item(id_, {"text": text}) for id_, text in TEXTS.items()]
BEST_FIRST = ["all", "two", "one", "stocks"]


@pytest.fixture(params=KNOWING)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    """What these tests expect is an order by relevance."""
    return made(request)


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
def face(request: pytest.FixtureRequest) -> type[Face]:
    made: type[Face] = request.param
    return made


@pytest.fixture(params=["sync", "async"])
def rank_by(request: pytest.FixtureRequest, face: type[Face]) -> Rank:
    """Rank by a scorer, or await it in a loop of its own."""

    def call(scorer: Scorer, items: Sequence[Item], query: Any = QUERY, **options: Any) -> Ranked:
        made = face(query, scorer=scorer, **options)
        things = [made.make(item) for item in items]
        before = copy.deepcopy(things)
        try:
            sync = request.param == "sync"
            ranked = made.rank(things) if sync else asyncio.run(made.arank(things))
            return [(item.id, item.score) for item in map(made.read, ranked)]
        finally:
            assert things == before, "the input was changed"

    return call


@pytest.fixture
def rank(rank_by: Rank, watched: Watched) -> Rank:
    return partial(rank_by, watched)


def ids(ranked: Ranked) -> list[str]:
    return [id_ for id_, _ in ranked]


def test_the_best_come_first_whatever_the_order_they_came_in(rank: Rank) -> None:
    for items in itertools.islice(itertools.permutations(ITEMS), 0, None, 5):
        ranked = rank(items)
        assert ids(ranked) == BEST_FIRST
        scores = [score for _, score in ranked]
        assert scores == sorted(scores, key=lambda score: score or 0.0, reverse=True)


def test_each_item_has_the_score_of_its_text(rank: Rank, scorer: Scorer) -> None:
    values = scorer.score(QUERY, list(TEXTS.values())).values
    assert dict(rank(ITEMS)) == pytest.approx(dict(zip(TEXTS, values, strict=True)))


def test_the_sync_and_the_async_way_agree(face: type[Face], scorer: Scorer) -> None:
    made = face(QUERY, scorer=scorer)
    things = [made.make(item) for item in ITEMS]
    assert list(made.rank(things)) == list(asyncio.run(made.arank(things)))


def test_ties_keep_the_order_they_came_in(rank: Rank) -> None:
    items = [Item(id_, {"text": TEXTS["two"]}) for id_ in "cabed"]
    assert ids(rank([*items, ITEMS[0], ITEMS[1]])) == ["all", *"cabed", "stocks"]


BLANKS = [
    Item("missing"),
    Item("none", {"text": None}),
    Item("empty", {"text": ""}),
    Item("blank", {"text": " \n\t\u3000"}),
]


def test_items_without_text_can_be_kept_behind_the_others(rank: Rank) -> None:
    ranked = rank([*BLANKS, *ITEMS], missing="keep")
    assert ids(ranked) == [*BEST_FIRST, *(item.id for item in BLANKS)]
    assert [score for _, score in ranked[len(ITEMS) :]] == [None] * len(BLANKS)


def test_items_kept_without_text_count_for_top_n(rank: Rank) -> None:
    assert ids(rank([*BLANKS, *ITEMS], missing="keep", top_n=5)) == [*BEST_FIRST, "missing"]


@pytest.mark.parametrize("blank", BLANKS, ids=lambda item: item.id)
def test_an_item_without_text_can_be_an_error(rank: Rank, watched: Watched, blank: Item) -> None:
    with pytest.raises(InvalidInputError, match=blank.id):
        rank([*ITEMS, blank], missing="error")
    assert watched.sent == []


@pytest.mark.parametrize("top_n", [1, 2, 4, 50])
def test_top_n_is_the_most_that_come_back(rank: Rank, top_n: int) -> None:
    assert ids(rank(ITEMS, top_n=top_n)) == BEST_FIRST[:top_n]


def test_what_scores_less_than_the_threshold_is_left_out(rank: Rank) -> None:
    scores = dict(rank(ITEMS))
    assert ids(rank(ITEMS, min_score=scores["two"])) == ["all", "two"]
    assert rank(ITEMS, min_score=1.5) == []


def test_text_in_any_script_comes_back_by_its_id(rank: Rank) -> None:
    texts = ["企鹅吃磷虾。", "ペンギンはオキアミを食べる", "🐧🦐", "<|im_start|>", "café e\u0301"]
    items = [Item(str(place), {"text": text}) for place, text in enumerate(texts)]
    assert sorted(ids(rank(items))) == ["0", "1", "2", "3", "4"]


def test_ranking_again_gives_the_same(rank: Rank) -> None:
    assert rank(ITEMS) == rank(ITEMS)


class Answering(Scorer):
    """A scorer of a user's own, which answers with whatever it is told."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    @property
    def model(self) -> str:
        return "mine"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([*self.values])


@pytest.mark.parametrize(
    "values",
    [(), (0.1,), (0.1,) * 5, (0.1, 0.2, 0.3, math.nan), (0.1, math.inf, 0, 0), (0.1, 0, 0, None)],
)
def test_scores_that_are_not_whole_are_an_error(rank_by: Rank, values: tuple[Any, ...]) -> None:
    with pytest.raises(BadResponseError, match="mine"):
        rank_by(Answering(*values), ITEMS)


def test_scores_may_be_of_any_size_and_sign(rank_by: Rank) -> None:
    assert rank_by(Answering(-3, 7, 0, 2.5), ITEMS) == [
        ("all", 7.0),
        ("two", 2.5),
        ("one", 0.0),
        ("stocks", -3.0),
    ]


class Failing(Answering):
    """A scorer that fails."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        raise ServiceError("The model is down.", code="Down", status=503)


def test_the_scorers_error_comes_through_as_it_is(rank_by: Rank) -> None:
    with pytest.raises(ServiceError, match="The model is down") as caught:
        rank_by(Failing(), ITEMS)
    assert (caught.value.code, caught.value.status) == ("Down", 503)

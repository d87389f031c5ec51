"""Several lists: where a record came from, the order of the lists together, a fair budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import InvalidInputError, QwenReRanker, Ranking, Record, RerankEngine, Scores
from qwen_rerank.ranking.fusion import fair_order, fused_order
from tests.ranking.test_engine import LengthScorer, engine, ids

Rank = Callable[..., Ranking]


@pytest.fixture(params=["sync", "async"])
def rank(request: pytest.FixtureRequest) -> Rank:
    """Rerank, and arerank in a loop of its own."""

    def call(engine: RerankEngine, *args: Any) -> Ranking:
        if request.param == "sync":
            return engine.rerank(*args)
        return asyncio.run(engine.arerank(*args))

    return call


def named(**lists: str) -> dict[str, list[Record]]:
    """Lists of records with these letters as their ids, and as their texts of different length."""
    return {
        name: [Record(id_, {"text": "x" * (ord(id_) - 96)}) for id_ in letters]
        for name, letters in lists.items()
    }


def first_of_each(lists: Mapping[str, list[Record]]) -> list[Record]:
    """The records of all lists, each id once."""
    found: dict[str, Record] = {}
    for record in chain.from_iterable(lists.values()):
        found.setdefault(record.id, record)
    return list(found.values())


def ranks(records: list[Record], lists: Mapping[str, list[Record]]) -> list[dict[str, int]]:
    """Per record its rank in each list that has it."""
    orders = {name: [record.id for record in own] for name, own in lists.items()}
    return [
        {name: order.index(record.id) + 1 for name, order in orders.items() if record.id in order}
        for record in records
    ]


some_lists = st.dictionaries(
    st.sampled_from(["dense", "sparse", "title"]),
    st.lists(st.sampled_from("abcdefgh"), unique=True).map("".join),
    min_size=1,
).map(lambda lists: named(**lists))


def test_a_record_knows_the_lists_that_it_was_in_and_its_rank_in_each(rank: Rank) -> None:
    ranking = rank(engine(), "q", named(dense="ab", sparse="cb"))
    assert {record.id: record.lists for record in ranking} == {
        "a": {"dense": 1},
        "b": {"dense": 2, "sparse": 2},
        "c": {"sparse": 1},
    }


def test_a_record_without_text_does_not_hide_the_one_with_text_of_another_list(rank: Rank) -> None:
    dense = [Record("a", {"text": None}), Record("b", {"text": " "})]
    ranking = rank(engine(missing="keep"), "q", {"dense": dense, **named(sparse="ca")})
    assert [(record.id, record.score) for record in ranking] == [("c", 3), ("a", 1), ("b", None)]
    assert ranking[1].lists == {"dense": 1, "sparse": 2}
    assert (ranking.duplicates, ranking.skipped) == (1, 0)
    assert rank(engine(missing="error"), "q", {"dense": dense[:1], **named(sparse="a")})


def test_records_of_one_list_without_a_name_know_no_lists(rank: Rank) -> None:
    (record,) = rank(engine(), "q", named(dense="a")["dense"])
    assert record.lists is None


def test_two_lists_of_one_name_are_refused_and_none_is_lost(rank: Rank) -> None:
    lists = {1: named(dense="a")["dense"], "1": named(dense="b")["dense"]}
    with pytest.raises(InvalidInputError, match="are the same string: 1, '1'"):
        rank(engine(), "q", lists)
    with pytest.raises(InvalidInputError, match="are the same string: 1, '1'"):
        QwenReRanker("q", scorer=LengthScorer(), rerank_field="text").rerank(lists)


def test_a_record_without_an_id_is_one_with_those_of_its_text_in_several_lists(rank: Rank) -> None:
    def unnamed(*texts: str) -> list[Record]:
        return [Record("", {"text": text}) for text in texts]

    lists = {"one": unnamed("xx", "x", " "), "two": unnamed("xx", "xxx", "\n")}
    ranking = rank(engine(missing="keep"), "q", lists)
    assert [record.fields["text"] for record in ranking] == ["xxx", "xx", "x", " ", "\n"]
    assert ranking[1].lists == {"one": 1, "two": 1}
    assert len(rank(engine(), "q", {"only": unnamed("x", "x")})) == 2


def test_the_better_ranked_copy_of_a_record_stays(rank: Rank) -> None:
    def copy(of: str) -> Record:
        return Record("x", {"text": "same", "of": of})

    lists = {
        "one": [Record("y", {"text": "y"}), copy("one, second"), copy("one, third")],
        "two": [copy("two, first")],
        "three": [copy("three, first")],
    }
    ranking = rank(engine(), "q", lists)
    assert ranking[0].fields["of"] == "two, first"
    assert ranking[0].lists == {"one": 2, "two": 1, "three": 1}
    assert ranking.duplicates == 3


@pytest.mark.parametrize("lists", ["one", "two"])
def test_one_id_with_different_texts_is_several_records(
    rank: Rank, lists: str, caplog: pytest.LogCaptureFixture
) -> None:
    records = [Record("x", {"text": text}) for text in ("a", "bb", "a", " ")]
    records.append(Record("y", {"text": "ccc"}))
    given = {"all": records} if lists == "one" else {"a": records[:2], "b": records[2:]}
    ranking = rank(engine(), "q", given)
    assert [record.fields["text"] for record in ranking] == ["ccc", "bb", "a"]
    assert (ranking.duplicates, ranking.skipped) == (2, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ids shared: 1" in caplog.text
    assert rank(engine(), "q", records)[:] != ()
    assert [r.fields for r in rank(engine(), "q", records)] == [r.fields for r in ranking]


def test_a_record_kept_without_text_knows_its_lists_too(rank: Rank) -> None:
    lists = {"one": [Record("x", {"text": ""})]}
    assert rank(engine(missing="keep"), "q", lists)[0].lists == {"one": 1}


@given(some_lists)
def test_nothing_is_lost_without_a_budget(lists: Mapping[str, list[Record]]) -> None:
    ranking = engine().rerank("q", lists)
    assert set(ids(ranking)) == {record.id for found in lists.values() for record in found}
    assert ranking.over_budget == 0


@given(some_lists, st.integers(1, 12))
def test_the_budget_takes_an_equal_share_of_every_list(
    lists: Mapping[str, list[Record]], budget: int
) -> None:
    scorer = LengthScorer()
    ranking = engine(scorer, max_candidates=budget).rerank("q", lists)
    taken = set(ids(ranking))
    everything = {record.id for found in lists.values() for record in found}
    assert len(taken) == min(budget, len(everything))
    assert ranking.over_budget == len(everything) - len(taken)
    for found in lists.values():
        assert {record.id for record in found[: budget // len(lists)]} <= taken
    assert sum(map(len, scorer.sent)) == len(taken)


def test_two_lists_that_agree_do_not_crowd_out_a_third() -> None:
    lists = named(dense="abcdef", title="abcdef", sparse="gh")
    assert {"g", "h"} <= set(ids(engine(max_candidates=5).rerank("q", lists)))


def test_the_budget_of_one_list_is_its_first_records() -> None:
    assert set(ids(engine(max_candidates=2).rerank("q", named(dense="cabd")))) == {"c", "a"}
    assert set(ids(engine(max_candidates=2).rerank("q", named(dense="cabd")["dense"]))) == {
        "c",
        "a",
    }


def test_records_without_text_do_not_use_up_the_budget() -> None:
    blank = [Record(f"blank {index}", {"text": " "}) for index in range(3)]
    ranking = engine(max_candidates=2).rerank("q", {"one": blank + named(one="abc")["one"]})
    assert set(ids(ranking)) == {"a", "b"}
    assert (ranking.skipped, ranking.over_budget) == (3, 1)
    assert ranking.facts["over_budget"] == 1


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "10"])
def test_a_budget_that_is_no_count_is_refused(budget: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_candidates"):
        engine(max_candidates=budget)


@given(some_lists)
def test_lists_are_fused_by_reciprocal_rank(lists: Mapping[str, list[Record]]) -> None:
    records = first_of_each(lists)
    order = [records[index].id for index in fused_order(ranks(records, lists))]

    def worth(id_: str) -> float:
        positions = [[record.id for record in found] for found in lists.values()]
        return sum(1 / (61 + found.index(id_)) for found in positions if id_ in found)

    assert sorted(order) == sorted(record.id for record in records)
    if len(lists) > 1:
        assert order == sorted((record.id for record in records), key=worth, reverse=True)


def test_in_fair_order_the_lists_take_turns() -> None:
    lists = named(dense="abc", sparse="dbe")
    records = first_of_each(lists)
    order = fair_order(ranks(records, lists))
    assert [records[index].id for index in order] == ["a", "d", "b", "c", "e"]


def test_several_lists_of_zvecs_are_ranked_within_the_budget() -> None:
    reranker = QwenReRanker("q", scorer=LengthScorer(), rerank_field="text", max_candidates=2)
    found = reranker.rerank(named(dense="abc", sparse="hgf"))
    assert [record.id for record in found] == ["h", "a"]


class Unranked(LengthScorer):
    """Leaves everything as it came."""

    def score(self, query: str, texts: Any) -> Scores:
        return Scores([0.5] * len(texts), unranked=True)


def test_what_no_model_ranked_is_in_the_retrievers_order_with_their_scores(rank: Rank) -> None:
    lists = {
        name: [Record(record.id, record.fields, score=0.1) for record in found]
        for name, found in named(dense="abc", sparse="cd").items()
    }
    ranking = rank(engine(Unranked(), min_score=0.9), "q", lists)
    assert ids(ranking) == ["c", "a", "b", "d"]
    assert {record.score for record in ranking} == {0.1}
    assert ranking.unranked

"""What holds of every scorer."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from qwen_rerank import Scorer, Scores, Usage
from tests.contract.conftest import KNOWING

QUERY = "penguins eat krill"
TEXTS = [
    "markets fell on monday",
    "penguins eat krill",
    "penguins lay eggs",
    "penguins eat small squid",
]

Score = Callable[[Scorer, str, list[str]], Scores]


def _sync(scorer: Scorer, query: str, texts: list[str]) -> Scores:
    return scorer.score(query, texts)


def _async(scorer: Scorer, query: str, texts: list[str]) -> Scores:
    return asyncio.run(scorer.ascore(query, texts))


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def score(request: pytest.FixtureRequest) -> Score:
    """Score, and ascore in a loop of its own."""
    chosen: Score = request.param
    return chosen


@pytest.mark.parametrize("count", [1, 2, 1_200])
def test_there_are_as_many_scores_as_texts(scorer: Scorer, score: Score, count: int) -> None:
    texts = [f"{TEXTS[number % 4]} {number}" for number in range(count)]
    assert len(score(scorer, QUERY, texts).values) == count


def test_scores_are_finite_numbers_between_0_and_1(scorer: Scorer, score: Score) -> None:
    values = score(scorer, QUERY, [*TEXTS, "企鹅吃磷虾", "🐧", "?!", "<|endoftext|>"]).values
    assert all(type(value) is float and math.isfinite(value) for value in values)
    assert 0 <= min(values) < max(values) <= 1


@pytest.mark.parametrize("scorer", KNOWING, indirect=True)
def test_the_relevant_text_scores_highest_and_the_unrelated_lowest(
    scorer: Scorer, score: Score
) -> None:
    values = score(scorer, QUERY, TEXTS).values
    assert values.index(max(values)) == 1
    assert values.index(min(values)) == 0


def test_scores_are_in_the_order_of_the_texts(scorer: Scorer, score: Score) -> None:
    values = score(scorer, QUERY, TEXTS).values
    assert score(scorer, QUERY, TEXTS[::-1]).values == pytest.approx(values[::-1])


def test_equal_texts_have_equal_scores(scorer: Scorer, score: Score) -> None:
    values = score(scorer, QUERY, [*TEXTS, *TEXTS]).values
    assert values[:4] == values[4:]


def test_scoring_again_gives_the_same(scorer: Scorer, score: Score) -> None:
    first, second = score(scorer, QUERY, TEXTS), score(scorer, QUERY, TEXTS)
    assert first.values == second.values


async def test_the_sync_and_the_async_way_agree(scorer: Scorer) -> None:
    assert (await scorer.ascore(QUERY, TEXTS)).values == scorer.score(QUERY, TEXTS).values


def test_the_texts_passed_in_are_not_changed(scorer: Scorer, score: Score) -> None:
    texts = [*TEXTS]
    score(scorer, QUERY, texts)
    assert texts == TEXTS


def test_any_sequence_of_texts_is_taken(scorer: Scorer) -> None:
    assert scorer.score(QUERY, tuple(TEXTS)).values == scorer.score(QUERY, TEXTS).values


def test_it_has_a_models_name(scorer: Scorer) -> None:
    assert isinstance(scorer.model, str)
    assert scorer.model


def test_many_threads_share_it(scorer: Scorer, score: Score) -> None:
    expected = scorer.score(QUERY, TEXTS).values
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: score(scorer, QUERY, TEXTS).values, range(48)))
    assert results == [expected] * 48


def test_event_loops_one_after_another_share_it(scorer: Scorer) -> None:
    results = [asyncio.run(scorer.ascore(QUERY, TEXTS)).values for _ in range(4)]
    assert results == [scorer.score(QUERY, TEXTS).values] * 4


async def test_many_calls_of_one_event_loop_share_it(scorer: Scorer) -> None:
    results = await asyncio.gather(*(scorer.ascore(QUERY, TEXTS) for _ in range(32)))
    assert [scores.values for scores in results] == [scorer.score(QUERY, TEXTS).values] * 32


async def test_it_can_be_called_inside_a_running_event_loop(scorer: Scorer) -> None:
    assert len(scorer.score(QUERY, TEXTS).values) == 4


def test_usage_counts_texts_and_seconds(scorer: Scorer, score: Score) -> None:
    usage = score(scorer, QUERY, TEXTS).usage
    assert (usage.texts_sent, usage.duplicate_texts, usage.retries) == (4, 0, 0)
    assert usage.seconds > 0


def test_usage_adds_up(scorer: Scorer, score: Score) -> None:
    usages = [score(scorer, QUERY, TEXTS[:count]).usage for count in (1, 2, 3)]
    total = sum(usages, Usage())
    assert total.texts_sent + total.cache_hits == 6
    assert total.requests == sum(usage.requests for usage in usages)
    assert total.tokens == sum(usage.tokens for usage in usages)
    assert total.seconds == pytest.approx(sum(usage.seconds for usage in usages))


def test_it_works_after_pickling(scorer: Scorer, score: Score) -> None:
    loaded = pickle.loads(pickle.dumps(scorer))
    assert loaded.model == scorer.model
    assert score(loaded, QUERY, TEXTS).values == scorer.score(QUERY, TEXTS).values


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_it(scorer: Scorer, duplicate: Callable[[Scorer], Scorer]) -> None:
    assert duplicate(scorer) is scorer


def test_a_with_block_gives_it_and_closes_it(scorer: Scorer) -> None:
    with scorer as held:
        assert held is scorer
        assert len(held.score(QUERY, TEXTS).values) == 4
    scorer.close()  # closing twice is allowed


async def test_an_async_with_block_gives_it_and_closes_it(scorer: Scorer) -> None:
    async with scorer as held:
        assert held is scorer
        assert len((await held.ascore(QUERY, TEXTS)).values) == 4
    await scorer.aclose()  # closing twice is allowed

"""What holds for every scorer, sync and async."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from collections.abc import Sequence
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


def both(scorer: Scorer, texts: Sequence[str] = TEXTS) -> tuple[Scores, Scores]:
    """What score and ascore return, the latter in an event loop of its own."""
    return scorer.score(QUERY, texts), asyncio.run(scorer.ascore(QUERY, texts))


def values(scorer: Scorer, texts: Sequence[str] = TEXTS) -> list[float]:
    """The scores, which are the same sync and async."""
    scores, awaited = both(scorer, texts)
    assert scores.values == awaited.values
    return scores.values


def test_there_is_one_score_per_text(scorer: Scorer) -> None:
    texts = [f"{TEXTS[number % 4]} {number}" for number in range(1_200)]
    for count in (1, 1_200):
        assert len(values(scorer, texts[:count])) == count


def test_scores_are_finite_numbers_between_0_and_1(scorer: Scorer) -> None:
    scores = values(scorer, [*TEXTS, "企鹅吃磷虾", "🐧", "?!", "<|endoftext|>"])
    assert all(type(value) is float and math.isfinite(value) for value in scores)
    assert 0 <= min(scores) < max(scores) <= 1


@pytest.mark.parametrize("scorer", KNOWING, indirect=True)
def test_the_relevant_text_scores_highest_and_the_unrelated_lowest(scorer: Scorer) -> None:
    scores = values(scorer)
    assert scores.index(max(scores)) == 1
    assert scores.index(min(scores)) == 0


def test_scores_are_in_the_order_of_the_texts(scorer: Scorer) -> None:
    assert values(scorer, TEXTS[::-1]) == pytest.approx(values(scorer)[::-1])


def test_equal_texts_have_equal_scores(scorer: Scorer) -> None:
    scores = values(scorer, [*TEXTS, *TEXTS])
    assert scores[:4] == scores[4:]


def test_scoring_again_gives_the_same_scores(scorer: Scorer) -> None:
    assert values(scorer) == values(scorer)


def test_any_sequence_of_texts_is_accepted_and_left_as_it_is(scorer: Scorer) -> None:
    texts = [*TEXTS]
    assert values(scorer, tuple(texts)) == values(scorer, texts)
    assert texts == TEXTS


def test_it_has_a_model_name(scorer: Scorer) -> None:
    assert isinstance(scorer.model, str)
    assert scorer.model


def test_threads_share_it(scorer: Scorer) -> None:
    expected = values(scorer)
    with ThreadPoolExecutor(16) as pool:
        all_scores = list(pool.map(lambda _: values(scorer), range(48)))
    assert all_scores == [expected] * 48


def test_event_loops_share_it_one_after_another(scorer: Scorer) -> None:
    expected = scorer.score(QUERY, TEXTS).values
    assert [asyncio.run(scorer.ascore(QUERY, TEXTS)).values for _ in range(4)] == [expected] * 4


async def test_concurrent_calls_in_one_event_loop_share_it(scorer: Scorer) -> None:
    expected = scorer.score(QUERY, TEXTS).values  # and a sync call works in a running event loop
    all_scores = await asyncio.gather(*(scorer.ascore(QUERY, TEXTS) for _ in range(32)))
    assert [scores.values for scores in all_scores] == [expected] * 32


def test_usage_counts_texts_and_seconds_and_adds_up(scorer: Scorer) -> None:
    others = [f"{text} again" for text in TEXTS]  # which no cache has
    usages = [scorer.score(QUERY, TEXTS).usage, asyncio.run(scorer.ascore(QUERY, others)).usage]
    for usage in usages:
        assert (usage.texts_sent, usage.duplicate_texts, usage.retries) == (4, 0, 0)
        assert usage.seconds > 0
    total = sum(usages, Usage())
    assert total.texts_sent == 8
    assert total.requests == sum(usage.requests for usage in usages)
    assert total.tokens == sum(usage.tokens for usage in usages)
    assert total.seconds == pytest.approx(sum(usage.seconds for usage in usages))


def test_it_works_after_pickling(scorer: Scorer) -> None:
    loaded = pickle.loads(pickle.dumps(scorer))
    assert loaded.model == scorer.model
    assert values(loaded) == values(scorer)


def test_copies_are_the_scorer_itself(scorer: Scorer) -> None:
    assert copy.copy(scorer) is copy.deepcopy(scorer) is scorer


def test_a_with_block_gives_it_and_closes_it(scorer: Scorer) -> None:
    with scorer as entered:
        assert entered is scorer
        assert len(values(entered)) == 4
    scorer.close()  # closing twice is allowed


async def test_an_async_with_block_gives_it_and_closes_it(scorer: Scorer) -> None:
    async with scorer as entered:
        assert entered is scorer
        assert len((await entered.ascore(QUERY, TEXTS)).values) == 4
    await scorer.aclose()  # closing twice is allowed

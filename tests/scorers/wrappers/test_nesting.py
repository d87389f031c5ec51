"""Scorers that wrap scorers, alone, in pairs and all together.

What holds of every scorer, tests/contract/ has run over the same table of them.
"""

from __future__ import annotations

import asyncio
import operator
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen_rerank import (
    CachedScorer,
    CascadeScorer,
    EmbeddedScorer,
    FallbackScorer,
    KeepOrder,
    PassageScorer,
    QwenRerankError,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    ServiceError,
)
from tests.scorers.wrappers.conftest import Score
from tests.support.wrapped import NESTED, WRAPS, Down, Pointwise, nested

TEXTS = ["a", "b", "c", "d"]

each_nesting = pytest.mark.parametrize("names", NESTED, ids=" of ".join)


def test_the_table_has_each_alone_every_pair_and_all_together() -> None:
    assert {(name,) for name in WRAPS} < set(NESTED)
    assert ("cascade", "cached") in NESTED
    assert set(NESTED[-1]) == set(WRAPS)


@each_nesting
def test_what_wraps_a_scorer_leaves_its_order(score: Score, names: Sequence[str]) -> None:
    plain, wrapped = Pointwise(), nested(names, Pointwise())
    assert score(wrapped, "q", TEXTS).values == plain.score("q", TEXTS).values
    assert score(wrapped, "q", TEXTS[::-1]).values == plain.score("q", TEXTS[::-1]).values
    assert wrapped.model == "pointwise"


@each_nesting
async def test_sync_and_async_agree_and_lose_nothing(names: Sequence[str]) -> None:
    records = [Record(text, {"text": text}) for text in "hgfedcba"]
    engines = [RerankEngine(nested(names, Pointwise()), rerank_field="text") for _ in range(2)]
    ranking = engines[0].rerank("q", records)
    assert (await engines[1].arerank("q", records)).records == ranking.records
    assert sorted(record.id for record in ranking) == list("abcdefgh")
    assert ranking.usage.texts_sent + ranking.usage.skipped_by_cascade >= 8


@each_nesting
def test_where_the_scorer_fails_a_fallback_somewhere_keeps_the_order(
    score: Score, names: Sequence[str]
) -> None:
    wrapped = nested(names, Down())
    if "fallback" not in names:
        with pytest.raises(ServiceError):
            score(wrapped, "q", TEXTS)
    else:
        scores = score(wrapped, "q", TEXTS)
        assert scores.unranked or scores.tiers == [1, 1, 1, 1]  # it is the first of the cascade's
        assert len(scores.values) == 4


class Inspecting(Pointwise):
    """Notes in which thread and task it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.where: list[Any] = []

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.where.append(threading.get_ident())
        return super().score(query, texts)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        self.where.append(asyncio.current_task())
        assert len(asyncio.all_tasks()) == 1
        return super().score(query, texts)


class Refusing(ThreadPoolExecutor):
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("asks for a thread")


@each_nesting
async def test_it_adds_no_thread_no_task_and_no_copy_of_the_texts(names: Sequence[str]) -> None:
    asyncio.get_running_loop().set_default_executor(Refusing())
    scorer, texts = Inspecting(), [*TEXTS]
    await nested(names, scorer).ascore("q", texts)
    nested(names, scorer).score("q", texts)
    assert scorer.where == [asyncio.current_task(), threading.get_ident()]
    for asked in scorer.asked:
        assert all(map(operator.is_, asked, texts))
        assert asked is texts or "passages" in names  # which has a list of its own, of parts


@each_nesting
def test_it_pickles_with_all_that_it_wraps(score: Score, names: Sequence[str]) -> None:
    wrapped = nested(names, Pointwise())
    loaded = pickle.loads(pickle.dumps(wrapped))
    assert loaded.fingerprint == wrapped.fingerprint
    assert repr(loaded) == repr(wrapped)
    assert score(loaded, "q", TEXTS).values == score(wrapped, "q", TEXTS).values


def _close(scorer: Scorer) -> None:
    scorer.close()


def _aclose(scorer: Scorer) -> None:
    asyncio.run(scorer.aclose())


both_ways_to_close = pytest.mark.parametrize("close", [_close, _aclose], ids=["sync", "async"])


@both_ways_to_close
@each_nesting
def test_closing_it_closes_what_it_wraps(
    close: Callable[[Scorer], None], names: Sequence[str]
) -> None:
    scorer = Pointwise()
    close(nested(names, scorer))
    assert scorer.closed == 1


@both_ways_to_close
def test_all_are_closed_even_if_one_fails_to(close: Callable[[Scorer], None]) -> None:
    class Stuck(Pointwise):
        def close(self) -> None:
            raise ServiceError("It is stuck.")

    first, last = Pointwise(), Pointwise()
    with pytest.raises(ServiceError, match="It is stuck"):
        close(FallbackScorer(first, Stuck(), last))
    assert (first.closed, last.closed) == (1, 1)


def test_its_repr_shows_the_nesting() -> None:
    scorer = CachedScorer(FallbackScorer(Pointwise("a"), KeepOrder()), {"key": "value"})
    assert repr(scorer) == "CachedScorer(FallbackScorer(a, KeepOrder()), dict)"
    cascade = CascadeScorer(Pointwise("a"), scorer, keep=7)
    assert repr(cascade) == f"CascadeScorer(a, {scorer!r}, keep=7)"


def test_its_fingerprint_is_made_of_those_that_it_wraps() -> None:
    first, second = Pointwise("first"), Pointwise("second")
    fingerprints = {
        CascadeScorer(first, second, 2).fingerprint,
        CascadeScorer(first, second, 3).fingerprint,
        CascadeScorer(second, first, 2).fingerprint,
        CascadeScorer(first, first, 2).fingerprint,
        first.fingerprint,
        second.fingerprint,
    }
    assert len(fingerprints) == 6
    assert CachedScorer(first, {}).fingerprint == first.fingerprint
    assert FallbackScorer(first, second).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: CachedScorer(inner, {}),
        lambda inner: FallbackScorer(inner, Pointwise()),
        lambda inner: FallbackScorer(Pointwise(), inner),
        lambda inner: PassageScorer(inner),
        lambda inner: CascadeScorer(inner, Pointwise(), 2),
        lambda inner: CascadeScorer(Pointwise(), inner, 2),
    ],
)
@pytest.mark.parametrize("inner", [None, "qwen3-rerank", Pointwise])
def test_what_is_no_scorer_is_refused(make: Callable[[Any], Scorer], inner: Any) -> None:
    with pytest.raises(QwenRerankError, match=f"wraps scorers, got {type(inner).__name__}"):
        make(inner)


async def test_all_together_each_does_its_part() -> None:
    """The cache spares a call, the cascade spares texts, the fallback the search."""
    dear = Pointwise("dear")
    scorer = FallbackScorer(
        CascadeScorer(EmbeddedScorer(), CachedScorer(dear, {}), keep=2), KeepOrder()
    )
    texts = ["krill and fish", "penguins", "penguins eat krill", "penguins eat fish"]
    first = await scorer.ascore("penguins eat krill", texts)
    second = await scorer.ascore("penguins eat krill", texts)
    assert second.values == first.values
    assert first.tiers == second.tiers == [1, 1, 0, 0]
    assert (first.usage.texts_sent, first.usage.skipped_by_cascade) == (6, 2)
    assert (second.usage.texts_sent, second.usage.cache_hits) == (4, 2)
    assert (first.usage.cost, second.usage.cost) == (0.5, 0.0)

"""Scorers that wrap scorers, alone, in pairs and all together.

The contract tests run over the same table.
"""

from __future__ import annotations

import asyncio
import operator
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    Usage,
)
from qwen_rerank.scorers.base import probabilities
from tests.support.wrapped import NESTED, WRAPS, Down, Pointwise, nested

TEXTS = ["a", "b", "c", "d"]

each_nesting = pytest.mark.parametrize("names", NESTED, ids=" of ".join)
each_wrapper = pytest.mark.parametrize("names", [*zip(WRAPS), NESTED[-1]], ids=" of ".join)


def test_the_table_has_each_wrapper_every_pair_and_all_together() -> None:
    assert {(name,) for name in WRAPS} < set(NESTED)
    assert ("cascade", "cached") in NESTED
    assert set(NESTED[-1]) == set(WRAPS)


@each_nesting
async def test_wrappers_keep_the_scores_in_sync_and_async_calls(names: Sequence[str]) -> None:
    plain = Pointwise()
    for texts in (TEXTS, TEXTS[::-1]):
        expected = plain.score("q", texts).values
        assert nested(names, Pointwise()).score("q", texts).values == expected
        assert (await nested(names, Pointwise()).ascore("q", texts)).values == expected
        assert nested(names, Pointwise()).score_top("q", texts, 2).values == expected
    assert nested(names, Pointwise()).model == "pointwise"


@each_nesting
async def test_no_document_is_lost_in_sync_and_async_calls(names: Sequence[str]) -> None:
    records = [Record(text, {"text": text}) for text in "hgfedcba"]
    engines = [RerankEngine(nested(names, Pointwise()), rerank_field="text") for _ in range(2)]
    ranking = engines[0].rerank("q", records)
    assert (await engines[1].arerank("q", records)).records == ranking.records
    assert sorted(record.id for record in ranking) == list("abcdefgh")
    assert ranking.usage.texts_sent + ranking.usage.skipped_by_cascade >= 8


@each_nesting
def test_if_the_scorer_fails_a_fallback_anywhere_keeps_the_order(names: Sequence[str]) -> None:
    wrapped = nested(names, Down())
    if "fallback" not in names:
        with pytest.raises(ServiceError):
            wrapped.score("q", TEXTS)
    else:
        scores = wrapped.score("q", TEXTS)
        assert scores.unranked or scores.tiers == [1, 1, 1, 1]  # the cascade's first scorer ranks
        assert len(scores.values) == 4


class Saturated(Pointwise):
    """Scores by logits whose probabilities are all 1."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.asked.append(texts)
        return probabilities(Scores([40 + self.score_of(query, text) for text in texts]))


@each_nesting
def test_probabilities_that_round_to_the_same_number_are_no_ties(names: Sequence[str]) -> None:
    texts = "abcd" if "cascade" in names else "abcdefgh"
    records = [Record(text, {"text": text}) for text in texts]
    plain = Saturated()
    expected = sorted(texts, key=lambda text: -plain.score_of("q", text))
    engine = RerankEngine(nested(names, Saturated()), rerank_field="text")
    engine.rerank("q", records[::2])  # so that a cache has some of the scores
    ranking = engine.rerank("q", records)
    assert [record.id for record in ranking] == expected
    assert {record.score for record in ranking} == {1.0}


class Billed(Pointwise):
    """Fails after a part of the call was billed."""

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.asked.append(texts)
        raise ServiceError("Down.", usage=Usage(requests=1, tokens=700, texts_sent=1, cost=0.25))


def usage_of(score: Callable[[], Scores]) -> Usage | None:
    """The usage of a call that succeeds or fails."""
    try:
        return score().usage
    except ServiceError as error:
        return error.usage


@each_nesting
def test_what_a_failed_call_was_billed_is_reported(names: Sequence[str]) -> None:
    wrapped = [nested(names, Billed()) for _ in range(2)]
    for usage in (
        usage_of(lambda: wrapped[0].score("q", TEXTS)),
        usage_of(lambda: asyncio.run(wrapped[1].ascore("q", TEXTS))),
    ):
        assert usage is not None
        assert (usage.requests, usage.tokens, usage.cost) == (1, 700, 0.25)
        assert usage.seconds > 0


def test_the_calls_before_a_failure_are_reported() -> None:
    scorer = CascadeScorer(Pointwise("first"), FallbackScorer(Billed(), Billed()), keep=2)
    with pytest.raises(ServiceError) as failure:
        scorer.score("q", TEXTS)
    usage = failure.value.usage
    assert usage is not None
    assert (usage.requests, usage.tokens, usage.cost) == (3, 10 + 700 + 700, 1.0)


def test_scores_that_are_refused_are_reported() -> None:
    class Short(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            return replace(super().score(query, texts), values=[0.5])

    scores = FallbackScorer(Short(), Pointwise("second")).score("q", TEXTS)
    assert (scores.usage.requests, scores.usage.tokens) == (2, 20)


class Inspecting(Pointwise):
    """Records in which thread and task it is called."""

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
        raise AssertionError("needs a thread")


@each_nesting
async def test_wrappers_need_no_thread_no_task_and_no_copy_of_texts(names: Sequence[str]) -> None:
    asyncio.get_running_loop().set_default_executor(Refusing())
    scorer, texts = Inspecting(), [*TEXTS]
    await nested(names, scorer).ascore("q", texts)
    nested(names, scorer).score("q", texts)
    assert scorer.where == [asyncio.current_task(), threading.get_ident()]
    for asked in scorer.asked:
        assert all(map(operator.is_, asked, texts))
        assert asked is texts or "passages" in names  # which makes a list of its own


@each_wrapper
def test_wrappers_can_be_pickled(names: Sequence[str]) -> None:
    wrapped = nested(names, Pointwise())
    loaded = pickle.loads(pickle.dumps(wrapped))
    assert loaded.fingerprint == wrapped.fingerprint
    assert repr(loaded) == repr(wrapped)
    assert loaded.score("q", TEXTS).values == wrapped.score("q", TEXTS).values


@each_wrapper
def test_closing_a_wrapper_closes_the_scorers_in_it(names: Sequence[str]) -> None:
    scorer = Pointwise()
    nested(names, scorer).close()
    asyncio.run(nested(names, scorer).aclose())
    assert scorer.closed == 2


def test_all_scorers_are_closed_even_if_one_fails() -> None:
    class Stuck(Pointwise):
        def close(self) -> None:
            raise ServiceError("It is stuck.")

    first, last = Pointwise(), Pointwise()
    scorer = FallbackScorer(first, Stuck(), last)
    with pytest.raises(ServiceError, match="It is stuck"):
        scorer.close()
    with pytest.raises(ServiceError, match="It is stuck"):
        asyncio.run(scorer.aclose())
    assert (first.closed, last.closed) == (2, 2)


def test_the_repr_shows_the_nesting() -> None:
    scorer = CachedScorer(FallbackScorer(Pointwise("a"), KeepOrder()), {"key": "value"})
    assert repr(scorer) == "CachedScorer(FallbackScorer(a, KeepOrder()), dict)"
    cascade = CascadeScorer(Pointwise("a"), scorer, keep=7)
    assert repr(cascade) == f"CascadeScorer(a, {scorer!r}, keep=7)"


def test_the_fingerprint_is_made_of_those_of_the_wrapped_scorers() -> None:
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
        lambda inner: FallbackScorer(Pointwise(), inner),
        lambda inner: PassageScorer(inner),
        lambda inner: CascadeScorer(Pointwise(), inner, 2),
    ],
)
def test_only_scorers_can_be_wrapped(make: Callable[[Any], Scorer]) -> None:
    for inner in (None, "qwen3-rerank", Pointwise):
        with pytest.raises(QwenRerankError, match=f"wraps scorers, got {type(inner).__name__}"):
            make(inner)


async def test_cache_and_cascade_both_save_texts() -> None:
    expensive = Pointwise("expensive")
    scorer = FallbackScorer(
        CascadeScorer(EmbeddedScorer(), CachedScorer(expensive, {}), keep=2), KeepOrder()
    )
    texts = ["krill and fish", "penguins", "penguins eat krill", "penguins eat fish"]
    first = await scorer.ascore("penguins eat krill", texts)
    second = await scorer.ascore("penguins eat krill", texts)
    assert second.values == first.values
    assert first.tiers == second.tiers == [1, 1, 0, 0]
    assert (first.usage.texts_sent, first.usage.skipped_by_cascade) == (6, 2)
    assert (second.usage.texts_sent, second.usage.cache_hits) == (4, 2)
    assert (first.usage.cost, second.usage.cost) == (0.5, 0.0)

"""CachedScorer: the same scores with less sent, whatever the store does and whoever else asks."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cachetools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank import (
    CachedScorer,
    CascadeScorer,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    LocalScorer,
    RateLimitError,
    Scorer,
    Scores,
    ServiceError,
    Usage,
)
from tests.scorers.wrappers.conftest import WAYS, Score
from tests.support.loopback import LoopbackDashScope
from tests.support.wrapped import Piecewise, Pointwise


class Moody(dict[str, Any]):
    """A store that does its duty, forgets, garbles or fails, as its moods say in turn."""

    def __init__(self, moods: Sequence[str]) -> None:
        self._moods = iter(moods)

    def get(self, key: str, default: Any = None) -> Any:
        match next(self._moods, "dutiful"):
            case "dutiful":
                return super().get(key, default)
            case "forgetful":
                return default
            case "failing":
                raise OSError("The disk is gone.")
            case garbage:
                return garbage

    def __setitem__(self, key: str, value: Any) -> None:
        match next(self._moods, "dutiful"):
            case "failing":
                raise OSError("No space left.")
            case "dutiful":
                super().__setitem__(key, value)


garbage = st.sampled_from(["", "NaN", "1e999", "true", "[0.5]", "[0.5, -1, 2]", '"0.5"', "[" * 999])
moods = st.lists(st.sampled_from(["dutiful", "forgetful", "failing"]) | garbage, max_size=30)
calls = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.lists(st.sampled_from("abcdefgh\ud800"), min_size=1, unique=True),
        st.sampled_from(WAYS),
    ),
    max_size=8,
)


@settings(deadline=None)  # event loops and threads take as long as they take
@given(calls, moods)
def test_a_cache_changes_no_score_whatever_its_store_does(
    calls: list[tuple[str, list[str], Score]], moods: list[str]
) -> None:
    plain, cached = Pointwise(), CachedScorer(Pointwise(), Moody(moods))
    for query, texts, score in calls:
        scores = score(cached, query, texts)
        assert scores.values == plain.score(query, texts).values
        assert scores.usage.texts_sent + scores.usage.cache_hits == len(texts)


@settings(deadline=None)
@given(calls)
def test_with_a_store_that_works_no_text_is_sent_twice_for_a_query(
    calls: list[tuple[str, list[str], Score]],
) -> None:
    scorer = Pointwise()
    cached = CachedScorer(scorer, {})
    seen: set[tuple[str, str]] = set()
    for query, texts, score in calls:
        scorer.asked.clear()
        usage = score(cached, query, texts).usage
        new = [text for text in texts if (query, text) not in seen]
        assert scorer.asked == ([new] if new else [])
        assert (usage.texts_sent, usage.cache_hits) == (len(new), len(texts) - len(new))
        seen.update((query, text) for text in texts)


@settings(deadline=None)
@given(calls, st.lists(st.booleans(), max_size=8))
def test_one_call_never_mixes_the_scores_of_two_models(
    calls: list[tuple[str, list[str], Score]], failing: list[bool]
) -> None:
    first, second = Shaky(failing), Pointwise("second")
    cached = CachedScorer(FallbackScorer(first, second), {})
    for query, texts, score in calls:
        scores = score(cached, query, texts)
        answering = first if scores.model is None else second
        assert scores.values == [answering.score_of(query, text) for text in texts]
        assert scores.model in (None, "second")


class Shaky(Pointwise):
    """Fails now and then, as it is told."""

    def __init__(self, failing: Sequence[bool]) -> None:
        super().__init__()
        self._failing = iter(failing)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        if next(self._failing, False):
            raise RateLimitError("Too many requests.")
        return super().score(query, texts)


def test_where_all_is_known_nothing_is_sent_and_nothing_costs(score: Score) -> None:
    scorer = Pointwise()
    cached = CachedScorer(scorer, {})
    score(cached, "q", ["a", "b"])
    usage = score(cached, "q", ["b", "a"]).usage
    assert scorer.asked == [["a", "b"]]
    assert usage == Usage(cache_hits=2, cost=0.0, seconds=usage.seconds)
    assert usage.seconds > 0


def test_where_something_is_missing_the_usage_is_that_of_what_was_sent(score: Score) -> None:
    cached = CachedScorer(Pointwise(), {})
    score(cached, "q", ["a", "b"])
    usage = score(cached, "q", ["c", "a", "b"]).usage
    assert (usage.requests, usage.tokens, usage.cost) == (1, 10, 0.5)
    assert (usage.texts_sent, usage.cache_hits) == (1, 2)


def test_scores_of_another_model_are_not_kept_and_stand_beside_none_that_were(
    score: Score,
) -> None:
    first, second = Shaky([False, True]), Pointwise("second")
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(first, second), store)
    score(cached, "q", ["a"])
    second_only = Shaky([True, True])
    cached = CachedScorer(FallbackScorer(second_only, second), store)
    scores = score(cached, "q", ["a", "b"])
    assert scores.model == "second"
    assert scores.values == [second.score_of("q", text) for text in "ab"]
    assert second.asked == [["b"], ["a", "b"]]
    assert (scores.usage.texts_sent, scores.usage.cache_hits, scores.usage.requests) == (3, 0, 2)
    assert len(store) == 1


def test_a_fallback_of_the_same_name_but_other_options_is_another_model(score: Score) -> None:
    class Instructed(Pointwise):
        @property
        def fingerprint(self) -> tuple[Any, ...]:
            return (*super().fingerprint, "Find contradictions.")

    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), Instructed()), store)
    assert score(cached, "q", ["a"]).model == "pointwise"
    assert store == {}


def test_a_fallback_that_is_the_same_model_elsewhere_is_cached(score: Score) -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), Pointwise()), store)
    score(cached, "q", ["a"])
    assert score(cached, "q", ["a"]).usage.cache_hits == 1


def test_the_order_that_a_last_resort_leaves_is_not_kept(score: Score) -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), KeepOrder()), store)
    assert score(cached, "q", ["a", "b"]).unranked
    assert store == {}
    assert not score(cached, "q", ["a", "b"]).unranked
    assert len(store) == 2


def test_the_first_models_scores_are_used_while_it_is_down(score: Score) -> None:
    cached = CachedScorer(FallbackScorer(Shaky([False, True]), KeepOrder()), {})
    values = score(cached, "q", ["a", "b"]).values
    scores = score(cached, "q", ["a", "b"])
    assert (scores.values, scores.unranked, scores.model) == (values, False, None)


def test_passages_are_kept_with_their_scores(score: Score) -> None:
    cached = CachedScorer(Piecewise(), {})
    texts = ["long", "x", "longer"]
    score(cached, "q", texts[:2])
    scores = score(cached, "q", texts)
    assert scores.passages == [(1, 4), None, (1, 6)]
    assert scores.values == Pointwise().score("q", texts).values
    assert score(cached, "q", ["x"]).passages is None


def test_the_store_holds_hashes_and_scores_and_no_text() -> None:
    store: dict[str, Any] = {}
    CachedScorer(Pointwise(), store).score("a secret question", ["a secret answer"])
    ((key, value),) = store.items()
    assert len(key) == 64
    assert int(key, 16)
    assert value == repr(Pointwise().score_of("a secret question", "a secret answer"))


short = st.text('a"]\ud800\xff', max_size=3)


@given(st.lists(st.tuples(short, short), unique=True, max_size=20))
def test_different_queries_and_texts_have_different_keys(pairs: list[tuple[str, str]]) -> None:
    store: dict[str, Any] = {}
    for query, text in pairs:
        CachedScorer(Pointwise(), store).score(query, [text])
    assert len(store) == len(pairs)


def kept_by(*scorers: Scorer) -> int:
    """How many scores a store has of one text that each of these scorers scored."""
    store: dict[str, Any] = {}
    for scorer in scorers:
        CachedScorer(scorer, store).score("q", ["a"])
    return len(store)


def test_scorers_of_one_fingerprint_share_a_store_and_others_only_the_room(
    dashscope: LoopbackDashScope,
) -> None:
    assert kept_by(DashScopeScorer(), DashScopeScorer(timeout=5), Pointwise()) == 2
    assert len(dashscope.received) == 1
    instructed = DashScopeScorer("qwen3-rerank", instruct="Find contradictions.")
    assert kept_by(DashScopeScorer(), DashScopeScorer("qwen3-rerank"), instructed) == 3
    assert kept_by(CachedScorer(Pointwise(), {}), Pointwise()) == 1


class Broken:
    """A store whose every use fails, with words that no log should have."""

    def get(self, key: str, /) -> Any:
        raise ConnectionError(f"redis://user:password@host has no {key}")

    def __setitem__(self, key: str, value: str, /) -> None:
        raise ConnectionError("password")


def test_a_broken_store_is_logged_once_and_passed_by(
    score: Score, caplog: pytest.LogCaptureFixture
) -> None:
    cached = CachedScorer(Pointwise(), Broken())
    for _ in range(3):
        assert score(cached, "q", ["a", "b"]).values == Pointwise().score("q", ["a", "b"]).values
    (record,) = caplog.records
    assert (record.name, record.levelno) == (
        "qwen_rerank.scorers.wrappers.cached",
        logging.WARNING,
    )
    assert "builtins.ConnectionError" in record.getMessage()
    assert "password" not in caplog.text
    assert record.exc_info is None


def test_a_store_that_fails_is_not_asked_for_the_other_texts_of_the_call() -> None:
    class Slow(Broken):
        asked = 0

        def get(self, key: str, /) -> Any:
            self.asked += 1
            return super().get(key)

    store = Slow()
    CachedScorer(Pointwise(), store).score("q", "abcdefgh")
    assert store.asked == 1


def test_a_store_that_is_full_keeps_what_fits(caplog: pytest.LogCaptureFixture) -> None:
    cached = CachedScorer(Pointwise(), cachetools.LRUCache(maxsize=2))
    cached.score("q", "abcd")
    assert cached.score("q", "abcd").usage.cache_hits == 2
    assert caplog.records == []
    too_small = CachedScorer(Pointwise(), cachetools.LRUCache(maxsize=2, getsizeof=len))
    assert too_small.score("q", "a").values == Pointwise().score("q", "a").values
    assert "builtins.ValueError" in caplog.text


class Meeting(Pointwise):
    """Answers only once two calls are there."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = threading.Barrier(2)
        self._tasks = asyncio.Barrier(2)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self._threads.wait(20)
        return super().score(query, texts)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        async with asyncio.timeout(20):
            await self._tasks.wait()
        return super().score(query, texts)


def test_two_threads_that_miss_the_same_text_at_once_both_get_it() -> None:
    scorer = Meeting()
    cached = CachedScorer(scorer, {})
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: cached.score("q", ["a"]).values, range(2)))
    assert results == [[scorer.score_of("q", "a")]] * 2
    assert cached.score("q", ["a"]).usage.cache_hits == 1
    assert scorer.asked == [["a"], ["a"]]


@pytest.mark.parametrize("make", [dict, lambda: cachetools.LRUCache(9)], ids=["dict", "LRUCache"])
async def test_two_tasks_that_miss_the_same_text_at_once_both_get_it(
    make: Callable[[], Any],
) -> None:
    scorer = Meeting()
    cached = CachedScorer(scorer, make())
    results = await asyncio.gather(*(cached.ascore("q", ["a"]) for _ in range(2)))
    assert [scores.values for scores in results] == [[scorer.score_of("q", "a")]] * 2
    assert (await cached.ascore("q", ["a"])).usage.cache_hits == 1


class OneAtATime(dict[str, Any]):
    """A store that can't be used by two threads at once, and says so."""

    busy = False

    def get(self, key: str, default: Any = None) -> Any:
        assert not self.busy
        self.busy = True
        time.sleep(0)  # lets another thread run
        self.busy = False
        return super().get(key, default)


def test_scorers_that_share_a_store_use_it_one_at_a_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = OneAtATime()
    scorers = [CachedScorer(Pointwise(f"model {number}"), store) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: scorers[number % 4].score("q", "abcdefgh"), range(200)))
    assert caplog.records == []


class Watched(dict[str, Any]):
    """A store that knows in which threads it was used; no plain dict."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def get(self, key: str, default: Any = None) -> Any:
        self.threads.append(threading.get_ident())
        return super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self.threads.append(threading.get_ident())
        super().__setitem__(key, value)


class Counting(ThreadPoolExecutor):
    """Counts what it is handed."""

    handed = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.handed += 1
        return super().submit(*args, **kwargs)


async def test_an_event_loop_never_waits_for_a_store_that_may_be_slow() -> None:
    store, executor = Watched(), Counting(1)
    asyncio.get_running_loop().set_default_executor(executor)
    cached = CachedScorer(Pointwise(), store)
    await cached.ascore("q", "abcdefgh")
    assert executor.handed == 2  # all reads in one, all writes in another
    await cached.ascore("q", "abcdefgh")
    assert executor.handed == 3
    assert len(store.threads) == 8 + 8 + 8
    assert threading.get_ident() not in store.threads


def test_without_an_event_loop_the_store_is_used_in_the_callers_thread() -> None:
    store = Watched()
    CachedScorer(Pointwise(), store).score("q", "abc")
    assert set(store.threads) == {threading.get_ident()}


def test_a_pickled_scorer_takes_a_copy_of_a_dict_along() -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(Pointwise(), store)
    cached.score("q", ["a"])
    loaded = pickle.loads(pickle.dumps(cached))
    assert loaded.score("q", ["a", "b"]).usage.cache_hits == 1
    assert len(store) == 1


def test_closing_it_leaves_the_store_open() -> None:
    scorer, store = Pointwise(), cachetools.LRUCache(9)
    with CachedScorer(scorer, store) as cached:
        cached.score("q", ["a"])
    assert scorer.closed == 1
    assert len(store) == 1


@pytest.mark.parametrize(
    "scorer",
    [
        EmbeddedScorer(),
        KeepOrder(),
        CascadeScorer(EmbeddedScorer(), Pointwise(), keep=2),
        FallbackScorer(EmbeddedScorer(), Pointwise()),
    ],
    ids=lambda scorer: type(scorer).__name__,
)
def test_a_scorer_whose_scores_depend_on_the_other_texts_is_refused(scorer: Scorer) -> None:
    with pytest.raises(InvalidInputError, match=r"depend on which texts.*Put the cache inside"):
        CachedScorer(scorer, {})


@pytest.mark.parametrize("store", [None, [], "scores.db", object()])
def test_a_store_that_is_no_mapping_is_refused(store: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"a mapping, got {type(store).__name__}"):
        CachedScorer(Pointwise(), store)


@pytest.mark.parametrize("scorer", [None, "gte-rerank-v2", LocalScorer])
def test_what_is_no_scorer_is_refused(scorer: Any) -> None:
    with pytest.raises(InvalidInputError, match="CachedScorer wraps scorers, got"):
        CachedScorer(scorer, {})


def test_the_scorers_errors_come_through(score: Score) -> None:
    class Bad(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise ServiceError("The model is down.")

    with pytest.raises(ServiceError, match="The model is down"):
        score(CachedScorer(Bad(), {}), "q", ["a"])

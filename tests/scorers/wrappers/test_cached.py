"""CachedScorer: the same scores with fewer texts sent, whatever the store does."""

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
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import (
    CachedScorer,
    CascadeScorer,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    RateLimitError,
    Scorer,
    Scores,
    ServiceError,
    Usage,
)
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.scorers.wrappers.conftest import WAYS, Score
from tests.support.wrapped import Piecewise, Pointwise


class Moody(dict[str, Any]):
    """A store that works, forgets, returns garbage or fails, one mood after another."""

    def __init__(self, moods: Sequence[str]) -> None:
        self._moods = iter(moods)

    def get(self, key: str, default: Any = None) -> Any:
        match next(self._moods, "working"):
            case "working":
                return super().get(key, default)
            case "forgetful":
                return default
            case "failing":
                raise OSError("The disk is gone.")
            case garbage:
                return garbage

    def __setitem__(self, key: str, value: Any) -> None:
        match next(self._moods, "working"):
            case "failing":
                raise OSError("No space left.")
            case "working":
                super().__setitem__(key, value)


garbage = st.sampled_from(["", "NaN", "1e999", "true", "[0.5]", "[0.5, -1, 2]", '"0.5"', "[" * 999])
moods = st.lists(st.sampled_from(["working", "forgetful", "failing"]) | garbage, max_size=30)
calls = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.lists(st.sampled_from("abcdefgh\ud800"), min_size=1, unique=True),
        st.sampled_from(WAYS),
    ),
    max_size=8,
)


@given(calls, moods)
def test_a_cache_never_changes_scores_whatever_its_store_does(
    calls: list[tuple[str, list[str], Score]], moods: list[str]
) -> None:
    plain, cached = Pointwise(), CachedScorer(Pointwise(), Moody(moods))
    for query, texts, score in calls:
        scores = score(cached, query, texts)
        assert scores.values == plain.score(query, texts).values
        assert scores.usage.texts_sent + scores.usage.cache_hits == len(texts)


@given(calls)
def test_no_text_is_sent_twice_for_a_query(
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


@given(calls, st.lists(st.booleans(), max_size=8))
def test_a_call_never_mixes_the_scores_of_two_models(
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
    """Fails in some calls, in this order."""

    def __init__(self, failing: Sequence[bool]) -> None:
        super().__init__()
        self._failing = iter(failing)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        if next(self._failing, False):
            raise RateLimitError("Too many requests.")
        return super().score(query, texts)


def test_if_all_scores_are_cached_nothing_is_sent_and_nothing_costs(score: Score) -> None:
    scorer = Pointwise()
    cached = CachedScorer(scorer, {})
    score(cached, "q", ["a", "b"])
    usage = score(cached, "q", ["b", "a"]).usage
    assert scorer.asked == [["a", "b"]]
    assert usage == Usage(cache_hits=2, cost=0.0, seconds=usage.seconds)
    assert usage.seconds > 0


def test_the_usage_is_that_of_the_texts_that_were_sent() -> None:
    cached = CachedScorer(Pointwise(), {})
    cached.score("q", ["a", "b"])
    usage = cached.score("q", ["c", "a", "b"]).usage
    assert (usage.requests, usage.tokens, usage.cost) == (1, 10, 0.5)
    assert (usage.texts_sent, usage.cache_hits) == (1, 2)


def test_scores_of_another_model_are_neither_kept_nor_mixed_with_cached_ones() -> None:
    first, second = Shaky([False, True]), Pointwise("second")
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(first, second), store)
    cached.score("q", ["a"])
    second_only = Shaky([True, True])
    cached = CachedScorer(FallbackScorer(second_only, second), store)
    scores = cached.score("q", ["a", "b"])
    assert scores.model == "second"
    assert scores.values == [second.score_of("q", text) for text in "ab"]
    assert second.asked == [["b"], ["a", "b"]]
    assert (scores.usage.texts_sent, scores.usage.cache_hits, scores.usage.requests) == (3, 0, 2)
    assert len(store) == 1


def test_the_same_model_with_other_options_counts_as_another() -> None:
    class Instructed(Pointwise):
        @property
        def fingerprint(self) -> tuple[Any, ...]:
            return (*super().fingerprint, "Find contradictions.")

    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), Instructed()), store)
    assert cached.score("q", ["a"]).model == "pointwise"
    assert store == {}


def test_scores_of_a_fallback_to_the_same_model_are_kept() -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), Pointwise()), store)
    cached.score("q", ["a"])
    assert cached.score("q", ["a"]).usage.cache_hits == 1


def test_the_values_of_keep_order_are_not_kept() -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(FallbackScorer(Shaky([True]), KeepOrder()), store)
    assert cached.score("q", ["a", "b"]).unranked
    assert store == {}
    assert not cached.score("q", ["a", "b"]).unranked
    assert len(store) == 2


def test_cached_scores_are_used_while_the_model_is_down() -> None:
    cached = CachedScorer(FallbackScorer(Shaky([False, True]), KeepOrder()), {})
    values = cached.score("q", ["a", "b"]).values
    scores = cached.score("q", ["a", "b"])
    assert (scores.values, scores.unranked, scores.model) == (values, False, None)


def test_passages_are_cached_with_their_scores() -> None:
    cached = CachedScorer(Piecewise(), {})
    texts = ["long", "x", "longer"]
    cached.score("q", texts[:2])
    scores = cached.score("q", texts)
    assert scores.passages == [(1, 4), None, (1, 6)]
    assert scores.values == Pointwise().score("q", texts).values
    assert cached.score("q", ["x"]).passages is None


def test_the_store_holds_no_text() -> None:
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
    """How many entries a store has after each of these scorers scored one text."""
    store: dict[str, Any] = {}
    for scorer in scorers:
        CachedScorer(scorer, store).score("q", ["a"])
    return len(store)


def test_only_scorers_with_the_same_fingerprint_share_scores(
    dashscope: LoopbackDashScope,
) -> None:
    assert kept_by(DashScopeScorer(), DashScopeScorer(timeout=5), Pointwise()) == 2
    assert len(dashscope.received) == 1
    instructed = DashScopeScorer("qwen3-rerank", instruct="Find contradictions.")
    assert kept_by(DashScopeScorer(), DashScopeScorer("gte-rerank-v2"), instructed) == 3
    assert kept_by(CachedScorer(Pointwise(), {}), Pointwise()) == 1


class Broken:
    """A store that always fails, with messages that must not be logged."""

    def get(self, key: str, /) -> Any:
        raise ConnectionError(f"redis://user:password@host has no {key}")

    def __setitem__(self, key: str, value: str, /) -> None:
        raise ConnectionError("password")


def test_a_broken_store_is_logged_once_and_does_no_harm(
    score: Score, caplog: pytest.LogCaptureFixture
) -> None:
    cached = CachedScorer(Pointwise(), Broken(), timeout=60)
    for _ in range(3):
        assert score(cached, "q", ["a", "b"]).values == Pointwise().score("q", ["a", "b"]).values
    (record,) = caplog.records
    assert (record.name, record.levelno) == (
        "qwen_rerank.scorers.wrappers.stores",
        logging.WARNING,
    )
    assert "builtins.ConnectionError" in record.getMessage()
    assert "password" not in caplog.text
    assert record.exc_info is None


class Clock:
    """The time as a CachedScorer sees it."""

    now = 1e6

    def __call__(self) -> float:
        return self.now


class Slow(Broken):
    """An empty store whose reads take some seconds, and fail while it is down."""

    def __init__(self, clock: Clock, seconds: float, *, is_down: bool) -> None:
        self._clock = clock
        self._seconds = seconds
        self.is_down = is_down
        self.reads = 0

    def get(self, key: str, /) -> Any:
        self.reads += 1
        self._clock.now += self._seconds
        return super().get(key) if self.is_down else None

    def __setitem__(self, key: str, value: str, /) -> None:
        pass


def test_a_store_that_failed_is_left_alone_for_a_while(
    score: Score, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    store = Slow(clock, 0.5, is_down=True)
    cached = CachedScorer(Pointwise(), store, timeout=60, cooldown=30, clock=clock)
    reads = []
    for _ in range(3):
        score(cached, "q", [*"abcdefgh"])
        reads.append(store.reads)
        clock.now += 20
    assert reads == [1, 1, 2]
    assert len(caplog.records) == 1


def test_a_failure_is_logged_again_after_the_store_worked(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store = Slow(clock, 0, is_down=True)
    cached = CachedScorer(Pointwise(), store, timeout=60, cooldown=30, clock=clock)
    for store.is_down in (True, True, False, True):
        cached.score("q", [*"abc"])
        clock.now += 31
    assert len(caplog.records) == 2


def test_calls_that_wait_for_a_store_that_fails_go_on_without_it() -> None:
    class Queued(Broken):
        reads = 0

        def get(self, key: str, /) -> Any:
            self.reads += 1
            assert all_are_there.wait(20)
            return super().get(key)

    store, all_are_there = Queued(), threading.Event()
    cached = CachedScorer(Pointwise(), store, timeout=60)
    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(cached.score, "q", ["a"]) for _ in range(10)]
        all_are_there.set()
        assert [len(call.result().values) for call in calls] == [1] * 10
    assert store.reads == 1


def test_a_slow_store_is_read_until_its_time_is_over() -> None:
    clock = Clock()
    store = Slow(clock, 0.3, is_down=False)
    CachedScorer(Pointwise(), store, timeout=1, clock=clock).score("q", [*"abcdefgh"])
    assert store.reads == 4


async def test_an_event_loop_goes_on_without_a_store_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hanging(Broken):
        def get(self, key: str, /) -> Any:
            assert is_over.wait(100)

    is_over = threading.Event()
    cached = CachedScorer(Pointwise(), Hanging(), timeout=0.01)
    try:
        assert (await cached.ascore("q", [*"ab"])).usage.texts_sent == 2
    finally:
        is_over.set()
    assert "builtins.TimeoutError" in caplog.text


class Bulk(dict[str, Any]):
    """A store that reads and writes many keys at once, as redis does."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def mget(self, keys: list[str]) -> list[Any]:
        self.calls.append("mget")
        return [dict.get(self, key) for key in keys]

    def mset(self, values: dict[str, str]) -> None:
        self.calls.append("mset")
        self.update(values)

    def get(self, key: str, default: Any = None) -> Any:
        self.calls.append("get")

    def __setitem__(self, key: str, value: str) -> None:
        self.calls.append("set")


class Mapped(dict[str, Any]):
    """A store that returns many keys as a mapping, as clients of memcached do."""

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        return {key: self[key] for key in keys if key in self}

    def set_many(self, values: dict[str, str]) -> None:
        self.update(values)

    def get(self, key: str, default: Any = None) -> Any:
        raise AssertionError("reads a single key")

    def __setitem__(self, key: str, value: str) -> None:
        raise AssertionError("writes a single key")


class Prefixed(Bulk):
    """A store that changes how a single key is read and written."""

    def get(self, key: str, default: Any = None) -> Any:
        return dict.get(self, f"prefix-{key}")

    def __setitem__(self, key: str, value: str) -> None:
        dict.__setitem__(self, f"prefix-{key}", value)


@pytest.mark.parametrize(
    ("store", "calls"), [(Bulk(), ["mget", "mset", "mget"]), (Mapped(), None), (Prefixed(), [])]
)
def test_a_store_is_used_for_many_keys_at_once_if_it_can(store: Any, calls: Any) -> None:
    cached = CachedScorer(Pointwise(), store)
    values = cached.score("q", [*"abcdefgh"]).values
    scores = cached.score("q", [*"abcdefgh"])
    assert (scores.values, scores.usage.cache_hits) == (values, 8)
    assert getattr(store, "calls", None) == calls


def test_a_full_store_keeps_what_fits(caplog: pytest.LogCaptureFixture) -> None:
    cached = CachedScorer(Pointwise(), cachetools.LRUCache(maxsize=2))
    cached.score("q", [*"abcd"])
    assert cached.score("q", [*"abcd"]).usage.cache_hits == 2
    assert caplog.records == []
    too_small = CachedScorer(Pointwise(), cachetools.LRUCache(maxsize=2, getsizeof=len))
    assert too_small.score("q", [*"a"]).values == Pointwise().score("q", [*"a"]).values
    assert "builtins.ValueError" in caplog.text


class Meeting(Pointwise):
    """Scores when two calls have arrived."""

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


def test_two_threads_may_miss_the_same_text_at_once() -> None:
    scorer = Meeting()
    cached = CachedScorer(scorer, {})
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: cached.score("q", ["a"]).values, range(2)))
    assert results == [[scorer.score_of("q", "a")]] * 2
    assert cached.score("q", ["a"]).usage.cache_hits == 1
    assert scorer.asked == [["a"], ["a"]]


@pytest.mark.parametrize("make", [dict, lambda: cachetools.LRUCache(9)], ids=["dict", "LRUCache"])
async def test_two_tasks_may_miss_the_same_text_at_once(
    make: Callable[[], Any],
) -> None:
    scorer = Meeting()
    cached = CachedScorer(scorer, make(), timeout=60)
    results = await asyncio.gather(*(cached.ascore("q", ["a"]) for _ in range(2)))
    assert [scores.values for scores in results] == [[scorer.score_of("q", "a")]] * 2
    assert (await cached.ascore("q", ["a"])).usage.cache_hits == 1


class OneAtATime(dict[str, Any]):
    """A store that notices if two threads use it at once."""

    busy = False

    def get(self, key: str, default: Any = None) -> Any:
        assert not self.busy
        self.busy = True
        time.sleep(0)  # lets another thread run
        self.busy = False
        return super().get(key, default)


def test_scorers_that_share_a_store_take_turns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = OneAtATime()
    scorers = [CachedScorer(Pointwise(f"model {number}"), store, timeout=60) for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: scorers[number % 4].score("q", [*"abcdefgh"]), range(200)))
    assert caplog.records == []


class Watched(dict[str, Any]):
    """A store that records in which threads it was used."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def get(self, key: str, default: Any = None) -> Any:
        self.threads.append(threading.get_ident())
        return super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self.threads.append(threading.get_ident())
        super().__setitem__(key, value)


class Refusing(ThreadPoolExecutor):
    """The threads that the rest of a program needs."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("needs a thread of the event loop")


async def test_an_event_loop_never_waits_for_a_store() -> None:
    asyncio.get_running_loop().set_default_executor(Refusing())
    store = Watched()
    cached = CachedScorer(Pointwise(), store, timeout=60)
    for _ in range(2):
        await cached.ascore("q", [*"abcdefgh"])
    assert len(store.threads) == 8 + 8 + 8
    assert threading.get_ident() not in store.threads


def test_sync_calls_use_the_store_in_their_own_thread() -> None:
    store = Watched()
    CachedScorer(Pointwise(), store).score("q", [*"abc"])
    assert set(store.threads) == {threading.get_ident()}


def test_a_pickled_scorer_includes_a_copy_of_its_dict() -> None:
    store: dict[str, Any] = {}
    cached = CachedScorer(Pointwise(), store)
    cached.score("q", ["a"])
    loaded = pickle.loads(pickle.dumps(cached))
    assert loaded.score("q", ["a", "b"]).usage.cache_hits == 1
    assert len(store) == 1


def test_closing_leaves_the_store_open() -> None:
    scorer, store = Pointwise(), cachetools.LRUCache(9)
    with CachedScorer(scorer, store) as cached:
        cached.score("q", ["a"])
    assert scorer.closed == 1
    assert len(store) == 1


@pytest.mark.parametrize(
    "scorer",
    [
        EmbeddedScorer(),
        CascadeScorer(EmbeddedScorer(), Pointwise(), keep=2),
        FallbackScorer(EmbeddedScorer(), Pointwise()),
    ],
    ids=lambda scorer: type(scorer).__name__,
)
def test_scorers_that_are_not_pointwise_are_refused(scorer: Scorer) -> None:
    with pytest.raises(InvalidInputError, match=r"depend on the other texts.*put the cache around"):
        CachedScorer(scorer, {})


@pytest.mark.parametrize("store", [None, "scores.db"])
def test_a_store_must_be_a_mapping(store: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"a mapping, got {type(store).__name__}"):
        CachedScorer(Pointwise(), store)


def test_errors_of_the_scorer_are_raised() -> None:
    class Bad(Pointwise):
        def score(self, query: str, texts: Sequence[str]) -> Scores:
            raise ServiceError("The model is down.")

    with pytest.raises(ServiceError, match="The model is down"):
        CachedScorer(Bad(), {}).score("q", ["a"])

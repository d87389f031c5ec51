"""The stores that CachedScorer's documentation names, each as it is."""

from __future__ import annotations

import asyncio
import dbm.dumb
import pickle
import shelve
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cachetools
import diskcache
import fakeredis
import pytest
from lmdbm import Lmdb

from qwen_rerank import CachedScorer, Passage
from tests.support.wrapped import Piecewise, Pointwise

Open = Callable[[Path], AbstractContextManager[Any]]


@contextmanager
def _dumb(path: Path) -> Iterator[Any]:
    with dbm.dumb.open(str(path / "dumb"), "c") as store:  # the one dbm that every Python has
        yield store


@contextmanager
def _shelf(path: Path) -> Iterator[Any]:
    with _dumb(path) as kept, shelve.Shelf(kept) as store:
        yield store


PERSISTENT: dict[str, Open] = {
    "diskcache.Cache": lambda path: diskcache.Cache(str(path)),
    "shelve": _shelf,
    "dbm.dumb": _dumb,
    "lmdbm.Lmdb": lambda path: closing(Lmdb.open(str(path / "lmdb"), "c")),
}
STORES: dict[str, Open] = {
    "dict": lambda path: nullcontext({}),
    "cachetools.LRUCache": lambda path: nullcontext(cachetools.LRUCache(100)),
    "cachetools.TTLCache": lambda path: nullcontext(cachetools.TTLCache(100, ttl=600)),
    "redis.Redis": lambda path: closing(fakeredis.FakeRedis()),
    **PERSISTENT,
}


@pytest.fixture(params=STORES.values(), ids=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path) as opened:
        yield opened


def _leave(store: Any) -> None:
    """Close what diskcache opens for a thread: from Python 3.13 on SQLite warns if it is not."""
    if isinstance(store, diskcache.Cache):
        store.close()


async def test_a_store_gives_back_what_it_was_given(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    cached = CachedScorer(Piecewise(), store)
    first = cached.score("q", ["a", "long"])
    second = await cached.ascore("q", ["long", "c"])
    await asyncio.to_thread(_leave, store)
    third = cached.score("q", ["a", "long", "c"])
    assert (second.usage.texts_sent, second.usage.cache_hits) == (1, 1)
    assert (third.usage.texts_sent, third.usage.cache_hits) == (0, 3)
    assert third.values == [*first.values, second.values[1]]
    assert third.passages == [None, Passage(1, 4), None]
    assert caplog.records == []


@pytest.mark.parametrize("open_store", PERSISTENT.values(), ids=list(PERSISTENT))
def test_what_is_kept_on_disk_is_there_the_next_time(open_store: Open, tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        CachedScorer(Pointwise(), store).score("q", ["a", "b"])
    with open_store(tmp_path) as store:
        assert CachedScorer(Pointwise(), store).score("q", ["a", "b"]).usage.cache_hits == 2


def test_a_pickled_scorer_uses_the_same_folder(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as store:
        cached = CachedScorer(Pointwise(), store)
        loaded = pickle.loads(pickle.dumps(cached))
        cached.score("q", ["a"])
        assert loaded.score("q", ["a"]).usage.cache_hits == 1
        loaded._store.close()


def test_what_has_expired_is_scored_again() -> None:
    now = 0.0
    cached = CachedScorer(Pointwise(), cachetools.TTLCache(100, ttl=60, timer=lambda: now))
    cached.score("q", ["a"])
    now = 59.0
    assert cached.score("q", ["a"]).usage.cache_hits == 1
    now = 61.0
    assert cached.score("q", ["a"]).usage.cache_hits == 0

"""The stores that the documentation of CachedScorer names."""

from __future__ import annotations

import asyncio
import dbm.dumb
import os
import pickle
import shelve
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cachetools
import diskcache
import fakeredis
import pytest
from lmdbm import Lmdb

from qwen_rerank import CachedScorer, Passage
from qwen_rerank.scorers.wrappers.stores import _threads
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
    """Close diskcache's connection of this thread: SQLite warns if it stays open, from 3.13 on."""
    if isinstance(store, diskcache.Cache):
        store.close()


async def test_scores_and_passages_are_kept_in_sync_and_async_calls(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cached = CachedScorer(Piecewise(), store, timeout=60)
    first = cached.score("q", ["a", "long"])
    second = await cached.ascore("q", ["long", "c"])
    await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), _leave, store)
    third = cached.score("q", ["a", "long", "c"])
    assert (second.usage.texts_sent, second.usage.cache_hits) == (1, 1)
    assert (third.usage.texts_sent, third.usage.cache_hits) == (0, 3)
    assert third.values == [*first.values, second.values[1]]
    assert third.passages == [None, Passage(1, 4), None]
    assert caplog.records == []


@pytest.mark.parametrize("open_store", PERSISTENT.values(), ids=list(PERSISTENT))
def test_scores_on_disk_are_kept_between_runs(open_store: Open, tmp_path: Path) -> None:
    for cache_hits in (0, 2):
        with open_store(tmp_path) as store:
            scores = CachedScorer(Pointwise(), store, timeout=60).score("q", ["a", "b"])
        assert scores.usage.cache_hits == cache_hits


def test_a_pickled_scorer_uses_the_same_folder(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as store:
        cached = CachedScorer(Pointwise(), store, timeout=60)
        loaded = pickle.loads(pickle.dumps(cached))
        cached.score("q", ["a"])
        assert loaded.score("q", ["a"]).usage.cache_hits == 1
        loaded._store.close()


def test_expired_scores_are_scored_again() -> None:
    now = 0.0
    cached = CachedScorer(Pointwise(), cachetools.TTLCache(100, ttl=60, timer=lambda: now))
    cached.score("q", ["a"])
    now = 59.0
    assert cached.score("q", ["a"]).usage.cache_hits == 1
    now = 61.0
    assert cached.score("q", ["a"]).usage.cache_hits == 0

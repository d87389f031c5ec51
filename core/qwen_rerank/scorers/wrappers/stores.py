"""Stores of a CachedScorer, used so that a slow or broken one can't hold up a call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, Protocol
from weakref import WeakValueDictionary

from qwen_rerank.locks import ForkSafeLock
from qwen_rerank.scorers.wrappers.wrapper import Runner

__all__ = ["GuardedStore", "Store"]

_log = logging.getLogger(__name__)

_THREAD_SAFE = frozenset({"diskcache", "redis", "valkey"})
"""Packages whose stores several threads may use at once."""

_THREADS = 16
"""How many stores calls from event loops can wait for at the same time, per process."""


class Store(Protocol):
    """Where scores are kept: a mapping from strings to strings with two methods.

    `get` may return bytes, and returns None for a key that is not there. A store that also has
    `mget` (as in redis) or `get_many`, and `mset` or `set_many`, is read and written with those.
    """

    def get(self, key: str, /) -> Any: ...
    def __setitem__(self, key: str, value: str, /) -> None: ...


class GuardedStore:
    """A store that is used within a time limit, and left alone for a while after a failure.

    Args:
        store: The store. It is used by one thread at a time, unless it is known to be thread-safe.
        timeout: How long one call may wait for it, in seconds. A single operation of the store can
            only be cut short in an event loop.
        cooldown: How long it is left alone after a failure, in seconds.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, store: Store, timeout: float, cooldown: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._cooldown = cooldown
        self._clock = clock
        self._lock = None if _is_thread_safe(store) else _lock_of(store)
        self._rests_until: float | None = None
        self._is_logged = False

    async def read(self, keys: Sequence[str], runner: Runner) -> dict[int, Any]:
        """Return what the store has, by the indices of the keys."""
        values: dict[int, Any] = {}

        def read(store: Store, until: float) -> None:
            for index, value in self._stored_values(store, keys):
                if value is not None:
                    values[index] = value
                self._check_time(until)

        await self._use(read, runner)
        return dict(values)  # a copy: a read that took too long may still add to the original

    async def write(self, values: Mapping[str, str], runner: Runner) -> None:
        """Write the values, if the store works."""

        def write(store: Store, until: float) -> None:
            if (set_many := _bulk_method(store, "__setitem__", ("mset", "set_many"))) is not None:
                set_many(dict(values))
                return
            with _transaction(store):
                for key, value in values.items():
                    store[key] = value
                    self._check_time(until)

        await self._use(write, runner)

    def _stored_values(self, store: Store, keys: Sequence[str]) -> Iterator[tuple[int, Any]]:
        get_many = _bulk_method(store, "get", ("mget", "get_many"))
        if get_many is None:
            yield from enumerate(map(store.get, keys))
            return
        values = get_many(list(keys))
        if isinstance(values, Mapping):
            values = [values.get(key) for key in keys]
        yield from zip(range(len(keys)), values, strict=True)

    async def _use(self, work: Callable[[Store, float], None], runner: Runner) -> None:
        """Use the store. Whatever goes wrong with it, the call goes on without it."""
        if self._is_resting():
            return
        try:
            if type(self._store) is dict:  # needs no lock, and never waits
                work(self._store, float("inf"))
            else:
                # An event loop waits a little longer than the work itself, which knows more.
                limit = 1.1 * self._timeout
                await runner.run(lambda: self._use_alone(work), _threads(os.getpid()), limit)
        except Exception as error:  # of any type: the scores are available without the store
            self._rests_until = self._clock() + self._cooldown
            if not self._is_logged:
                self._is_logged = True
                _log.warning(
                    "The cache is off for %g s: its store raised %s.",
                    self._cooldown,
                    _type_name(error),
                )

    def _use_alone(self, work: Callable[[Store, float], None]) -> None:
        until = self._clock() + self._timeout
        with _held(self._lock, self._timeout) as is_held:
            if not is_held:
                raise TimeoutError
            if not self._is_resting():  # it may have failed while this call waited
                work(self._store, until)
                self._is_logged = False

    def _is_resting(self) -> bool:
        return self._rests_until is not None and self._clock() < self._rests_until

    def _check_time(self, until: float) -> None:
        if self._clock() > until:
            raise TimeoutError


@contextmanager
def _held(lock: ForkSafeLock | None, timeout: float) -> Iterator[bool]:
    if lock is None:
        yield True
        return
    with lock.hold(timeout) as is_held:
        yield is_held


def _bulk_method(store: Store, single: str, names: Sequence[str]) -> Callable[..., Any] | None:
    """Return the store's method for many keys, if it does the same as the one for a single key.

    A subclass that overrides only the one for a single key, to add a prefix or an expiry, wants
    that for all keys.
    """
    for name in names:
        for kind in type(store).__mro__:
            if name in vars(kind) or single in vars(kind):
                if name in vars(kind):
                    method: Callable[..., Any] = getattr(store, name)
                    return method
                break
    return None


def _transaction(store: Store) -> AbstractContextManager[Any]:
    """One transaction for many writes, which a diskcache.Cache does many times faster."""
    transact = getattr(store, "transact", None)
    return transact() if callable(transact) else nullcontext()


def _is_thread_safe(store: Store) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(store).__mro__}
    return type(store) is dict or not packages.isdisjoint(_THREAD_SAFE)


_locks: WeakValueDictionary[int, ForkSafeLock] = WeakValueDictionary()
"""The lock of every store in use, shared by all scorers that use the store, by the store's id."""

_locks_lock = ForkSafeLock()


def _lock_of(store: Store) -> ForkSafeLock:
    with _locks_lock.hold():
        return _locks.setdefault(id(store), ForkSafeLock())


@cache
def _threads(pid: int) -> Executor:
    """Return this process's threads: a parent's threads don't exist in it."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="qwen-rerank-store")


def _type_name(error: Exception) -> str:
    """The full name of the error's type. Its message may hold anything, even a password."""
    return f"{type(error).__module__}.{type(error).__qualname__}"

"""Locks that never block a forked child process."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (has fork hooks that must not first appear in a fork)
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Generic, TypeVar
from weakref import ref

__all__ = ["ForkSafeLock", "OncePerProcess"]

T = TypeVar("T")

_FORK_WAIT = 10.0
"""How long a fork waits for a load in progress, in seconds."""


class ForkSafeLock:
    """A lock that is free in a forked child, even if another thread of the parent held it."""

    def __init__(self) -> None:
        self._lock = Lock()
        _locks.add(ref(self, _locks.discard))

    @contextmanager
    def hold(self, timeout: float = -1) -> Iterator[bool]:
        """Hold the lock in a `with` block.

        Args:
            timeout: How long to wait for the lock, in seconds; -1 for no limit.

        Yields:
            Whether the lock is held.
        """
        lock = self._lock  # a fork inside the block replaces it
        is_held = lock.acquire(timeout=timeout)
        try:
            yield is_held
        finally:
            if is_held:
                lock.release()

    def renew(self) -> None:
        """Replace the lock with a free one."""
        self._lock = Lock()


_locks: set[ref[ForkSafeLock]] = set()


def _renew_locks() -> None:
    for lock in [lock for reference in _locks if (lock := reference()) is not None]:
        lock.renew()


class OncePerProcess(Generic[T]):
    """Calls a function once, and returns its result to all threads.

    A fork waits until a call in progress has ended: a child forked during an import could never
    import that module. Create it at module level only: it is never freed.

    Args:
        load: The function. If it raises, the next caller tries again.
    """

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._lock = RLock()
        self._is_held_for_fork = False
        self._results: list[T] = []
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(
                before=self._hold, after_in_parent=self._release, after_in_child=self._renew
            )

    def __call__(self) -> T:
        if not self._results:
            with self._lock:
                if not self._results:
                    self._results.append(self._load())
        return self._results[0]

    @property
    def has_result(self) -> bool:
        """Whether the function has returned."""
        return bool(self._results)

    def reset(self) -> None:
        """Forget the result, so that the next caller loads again."""
        self._results = []

    def _hold(self) -> None:
        self._is_held_for_fork = self._lock.acquire(timeout=_FORK_WAIT)

    def _release(self) -> None:
        if self._is_held_for_fork:
            self._lock.release()

    def _renew(self) -> None:
        self._lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)

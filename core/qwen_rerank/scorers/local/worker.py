"""One thread that computes, so that concurrent calls don't compete for cores and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from qwen_rerank.locks import ForkSafeLock

__all__ = ["Worker", "result_of"]

T = TypeVar("T")


class Worker:
    """Runs one task at a time in a thread that starts with the first task.

    A forked child gets a thread of its own. Neither the parent's thread nor the threads that torch
    started from it exist there.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._pid = 0
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Queue a task. It can be cancelled until it starts."""
        with self._lock.hold():
            if self._pool is None or self._pid != os.getpid():
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="qwen-rerank")
                self._pid = os.getpid()
            return self._pool.submit(task)

    def close(self) -> None:
        """Run the queued tasks, then end the thread."""
        with self._lock.hold():
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown()


def result_of(future: Future[T]) -> T:
    """Wait for a result."""
    # Not Future.result(): Ctrl-C can leave its lock held, which the thread would wait for.
    done: SimpleQueue[Future[T]] = SimpleQueue()
    future.add_done_callback(done.put)
    return done.get().result()

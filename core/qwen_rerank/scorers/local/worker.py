"""One thread to compute in, so that concurrent calls do not fight for the cores or the memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Does one piece of work after another in a thread that starts with the first of them.

    After a fork the child has a thread of its own: the parent's does not exist there, and neither
    do the threads that torch had started from it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pid = 0
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Queue work and wait for what it returns."""
        # Not by its result(): Ctrl-C can leave a lock taken in it, for which the thread would wait.
        done: SimpleQueue[Future[T]] = SimpleQueue()
        self.submit(work).add_done_callback(done.put)
        return done.get().result()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue work. It can be cancelled until it starts."""
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="qwen-rerank")
                self._pid = os.getpid()
            return self._pool.submit(work)

    def close(self) -> None:
        """End the thread after all the work that is queued."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.shutdown()

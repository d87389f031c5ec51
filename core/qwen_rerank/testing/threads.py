"""Servers that run in a thread, and threads that meet."""

from __future__ import annotations

import asyncio
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Self

__all__ = ["Threaded", "many_switches"]


@contextmanager
def many_switches() -> Iterator[None]:
    """Let threads take turns after microseconds, so that they meet in short functions too."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Threaded(ABC):
    """A server with its own event loop in a thread. Use it as a context manager."""

    @abstractmethod
    def serving(self) -> AbstractAsyncContextManager[object]:
        """A context in which the server listens."""

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run(started))

    async def _run(self, started: threading.Event) -> None:
        self._stopping = asyncio.Event()
        async with self.serving():
            started.set()
            await self._stopping.wait()

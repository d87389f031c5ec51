"""An event loop for I/O, in a thread of its own, that all scorers of the process share.

A connection belongs to one event loop. So there is one loop for I/O, and callers hand their
coroutines over to it. Synchronous callers wait for the result; asynchronous ones await it in their
own loop. Both get the same connections, real deadlines and cancellation, and no request outlives
its caller.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qwen_rerank.errors import ServiceError
from qwen_rerank.handover import Action, hand_over_to
from qwen_rerank.scorers.http.body_form import BodyForm
from qwen_rerank.scorers.http.rate_limiters import RateLimiters

if TYPE_CHECKING:
    from qwen_rerank.scorers.http.pool import ConnectionPool

__all__ = ["IOLoop", "shared_io_loop"]

T = TypeVar("T")

_EXIT_SECONDS = 2.0


class IOLoop:
    """An event loop in a background thread, which starts when it is first used.

    A child process made by fork starts a thread of its own.

    Args:
        rate_limiters: Creates the rate limiters.
    """

    def __init__(self, rate_limiters: Callable[[], RateLimiters] = RateLimiters) -> None:
        self._new_rate_limiters = rate_limiters
        self._lock = threading.Lock()
        self._thread: _IOThread | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._free_lock)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the I/O loop and wait for its result. Ctrl-C cancels it."""
        return self._running_for(coroutine).run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the I/O loop from any other. Cancelling it cancels the coroutine."""
        return await self._running_for(coroutine).arun(coroutine)

    @property
    def pool(self) -> ConnectionPool:
        """The connections. Use on the I/O loop only."""
        return self._running().pool

    @property
    def rate_limiters(self) -> RateLimiters:
        """The rate limiters of all scorers. Use on the I/O loop only."""
        return self._running().rate_limiters

    @property
    def body_forms(self) -> Mapping[tuple[str, str], BodyForm]:
        """The form of request bodies for each address and model. Use on the I/O loop only."""
        return self._running().body_forms

    def let_go(self, holder: object) -> None:
        """Close idle connections unless something else holds them; see `ConnectionPool.hold`."""
        if self._thread is not None and self._thread.is_usable:
            self.run(self._thread.pool.let_go(holder))

    def _running_for(self, coroutine: Coroutine[Any, Any, T]) -> _IOThread:
        try:
            return self._running()
        except BaseException:
            coroutine.close()
            raise

    def _running(self) -> _IOThread:
        thread = self._thread
        if thread is not None and thread.is_usable:
            return thread
        with self._lock:
            if self._thread is not None and self._thread.is_stopped:
                raise ServiceError("The interpreter is shutting down: no request can be sent.")
            if self._thread is None or not self._thread.is_usable:
                self._thread = _start_thread(self._new_rate_limiters())
            return self._thread

    def _free_lock(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it during the fork


def _start_thread(rate_limiters: RateLimiters) -> _IOThread:
    try:
        return _IOThread(rate_limiters)
    except (OSError, RuntimeError) as error:
        raise ServiceError(
            f"The thread for I/O could not be started: {error}.",
            remedy="Check the limits of this process on threads and open files.",
        ) from error


class _IOThread:
    """A daemon thread that runs the loop, and what belongs to the loop."""

    def __init__(self, rate_limiters: RateLimiters) -> None:
        from qwen_rerank.scorers.http.pool import ConnectionPool  # lazy: aiohttp imports slowly

        self.rate_limiters = rate_limiters
        self.body_forms = defaultdict[tuple[str, str], BodyForm](BodyForm)
        self.pool = ConnectionPool()
        self.is_stopped = False
        self._is_running = True  # Thread.is_alive can end a thread when Ctrl-C interrupts it
        self._pid = os.getpid()
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="qwen-rerank-io", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads can be started
            self._loop.close()
            raise
        atexit.register(self._stop)  # also keeps it: in a forked child, it is never collected

    @property
    def is_usable(self) -> bool:
        """Whether the thread runs: not in a forked child, nor once the process ends."""
        return self._pid == os.getpid() and self._is_running and not self.is_stopped

    def _run(self) -> None:
        from qwen_rerank.scorers.http.pool import ssl_context

        with suppress(OSError):  # shows when a connection is opened
            ssl_context()  # reads many certificates: not while the loop runs
        try:
            while not self.is_stopped:
                with suppress(SystemExit, KeyboardInterrupt):  # a task's, for its caller
                    self._loop.run_forever()
        finally:
            self._is_running = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop, and wait."""
        # Not a Future: Ctrl-C can leave its lock held, and the loop would wait for it forever.
        reports: SimpleQueue[asyncio.Task[T] | Action] = SimpleQueue()
        work = _Work(self._loop, coroutine, reports.put, reports.put)
        try:
            work.hand_over()
            while not isinstance(report := reports.get(), asyncio.Task):
                report()
            return report.result()
        finally:
            work.stop()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop, from another one."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[asyncio.Task[T]] = loop.create_future()

        def on_loop(action: Action) -> None:
            with suppress(RuntimeError):  # the other loop is closed: nobody waits any more
                loop.call_soon_threadsafe(action)

        def report(task: asyncio.Task[T]) -> None:
            on_loop(lambda: receive(task))

        def receive(task: asyncio.Task[T]) -> None:
            if not ended.done():
                ended.set_result(task)

        work = _Work(self._loop, coroutine, report, on_loop)
        try:
            work.hand_over()
            return (await ended).result()
        finally:
            work.stop()

    def _stop(self) -> None:
        if not self.is_usable:
            self.pool.disown()
            return
        self.is_stopped = True
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self.pool.close(), self._loop).result(_EXIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_EXIT_SECONDS)
        self._loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return one of asyncio's own loops: those of other policies lack some options."""
    if sys.platform == "win32":
        return asyncio.ProactorEventLoop()
    return asyncio.SelectorEventLoop()


class _Work(Generic[T]):
    """A coroutine that is handed over to a loop in another thread.

    Args:
        loop: Where it runs.
        coroutine: What runs.
        report: Called on that loop, with the task, when it has ended.
        receive: Called on that loop, with what the caller's side should run meanwhile.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        report: Callable[[asyncio.Task[T]], object],
        receive: Callable[[Action], object],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._report = report
        self._receive = receive
        self._task: asyncio.Task[T] | None = None

    def hand_over(self) -> None:
        self._loop.call_soon_threadsafe(self._start)

    def stop(self) -> None:
        """Cancel it, unless it has ended."""
        if self._task is None or not self._task.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        hand_over_to(self._receive)  # in a copy of the caller's context, which the task gets
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        _ = task.cancelled() or task.exception()  # marks it as retrieved, in case nobody waits
        self._report(task)

    def _cancel(self) -> None:
        if self._task is None:
            self._coroutine.close()
        else:
            self._task.cancel()


shared_io_loop = IOLoop()
"""The I/O loop of all scorers of the process."""

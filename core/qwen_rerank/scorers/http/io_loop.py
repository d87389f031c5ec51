"""HTTP connections that every thread and every event loop of the process can share.

An aiohttp session belongs to one event loop. So there is one loop for I/O, in a thread of its own,
and callers hand their coroutines over to it. Synchronous callers wait for the result, asynchronous
ones await it in whatever loop they run; both get the same connections, real deadlines and
cancellation, and no request outlives its caller.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import cache, cached_property
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.request import getproxies
from weakref import WeakSet

import aiohttp
import certifi

from qwen_rerank.errors import ServiceError

if TYPE_CHECKING:
    from qwen_rerank.scorers.http.rate_limiter import RateLimiters

__all__ = ["Connections"]

T = TypeVar("T")

_EXIT_SECONDS = 2.0


class Connections:
    """A session on a background loop, opened when first used, closed by the last to release it.

    A holder that is garbage-collected no longer counts, but closes nothing: idle connections close
    by themselves after aiohttp's keep-alive of 15 s, and all of them when the process ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._io: _IOThread | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the I/O loop and wait for its result. Ctrl-C cancels it."""
        return self._running_for(coroutine).run(coroutine)

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The same from any event loop. Cancelling it cancels the coroutine."""
        return await self._running_for(coroutine).arun(coroutine)

    @asynccontextmanager
    async def session(self, holder: object) -> AsyncIterator[aiohttp.ClientSession]:
        """The session, on the I/O loop only; `holder` keeps it open until it lets go."""
        pool = self._running().pool
        lease = _Lease()
        pool.holders.update((holder, lease))
        try:
            yield pool.open()
        finally:
            await pool.release(lease)

    @property
    def rate_limiters(self) -> RateLimiters:
        """The rate limiters of all scorers. Use on the I/O loop only."""
        return self._running().pool.rate_limiters

    def release(self, holder: object) -> None:
        """Let go. The last one closes the connections."""
        if self._io is not None and self._io.usable:
            self.run(self._io.pool.release(holder))

    def _running_for(self, coroutine: Coroutine[Any, Any, T]) -> _IOThread:
        try:
            return self._running()
        except BaseException:
            coroutine.close()
            raise

    def _running(self) -> _IOThread:
        with self._lock:
            if self._io is not None and self._io.stopped:
                raise ServiceError("The interpreter is shutting down: nothing is sent any more.")
            if self._io is not None and not self._io.usable:
                self._io.pool.disown()
                self._io = None
            if self._io is None:
                self._io = _IOThread()
            return self._io


class _Lease:
    """A holder that lasts as long as one call."""


class _Pool:
    """The session and who holds it. Touched on the I/O loop only, so it needs no lock."""

    def __init__(self) -> None:
        self.holders: WeakSet[object] = WeakSet()
        self._session: aiohttp.ClientSession | None = None

    @cached_property
    def rate_limiters(self) -> RateLimiters:
        from qwen_rerank.scorers.http.rate_limiter import RateLimiters

        return RateLimiters()

    def open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=0, ssl=_ssl_context()),
                cookie_jar=aiohttp.DummyCookieJar(),  # callers with different keys share it
                timeout=aiohttp.ClientTimeout(),  # none: the caller bounds each attempt
                # For a proxy alone: it also looks into ~/.netrc, in a thread, for every request.
                trust_env=bool(getproxies()),
            )
        return self._session

    async def release(self, holder: object) -> None:
        self.holders.discard(holder)
        if not self.holders:
            await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def disown(self) -> None:
        """Forget the session without closing it, in a child made by fork: it is the parent's."""
        if self._session is not None:
            self._session.detach()


class _Connector(aiohttp.TCPConnector):
    """A connector that does nothing when it is collected.

    aiohttp's closes its connections then. In a child made by fork that would take them out of the
    epoll set that the child shares with its parent, who would never hear of an answer again.
    """

    def __del__(self, _warnings: object = None) -> None:
        pass


class _IOThread:
    """An event loop in a daemon thread, with the pool that lives on it."""

    def __init__(self) -> None:
        self.pool = _Pool()
        self.stopped = False
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="qwen-rerank-io", daemon=True)
        self._thread.start()
        atexit.register(self._stop)

    @property
    def usable(self) -> bool:
        """Whether the thread is there: not in a child made by fork, not once the process ends."""
        return self._pid == os.getpid() and not self.stopped

    def _run(self) -> None:
        with suppress(OSError):  # it will show when the session is opened
            _ssl_context()  # reads many certificates: not while the loop runs
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop, and wait."""
        # Without a Future: Ctrl-C can leave its lock taken, for which the loop would wait for ever.
        ended: SimpleQueue[asyncio.Task[T]] = SimpleQueue()
        work = _Work(self._loop, coroutine, ended.put)
        try:
            work.hand_over()
            return ended.get().result()
        finally:
            work.stop()

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop, from another one."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[asyncio.Task[T]] = loop.create_future()

        def tell(task: asyncio.Task[T]) -> None:
            with suppress(RuntimeError):  # the other loop is closed: nobody waits any more
                loop.call_soon_threadsafe(receive, task)

        def receive(task: asyncio.Task[T]) -> None:
            if not ended.done():
                ended.set_result(task)

        work = _Work(self._loop, coroutine, tell)
        try:
            work.hand_over()
            return (await ended).result()
        finally:
            work.stop()

    def _stop(self) -> None:
        if not self.usable:
            self.pool.disown()
            return
        self.stopped = True
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self.pool.close(), self._loop).result(_EXIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_EXIT_SECONDS)
        self._loop.close()


class _Work(Generic[T]):
    """A coroutine that is handed to a loop in another thread.

    Args:
        loop: Where it runs.
        coroutine: What runs.
        tell: Called there, with the task, when it has ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        tell: Callable[[asyncio.Task[T]], object],
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._tell = tell
        self._task: asyncio.Task[T] | None = None

    def hand_over(self) -> None:
        self._loop.call_soon_threadsafe(self._start)

    def stop(self) -> None:
        """Cancel it, unless it has ended."""
        if self._task is None or not self._task.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        _ = task.cancelled() or task.exception()  # seen, should nobody wait for it any more
        self._tell(task)

    def _cancel(self) -> None:
        if self._task is None:
            self._coroutine.close()
        else:
            self._task.cancel()


@cache
def _ssl_context() -> ssl.SSLContext:
    """Trusts the system's authorities and certifi's, as slim containers have none of their own."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context

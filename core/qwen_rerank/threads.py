"""Worker threads for what would block an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from qwen_rerank.errors import ServiceError

__all__ = ["in_thread", "no_thread", "to_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def to_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the work in a worker thread; see `asyncio.to_thread`.

    Raises:
        ServiceError: There is no thread for it: none can be started, or the interpreter is shutting
            down.
    """
    return await in_thread(partial(work, *args, **kwargs))


def in_thread(work: Callable[[], T], executor: Executor | None = None) -> asyncio.Future[T]:
    """Start the work in a thread of the executor; if None, in a worker of the running event loop.

    Raises:
        ServiceError: See `to_thread`.
    """
    loop = asyncio.get_running_loop()
    call = partial(copy_context().run, _result, work)
    try:
        return loop.run_in_executor(executor or _workers_of(loop), call)
    except RuntimeError as error:
        raise no_thread(error) from error


def _result(work: Callable[[], T]) -> T:
    try:
        return work()
    except StopIteration as error:  # before Python 3.12, a future with it would never be done
        raise RuntimeError("The work in a thread raised StopIteration.") from error


def no_thread(error: RuntimeError) -> ServiceError:
    """Return the error for a thread that could not be started."""
    return ServiceError(
        f"A worker thread could not be started: {error}.",
        remedy="Check the limit of this process on threads, and that it is not shutting down.",
    )


_workers: WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPoolExecutor] = WeakKeyDictionary()
"""Threads end when the event loop is gone."""


def _workers_of(loop: asyncio.AbstractEventLoop) -> ThreadPoolExecutor:
    """Return the worker threads of an event loop.

    They are not its default executor: asyncio.run starts one more thread to close that, and raises
    if no thread can be started.
    """
    workers = _workers.get(loop)
    if workers is None:
        workers = _workers[loop] = ThreadPoolExecutor(thread_name_prefix="qwen-rerank-worker")
    return workers

"""Worker threads for what would block an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from qwen_rerank.errors import ServiceError

__all__ = ["to_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def to_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run the work in a worker thread; see `asyncio.to_thread`.

    Raises:
        ServiceError: There is no thread for it: none can be started, or the interpreter or the
            event loop is shutting down.
    """
    call = partial(copy_context().run, work, *args, **kwargs)
    try:
        result = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError as error:
        raise ServiceError(
            f"A worker thread could not be started: {error}.",
            remedy="Check the limit of this process on threads, and that it is not shutting down.",
        ) from error
    return await result

"""Run the program's code, such as log handlers, on the caller's side and not on the I/O loop.

A slow handler then holds up its own call, and no other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["Action", "hand_over", "hand_over_to", "log"]

Action: TypeAlias = Callable[[], object]

_receiver: ContextVar[Callable[[Action], object] | None] = ContextVar("_receiver", default=None)


def hand_over_to(receiver: Callable[[Action], object]) -> None:
    """Hand over what this context reports, from now on, to a receiver."""
    _receiver.set(receiver)


def hand_over(action: Action) -> None:
    """Have the caller's thread or event loop run the action; run it here if nobody receives it."""
    receiver = _receiver.get()
    if receiver is None:
        action()
    else:
        receiver(action)


def log(logger: logging.Logger, level: int, message: str, *args: object) -> None:
    """Log a message, with the place and time of this call, on the caller's side."""
    if logger.isEnabledFor(level):
        file, line, function, _ = logger.findCaller(stacklevel=2)
        record = logger.makeRecord(logger.name, level, file, line, message, args, None, function)
        hand_over(lambda: logger.handle(record))

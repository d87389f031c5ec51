"""What the tests on Ray share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def started(start: Callable[[], T], stop: Callable[[], Any]) -> T:
    """Start Ray, which gives up after 30 seconds on a machine that is busy with other things."""
    for _ in range(4):
        try:
            return start()
        except Exception:
            stop()
    return start()

"""What the tests on Ray share."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")  # by default, 32 processes
os.environ.setdefault("RAY_worker_niceness", "0")  # by default, other processes come first


def started(start: Callable[[], T], stop: Callable[[], Any]) -> T:
    """Start Ray, which gives up after 30 seconds on a machine that is busy with other things."""
    for _ in range(4):
        before = {*psutil.Process().children(recursive=True)}
        try:
            return start()
        except Exception:
            stop()
            for left in {*psutil.Process().children(recursive=True)} - before:
                with suppress(psutil.NoSuchProcess):
                    left.kill()
    return start()

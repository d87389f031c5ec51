"""Run a test with `evaluate` and with `aevaluate`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from qwen_rerank.evaluation import Report, aevaluate, evaluate


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Call `evaluate`, or `aevaluate` in an event loop of its own."""

    def call(*args: Any, **kwargs: Any) -> Report:
        if request.param == "sync":
            return evaluate(*args, **kwargs)
        return asyncio.run(aevaluate(*args, **kwargs))

    return call

"""A slow log handler or span exporter holds up its own call, and no other."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen_rerank import DashScopeScorer
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope

Watch = Callable[[Callable[[], None]], None]


@pytest.fixture(params=["log", "span"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Has a function called for each retry that is logged, or each span that is exported."""
    logger = logging.getLogger("qwen_rerank.scorers.http.retry")
    handlers: list[logging.Handler] = []

    def by_log(observe: Callable[[], None]) -> None:
        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                observe()

        handlers.append(Handler())
        logger.addHandler(handlers[0])
        logger.setLevel(logging.DEBUG)

    def by_span(observe: Callable[[], None]) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Exporter(SpanProcessor):
            def on_end(self, span: Any) -> None:
                if span.name == "POST":
                    observe()

        provider = TracerProvider()
        provider.add_span_processor(Exporter())
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    yield by_log if request.param == "log" else by_span
    logger.setLevel(logging.NOTSET)
    for handler in handlers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_slow_observer_holds_up_its_own_call_only(
    dashscope: LoopbackDashScope, watch: Watch, is_async: bool
) -> None:
    other_is_done, threads = threading.Event(), set[str]()

    def observe() -> None:
        threads.add(threading.current_thread().name)
        if threading.current_thread() is not threading.main_thread():
            assert other_is_done.wait(100)

    def call() -> list[float]:
        if is_async:
            return asyncio.run(DashScopeScorer(backoff=0).ascore("q", ["score=0.5"])).values
        return DashScopeScorer(backoff=0).score("q", ["score=0.5"]).values

    watch(observe)
    dashscope.faults.append(refuses(503, "Busy"))
    with ThreadPoolExecutor(1, "observed") as pool:
        observed = pool.submit(call)
        assert dashscope.arrived.wait(100)
        assert DashScopeScorer().score("q", ["score=0.7"]).values == [0.7]
        other_is_done.set()
        assert observed.result(30) == [0.5]
    assert "observed_0" in threads
    assert "qwen-rerank-io" not in threads

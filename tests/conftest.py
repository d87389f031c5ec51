"""What every test starts from: a clean environment, and a service on this machine to talk to."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from qwen_rerank.testing.loopback import LoopbackDashScope

settings.register_profile(
    "loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("loaded machine")

SLOWEST = [
    "batch/test_serving.py",
    "test_examples.py",
    "lifecycle/test_fork_and_pickle.py",
    "lifecycle/test_soak.py",
    "typing/test_mypy.py",
    "test_docs.py",
    "scorers/local/test_prompt.py",
    "test_adding_a_scorer.py",
    "lifecycle/test_cancellation.py",
    "lifecycle/test_event_loops.py",
    "test_telemetry.py",
    "cli/test_app.py",
    "cli/test_run.py",
]
"""Files that run first, so that none of them is left to one worker at the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, which would take a third of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()  # what was imported stays, and need not be searched again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: index for index, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True)
def _no_dashscope_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DASHSCOPE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("qwen_rerank.scorers.http.environment._FOLDER", "/nowhere")


@pytest.fixture(autouse=True)
def _nobody_watches_the_next_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """OpenTelemetry and the logs are set up for a whole process: a test does so for itself only."""
    if trace := sys.modules.get("opentelemetry.trace"):
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    yield
    logging.getLogger("qwen_rerank").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _few_candidates_have_been_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning is logged once per process, so any test could be the one that sees it."""
    if settings := sys.modules.get("qwen_rerank.settings"):
        monkeypatch.setattr(settings, "_warned_of_few", _Everything())


class _Everything(set[Any]):
    def __contains__(self, item: object) -> bool:
        return True


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_interrupts() -> None:
    """Also where the tests run in a shell's background, which has what it starts ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def dashscope(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackDashScope]:
    """A loopback DashScope, to which the environment points."""
    with LoopbackDashScope() as server:
        monkeypatch.setenv("DASHSCOPE_BASE_URL", server.base_url)
        monkeypatch.setenv("DASHSCOPE_API_KEY", server.key)
        yield server

"""What every test starts from: a clean environment, and a service on this machine to talk to."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.loopback import LoopbackDashScope


@pytest.fixture(autouse=True)
def _no_dashscope_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DASHSCOPE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def dashscope(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackDashScope]:
    """A loopback DashScope, to which the environment points."""
    with LoopbackDashScope() as server:
        monkeypatch.setenv("DASHSCOPE_BASE_URL", server.base_url)
        monkeypatch.setenv("DASHSCOPE_API_KEY", server.key)
        yield server

"""Keys: where they come from, and that no thread sends the key of another."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import ClassVar

import dashscope as sdk
import pytest

from qwen_rerank import AuthenticationError, DashScopeScorer
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.clients import CLIENTS, Ranked, arank, rank
from tests.support.transport import responds_with_any_key

CALLS = 1_000


@pytest.fixture
def _threads_switch_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class CountingModule(ModuleType):
    """The SDK, counting reads and writes of the key that is global to the process."""

    touched: ClassVar[Counter[str]] = Counter()

    @property
    def api_key(self) -> None:
        self.touched["read"] += 1

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.touched["written"] += 1


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often dashscope.api_key is read and written during the test."""
    monkeypatch.setattr(CountingModule, "touched", Counter())
    monkeypatch.setattr(sdk, "__class__", CountingModule)
    return CountingModule.touched


@pytest.mark.usefixtures("_threads_switch_all_the_time")
def test_no_thread_sends_the_key_of_another(
    dashscope: LoopbackDashScope, touched: Counter[str]
) -> None:
    keys = ("sk-first", "sk-second")  # a third is in the environment
    clients = [[make(api_key=key) for make in CLIENTS.values()] for key in keys]
    dashscope.faults.extend([responds_with_any_key] * CALLS)

    def call(number: int) -> Ranked:
        index, way = number % 2, number // 2
        client, is_async = clients[index][way % 4], way // 4 % 2
        texts = [f"{keys[index]} score=0.{number}1"]
        return asyncio.run(arank(client, texts)) if is_async else rank(client, texts)

    with ThreadPoolExecutor(8) as pool:
        for number, ranked in enumerate(pool.map(call, range(CALLS))):
            assert ranked == [(f"{keys[number % 2]} score=0.{number}1", float(f"0.{number}1"))]
    sent = Counter(
        (request.headers["Authorization"], request.documents[0].split()[0])
        for request in dashscope.received
    )
    assert sent == {(f"Bearer {key}", key): CALLS // 2 for key in keys}
    assert touched == {}


def test_the_global_key_of_the_sdk_is_neither_used_nor_changed(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk, "api_key", "sk-global")
    with pytest.raises(AuthenticationError):
        DashScopeScorer(api_key="sk-other").score("q", ["a"])
    DashScopeScorer(api_key=KEY).score("q", ["a"])
    DashScopeScorer().score("q", ["a"])
    keys = [request.headers["Authorization"] for request in dashscope.received]
    assert keys == ["Bearer sk-other", f"Bearer {KEY}", f"Bearer {KEY}"]
    assert sdk.api_key == "sk-global"

"""Keys: where they come from, and that no thread ever sends another's."""

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
from tests.support.clients import CLIENTS, Ranked, arank, rank
from tests.support.loopback import KEY, LoopbackDashScope
from tests.support.transport import responds_with_any_key

CALLS = 2_000


@pytest.fixture
def _threads_take_turns_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Watched(ModuleType):
    """The SDK, which notes who touches the key that its users may set for the whole process."""

    touched: ClassVar[Counter[str]] = Counter()

    @property
    def api_key(self) -> None:
        self.touched["read"] += 1

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.touched["written"] += 1


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often dashscope.api_key was read and written during the test."""
    monkeypatch.setattr(Watched, "touched", Counter())
    monkeypatch.setattr(sdk, "__class__", Watched)
    return Watched.touched


@pytest.mark.usefixtures("_threads_take_turns_all_the_time")
def test_no_request_of_eight_threads_has_another_threads_key(
    dashscope: LoopbackDashScope, touched: Counter[str]
) -> None:
    keys = ("sk-first", "sk-second")  # and a third in the environment
    clients = [[make(api_key=key) for make in CLIENTS.values()] for key in keys]
    dashscope.faults.extend([responds_with_any_key] * CALLS)

    def call(number: int) -> Ranked:
        place, way = number % 2, number // 2
        client, awaited = clients[place][way % 4], way // 4 % 2
        texts = [f"{keys[place]} score=0.{number}1"]
        return asyncio.run(arank(client, texts)) if awaited else rank(client, texts)

    with ThreadPoolExecutor(8) as pool:
        for number, ranked in enumerate(pool.map(call, range(CALLS))):
            assert ranked == [(f"{keys[number % 2]} score=0.{number}1", float(f"0.{number}1"))]
    sent = Counter(
        (request.headers["Authorization"], request.documents[0].split()[0])
        for request in dashscope.received
    )
    assert sent == {(f"Bearer {key}", key): CALLS // 2 for key in keys}
    assert touched == {}


def test_a_global_key_of_the_sdk_is_neither_used_nor_changed(
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

"""LocalScorer on several devices: here, on the CPU twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, LocalScorer
from tests.scorers.local import WHY_SKIPPED

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

from qwen_rerank.scorers.local import hardware
from qwen_rerank.scorers.local.devices import DeviceGroup, shares

QUERY = "how much krill"
TEXTS = ["penguins eat krill", "markets fell", "企鹅吃磷虾", "penguins lay eggs", "krill " * 40]
WAIT = 30  # seconds until a test counts as hanging


@pytest.fixture
def scorer(folder: str) -> Iterator[LocalScorer]:
    options: Any = {"device": ["cpu", "cpu"], "dtype": "float32", "batch_tokens": 1}
    with LocalScorer(folder, **options) as scorer:
        yield scorer


def runners(scorer: LocalScorer) -> list[Any]:
    assert scorer._loaded is not None
    group = scorer._loaded.runner
    assert isinstance(group, DeviceGroup)
    return list(group._runners)


def when_computing(runner: Any, act: Any) -> None:
    """Call a function whenever the device computes some tokens."""
    layer = runner._decoder._network.layers[0]
    heads = layer.heads

    def acting(hidden: Any, rotary: Any) -> Any:
        act()
        return heads(hidden, rotary)

    layer.heads = acting


def device_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "qwen-rerank" in thread.name}


def test_two_devices_share_the_texts_and_give_the_scores_of_one(
    scorer: LocalScorer, shared: LocalScorer
) -> None:
    computed = {0: 0, 1: 0}
    for index, runner in enumerate(runners(scorer)):
        when_computing(runner, lambda index=index: computed.update({index: computed[index] + 1}))
    one, two = shared.score(QUERY, TEXTS), scorer.score(QUERY, TEXTS)
    assert two.values == pytest.approx(one.values, abs=1e-6)
    assert two.usage.tokens == one.usage.tokens
    assert computed == {0: 2, 1: 5}  # the prefix, and the long text or the four others
    assert scorer.score(QUERY, []).values == []
    assert scorer.score(QUERY, TEXTS[:1]).values == pytest.approx(one.values[:1], abs=1e-6)


def test_shares_have_about_as_many_tokens() -> None:
    made = shares([(0,) * 5, (1,) * 4, (2,) * 3, (3,) * 2, (4,), (4,)], 2)
    assert [sum(map(len, share)) for share in made] == [8, 7]
    assert shares([(1,)], 3) == [[(1,)]]


def test_the_error_of_one_device_is_raised_and_stops_the_others(scorer: LocalScorer) -> None:
    first, second = runners(scorer)
    failed, computed = threading.Event(), []

    def fail() -> None:
        failed.set()
        raise RuntimeError("device-side assert triggered")

    def wait_for_failure() -> None:
        computed.append(1)
        assert failed.wait(WAIT)

    when_computing(first, fail)
    when_computing(second, wait_for_failure)
    with pytest.raises(RuntimeError, match="device-side assert"):
        scorer.score(QUERY, TEXTS)
    assert len(computed) < 5


def test_closing_ends_the_threads(folder: str) -> None:
    before = device_threads()
    with LocalScorer(folder, device=["cpu", "cpu"], dtype="float32") as scorer:
        scorer.score(QUERY, TEXTS)
        assert len(device_threads() - before) == 3
    assert not device_threads() - before


def test_devices_that_do_not_go_together_are_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="device is an empty list"):
        LocalScorer(folder, device=[])
    dtypes = iter([torch.bfloat16, torch.float32])
    monkeypatch.setattr(hardware, "choose_dtype", lambda dtype, device: next(dtypes))
    with pytest.raises(InvalidInputError, match=r"different dtypes.*dtype=\"float32\""):
        LocalScorer(folder, device=["cpu", "cpu"])

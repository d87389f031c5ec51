"""Small calls that wait at the same time share a batch on an accelerator: here, on the CPU."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, LocalScorer, Scores
from tests.scorers.local import WHY_SKIPPED
from tests.scorers.local.conftest import During

torch = pytest.importorskip("torch", reason=WHY_SKIPPED)

CALLS = [
    ("how much krill", ["penguins eat krill", "markets fell"]),
    ("how many eggs", ["penguins lay eggs", "markets fell", "企鹅"]),
    ("企鹅吃什么", ["企鹅吃磷虾。"]),
]
WAIT = 30  # seconds until a test counts as hanging


@pytest.fixture
def joining(folder: str) -> Iterator[LocalScorer]:
    """A scorer that joins calls, as on a GPU."""
    with LocalScorer(folder, device="cpu", dtype="float32") as scorer:
        assert scorer._loaded is not None
        scorer._loaded = scorer._loaded._replace(join_tokens=4_096)
        yield scorer


async def while_another_runs(
    scorer: LocalScorer,
    during: During,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[str, list[str]]],
) -> tuple[list[int], list[Scores | BaseException]]:
    """Score while the device is busy; the tokens of the passes after that, and the results."""
    running, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    passes: list[int] = []

    def wait(tokens: int) -> None:
        passes.append(tokens)
        loop.call_soon_threadsafe(running.set)
        assert go_on.wait(WAIT)

    submit, submitted = scorer._calls.submit, asyncio.Event()

    def note(*args: Any) -> Any:
        future = submit(*args)
        submitted.set()
        return future

    monkeypatch.setattr(scorer._calls, "submit", note)
    with during(scorer, wait):
        first = asyncio.create_task(scorer.ascore("busy", ["busy"]))
        await running.wait()
        waiting = []
        for query, texts in calls:
            submitted.clear()
            waiting.append(asyncio.create_task(scorer.ascore(query, texts)))
            await submitted.wait()
        go_on.set()
        await first
        return passes, await asyncio.gather(*waiting, return_exceptions=True)


async def test_calls_that_wait_share_a_batch_and_keep_their_scores(
    joining: LocalScorer, shared: LocalScorer, during: During, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, results = await while_another_runs(joining, during, monkeypatch, CALLS)
    assert len(passes) == 2 + 2  # each time the common prefix, and a batch
    for (query, texts), scores in zip(CALLS, results, strict=True):
        expected = shared.score(query, texts)
        assert isinstance(scores, Scores)
        assert scores.values == pytest.approx(expected.values, abs=1e-6)
        assert scores.usage.tokens == expected.usage.tokens
    again, _ = await while_another_runs(joining, during, monkeypatch, CALLS)
    assert len(again) == 2  # the common prefix is kept


async def test_calls_wait_for_their_own_batch_on_a_cpu(
    shared: LocalScorer, during: During, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, results = await while_another_runs(shared, during, monkeypatch, CALLS)
    assert len(passes) == 2 + 2 * len(CALLS)
    assert all(isinstance(scores, Scores) for scores in results)


async def test_the_error_of_a_call_does_not_fail_those_that_share_its_batch(
    joining: LocalScorer, during: During, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(tokens: int) -> None:
        if tokens > 300:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with during(joining, too_large):
        calls = [CALLS[0], ("long", ["krill " * 600]), CALLS[1]]
        _, results = await while_another_runs(joining, during, monkeypatch, calls)
    assert [type(result) for result in results] == [Scores, InvalidInputError, Scores]


async def test_a_call_whose_query_is_long_has_its_own_batch(
    joining: LocalScorer, shared: LocalScorer, during: During, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ("penguins eat krill " * 100, [f"text {number}" for number in range(40)])
    passes, results = await while_another_runs(
        joining, during, monkeypatch, [CALLS[0], long, CALLS[1]]
    )
    assert len(passes) == 2 + 2 + 2 + 2
    assert isinstance(results[1], Scores)
    assert results[1].values == pytest.approx(shared.score(*long).values, abs=1e-6)

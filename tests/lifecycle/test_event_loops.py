"""Event loops: in sequence, concurrent, uvloop; and the connections that they share."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen_rerank import DashScopeScorer, InvalidInputError
from qwen_rerank.testing.faults import hangs
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.clients import CLIENTS, Ranked, arank, rank
from tests.support.interpreter import DEVELOPMENT_MODE, python

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # not available on this platform
    new_uvloop = None

NewLoop = Callable[[], asyncio.AbstractEventLoop]

LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(
        new_uvloop,
        id="uvloop",
        marks=pytest.mark.skipif(new_uvloop is None, reason="no uvloop for this platform"),
    ),
]

each_client = pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)


async def in_turn(client: Any, calls: int) -> list[Ranked]:
    return [await arank(client, [f"score=0.{digit}"]) for digit in range(1, calls + 1)]


def expected(calls: int) -> list[Ranked]:
    return [[(f"score=0.{digit}", digit / 10)] for digit in range(1, calls + 1)]


# --- Loops in sequence and at the same time


@each_client
@pytest.mark.parametrize("new_loop", LOOPS)
def test_loops_in_sequence_share_a_client_and_its_connection(
    dashscope: LoopbackDashScope, new_loop: NewLoop, make: Callable[..., Any]
) -> None:
    client = make()
    for _ in range(5):
        dashscope.received.clear()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            assert runner.run(in_turn(client, calls=4)) == expected(calls=4)
        assert (len(dashscope.received), dashscope.connections) == (4, 1)


@each_client
@pytest.mark.parametrize("new_loop", LOOPS)
def test_loops_in_four_threads_at_once_share_a_client(
    dashscope: LoopbackDashScope, new_loop: NewLoop, make: Callable[..., Any]
) -> None:
    dashscope.answer_only_when(in_flight=4)  # so that all four run at the same time
    client = make(deadline=20)

    def run(_: int) -> list[Ranked]:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(in_turn(client, calls=5))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [expected(calls=5)] * 4
    assert len(dashscope.received) == 20
    assert dashscope.connections <= 4


def test_many_threads_and_event_loops_share_a_scorer(dashscope: LoopbackDashScope) -> None:
    scorer = DashScopeScorer()

    def call(number: int) -> Ranked:
        texts = [f"score={number / 100}", "score=0.99"]
        return asyncio.run(arank(scorer, texts)) if number % 2 else rank(scorer, texts)

    with ThreadPoolExecutor(16) as pool:
        for number, ranked in enumerate(pool.map(call, range(64))):
            assert ranked == [("score=0.99", 0.99), (f"score={number / 100}", number / 100)]


async def test_other_calls_run_while_one_waits(dashscope: LoopbackDashScope) -> None:
    dashscope.answer_only_when(in_flight=5)  # so that all five run at the same time
    scorer = DashScopeScorer(deadline=20)
    results = await asyncio.gather(*(scorer.ascore("q", ["a"]) for _ in range(5)))
    assert len(results) == 5


@each_client
@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_sync_call_works_inside_a_running_loop(
    dashscope: LoopbackDashScope, new_loop: NewLoop, make: Callable[..., Any]
) -> None:
    async def notebook_cell() -> Ranked:
        return rank(make(), ["score=0.7"])  # as notebooks do

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(notebook_cell()) == [("score=0.7", 0.7)]


def test_a_call_ends_with_its_event_loop(dashscope: LoopbackDashScope) -> None:
    async def forgets() -> None:
        dashscope.faults.append(hangs)
        tasks.append(asyncio.create_task(DashScopeScorer().ascore("q", ["a"])))
        assert await asyncio.to_thread(dashscope.arrived.wait, 100)

    tasks: list[asyncio.Task[Any]] = []
    asyncio.run(forgets())
    assert tasks[0].cancelled()
    assert dashscope.disconnected.wait(25)


# --- Connections


def test_calls_in_turn_use_one_connection(dashscope: LoopbackDashScope) -> None:
    for _ in range(3):
        DashScopeScorer().score("q", ["a"])
        asyncio.run(DashScopeScorer().ascore("q", ["a"]))
    assert dashscope.connections == 1


def test_the_last_scorer_to_close_closes_the_connections(dashscope: LoopbackDashScope) -> None:
    gc.collect()  # a scorer of another test may be in a reference cycle and still hold them
    first, second = DashScopeScorer(), DashScopeScorer()
    first.score("q", ["a"])
    second.score("q", ["a"])
    first.close()
    second.score("q", ["a"])
    assert dashscope.connections == 1
    second.close()
    DashScopeScorer().score("q", ["a"])
    assert dashscope.connections == 2


async def test_a_call_that_is_running_when_its_scorer_is_closed_finishes(
    dashscope: LoopbackDashScope,
) -> None:
    gc.collect()
    dashscope.answer_only_when(in_flight=2)
    scorer = DashScopeScorer(max_retries=0)
    running = asyncio.create_task(scorer.ascore("q", ["score=0.5"]))
    assert await asyncio.to_thread(dashscope.arrived.wait, 10)
    await scorer.aclose()
    other = DashScopeScorer(max_retries=0).ascore("q", ["score=0.25"])
    assert [scores.values for scores in await asyncio.gather(running, other)] == [[0.5], [0.25]]


async def test_a_closed_scorer_refuses_further_calls(dashscope: LoopbackDashScope) -> None:
    with DashScopeScorer() as scorer:
        scorer.score("q", ["a"])
    with pytest.raises(InvalidInputError, match="closed"):
        scorer.score("q", ["a"])
    async with DashScopeScorer() as scorer:
        await scorer.ascore("q", ["a"])
    with pytest.raises(InvalidInputError, match="closed"):
        await scorer.ascore("q", ["a"])


# --- Exit of the process


def error_lines(err: str) -> list[str]:
    """The lines of standard error, except asyncio's notes about slow callbacks."""
    return [line for line in err.splitlines() if not re.match(r"Executing <.* seconds$", line)]


def test_clients_that_are_not_closed_cause_no_warnings(dashscope: LoopbackDashScope) -> None:
    code = (
        "import asyncio, threading, qwen_rerank\n"
        "scorer = qwen_rerank.DashScopeScorer()\n"
        "def run(): asyncio.run(scorer.ascore('q', ['a']))\n"
        "for _ in range(5): run()\n"
        "threads = [threading.Thread(target=run) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(scorer.score('q', ['score=0.5']).values)\n"
    )
    out, err = python(code, *DEVELOPMENT_MODE)
    assert (out, error_lines(err)) == ("[0.5]\n", [])
    assert len(dashscope.received) == 10


@pytest.mark.skipif(new_uvloop is None, reason="no uvloop for this platform")
def test_clients_in_uvloop_that_are_not_closed_cause_no_warnings(
    dashscope: LoopbackDashScope,
) -> None:
    code = (
        "import qwen_rerank, uvloop\n"
        "scorer = qwen_rerank.DashScopeScorer()\n"
        "for _ in range(5): uvloop.run(scorer.ascore('q', ['a']))\n"
        "print(scorer.score('q', ['score=0.5']).values)\n"
    )
    out, err = python(code, *DEVELOPMENT_MODE)
    assert (out, error_lines(err)) == ("[0.5]\n", [])


def test_plugins_that_are_not_closed_leave_nothing_open(dashscope: LoopbackDashScope) -> None:
    code = (
        "import asyncio\n"
        "from tests.support.clients import PLUGINS, arank, rank\n"
        "for make in PLUGINS.values():\n"
        "    for _ in range(5): asyncio.run(arank(make(), ['a']))\n"
        "    print(rank(make(), ['score=0.5']))\n"
    )
    strict = ("-X", "dev", "-W", "error::ResourceWarning")  # the frameworks have other warnings
    out, err = python(code, *strict)
    assert out == "[('score=0.5', 0.5)]\n" * 3
    assert error_lines(err) == []


def test_a_call_while_the_interpreter_exits_is_a_clear_error(
    dashscope: LoopbackDashScope,
) -> None:
    code = (
        "import atexit, qwen_rerank\n"
        "scorer = qwen_rerank.DashScopeScorer()\n"
        "atexit.register(lambda: scorer.score('q', ['a']))\n"  # runs after later handlers
        "scorer.score('q', ['a'])\n"
    )
    _, err = python(code)
    assert "ServiceError: The interpreter is shutting down" in err

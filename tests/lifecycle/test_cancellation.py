"""Cancelled and interrupted calls end at once, and the client can be used again."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from qwen_rerank import DashScopeScorer, Limits
from qwen_rerank.testing.faults import hangs
from qwen_rerank.testing.loopback import LoopbackDashScope, ranking
from tests.support.clients import CLIENTS, arank
from tests.support.interpreter import python, running_python

each_client = pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)


# --- Cancelled


@each_client
async def test_a_cancelled_call_ends_without_a_response_and_closes_its_connection(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make()
    for _ in range(5):
        dashscope.arrived.clear()
        dashscope.disconnected.clear()
        dashscope.faults.append(hangs)
        call = asyncio.create_task(arank(client, ["a"]))
        assert await asyncio.to_thread(dashscope.arrived.wait, 100)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):  # the service would never respond
            await call
        assert await asyncio.to_thread(dashscope.disconnected.wait, 25)
    assert await arank(client, ["score=0.5"]) == [("score=0.5", 0.5)]


async def test_a_cancelled_call_closes_all_its_requests(dashscope: LoopbackDashScope) -> None:
    async def hangs_too(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        both.set()
        return await hangs(request, body)

    both = threading.Event()
    dashscope.faults.extend([hangs, hangs_too])
    dashscope.disconnects_awaited = 2
    task = asyncio.create_task(DashScopeScorer(limits=Limits(documents=1)).ascore("q", ["a", "b"]))
    assert await asyncio.to_thread(both.wait, 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(dashscope.disconnected.wait, 25)


async def test_a_cancelled_call_leaves_the_others_alone(dashscope: LoopbackDashScope) -> None:
    async def responds_when_one_has_left(
        request: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        assert await asyncio.to_thread(dashscope.disconnected.wait, 25)
        return web.json_response(ranking(body))

    dashscope.faults.extend([hangs, *[responds_when_one_has_left] * 2])
    scorer = DashScopeScorer()
    cancelled = asyncio.create_task(arank(scorer, ["a"]))
    assert await asyncio.to_thread(dashscope.arrived.wait, 100)
    others = [asyncio.create_task(arank(scorer, [f"score=0.{digit}"])) for digit in (1, 2)]
    dashscope.arrived.clear()
    assert await asyncio.to_thread(dashscope.arrived.wait, 100)
    cancelled.cancel()
    assert await asyncio.gather(*others) == [[("score=0.1", 0.1)], [("score=0.2", 0.2)]]
    assert cancelled.cancelled()


# --- Interrupted


# Python handles Ctrl-C only if its parent does, and a parent in the background may not.
HANDLES_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def test_interrupted_clients_can_be_used_again(dashscope: LoopbackDashScope) -> None:
    code = HANDLES_CTRL_C + (
        "import asyncio\n"
        "from tests.support.clients import CLIENTS, arank, rank\n"
        "ways = (rank, lambda *call: asyncio.run(arank(*call)))\n"
        "calls = [(ask, make()) for make in CLIENTS.values() for ask in ways]\n"
        "for ask, client in calls:\n"
        "    try: ask(client, ['a'])\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "for ask, client in calls: print(ask(client, ['score=0.5']))\n"
    )
    calls = 2 * len(CLIENTS)
    dashscope.faults.extend([hangs] * calls)
    with running_python(code) as process:
        assert process.stdout is not None
        for _ in range(calls):
            assert dashscope.arrived.wait(100)
            dashscope.arrived.clear()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert dashscope.disconnected.wait(25)
            dashscope.disconnected.clear()
        out, err = process.communicate()
    assert (out, err) == ("[('score=0.5', 0.5)]\n" * calls, "")


def test_an_uncaught_interrupt_ends_the_process_and_its_requests(
    dashscope: LoopbackDashScope,
) -> None:
    dashscope.faults.append(hangs)
    code = HANDLES_CTRL_C + "import qwen_rerank; qwen_rerank.DashScopeScorer().score('q', ['a'])"
    with running_python(code) as process:
        assert dashscope.arrived.wait(100)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert err.endswith("KeyboardInterrupt\n")
    assert dashscope.disconnected.wait(25)


AT_EVERY_MOMENT = """
import faulthandler, itertools, sys, qwen_rerank

def interrupts_at(moment):  # where Python checks for signals: after a call, and on entering one
    moments = itertools.count(1)
    def profile(frame, event, argument):
        if event in ("call", "c_return") and next(moments) == moment:
            interrupted.append(moment)
            raise KeyboardInterrupt
    return profile

faulthandler.dump_traceback_later(100, exit=True)  # shows where it hangs, if it does
scorer = qwen_rerank.DashScopeScorer()
scorer.score("q", ["a"])
interrupted = []
for moment in itertools.count(1):
    sys.setprofile(interrupts_at(moment))
    try:
        scorer.score("q", ["a"])
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    if moment not in interrupted:  # the call ended before that moment
        break
print(len(interrupted), scorer.score("q", ["score=0.5"]).values)
"""


def test_a_scorer_can_be_interrupted_at_every_moment(dashscope: LoopbackDashScope) -> None:
    out, err = python(AT_EVERY_MOMENT)
    assert re.fullmatch(r"\d\d+ \[0\.5\]\n", out), err

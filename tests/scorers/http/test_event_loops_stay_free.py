"""No stage of a call blocks an event loop for long: not the caller's, not the shared I/O loop.

What a callback of a loop takes is measured as CPU time of its thread, so that other processes on
the machine do not matter.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank import Content, DashScopeScorer, Limits
from qwen_rerank.scorers.http import payload
from qwen_rerank.scorers.http.io_loop import shared_io_loop
from qwen_rerank.scorers.http.payload import PIECE, json_pieces
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from qwen_rerank.text.tokenizer import count_tokens
from tests.support.transport import RawServer, http_response, ranking_of, read_request

AT_MOST = 0.020  # seconds


@pytest.fixture
def longest(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[asyncio.AbstractEventLoop, float]]:
    """The CPU seconds that the longest callback of each loop has taken so far.

    Without garbage collection, which visits all that other tests have left, on whichever thread.
    """
    seconds: dict[asyncio.AbstractEventLoop, float] = {}
    run = asyncio.Handle._run

    def measure(handle: Any) -> None:
        started = thread_time()
        run(handle)
        taken = thread_time() - started
        seconds[handle._loop] = max(taken, seconds.get(handle._loop, 0.0))

    monkeypatch.setattr(asyncio.Handle, "_run", measure)
    gc.disable()
    yield seconds
    gc.enable()


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def measure_from_here(longest: dict[asyncio.AbstractEventLoop, float]) -> None:
    await asyncio.sleep(0)  # what the test has prepared so far was a callback too
    longest.clear()


async def of_both_loops(longest: dict[asyncio.AbstractEventLoop, float]) -> dict[str, float]:
    io_loop = await shared_io_loop.arun(running_loop())
    await asyncio.sleep(0)  # so that the last callback has ended
    return {"caller's": longest[asyncio.get_running_loop()], "I/O": longest[io_loop]}


@asynccontextmanager
async def service_that_reads(documents: int) -> AsyncIterator[DashScopeScorer]:
    """A scorer whose service takes requests of any size, and does not look into them."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(http_response(ranking_of([0.5] * documents)))

    with RawServer([handle]) as server:
        yield DashScopeScorer("qwen3-vl-rerank", KEY, base_url=server.base_url)


async def test_five_thousand_documents_block_no_loop(
    dashscope: LoopbackDashScope, longest: dict[asyncio.AbstractEventLoop, float]
) -> None:
    scorer = DashScopeScorer(max_concurrency=16)
    texts = [f"score=0.{number:04} {'a few words more ' * 12}" for number in range(5_000)]
    await scorer.ascore("which?", texts[:500])  # so that everything is loaded
    await measure_from_here(longest)
    assert len((await scorer.ascore("which?", texts)).values) == 5_000
    assert max((await of_both_loops(longest)).values()) < AT_MOST


async def test_large_images_block_no_loop(
    longest: dict[asyncio.AbstractEventLoop, float],
) -> None:
    images = [Content(image=f"data:image/png;base64,{'QUJD' * 2**20}") for _ in range(8)]  # 4 MiB
    async with service_that_reads(len(images)) as scorer:
        await measure_from_here(longest)
        assert (await scorer.ascore("which?", images)).values == [0.5] * len(images)
        assert max((await of_both_loops(longest)).values()) < AT_MOST


async def test_long_texts_block_no_loop(
    dashscope: LoopbackDashScope, longest: dict[asyncio.AbstractEventLoop, float]
) -> None:
    count_tokens("loaded")
    texts = [f"score=0.{number} " + "中文字 " * 20_000 for number in range(1, 9)]
    dashscope.limits = Limits(item_tokens=10**6, request_tokens=10**6)
    scorer = DashScopeScorer(limits=dashscope.limits)
    await measure_from_here(longest)
    assert len((await scorer.ascore("which?", texts)).values) == len(texts)
    assert max((await of_both_loops(longest)).values()) < AT_MOST


async def test_texts_of_which_a_sample_is_counted_block_no_loop(
    dashscope: LoopbackDashScope, longest: dict[asyncio.AbstractEventLoop, float]
) -> None:
    count_tokens("loaded")
    texts = [f"score=0.{number:03} " + "中文字" * 100 for number in range(200)]
    await measure_from_here(longest)
    assert len((await DashScopeScorer().ascore("which?", texts)).values) == len(texts)
    assert max((await of_both_loops(longest)).values()) < AT_MOST


# --- Serializing, during which no other thread runs

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.integers(1, 40))
def test_pieces_make_the_same_json(value: Any, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "PIECE", size)
        assert json.loads(b"".join(json_pieces(value))) == value


def test_no_piece_is_much_larger_than_the_others() -> None:
    value = {"documents": ["\n" * (3 * PIECE), "a" * (2 * PIECE), *["short"] * 100_000]}
    pieces = json_pieces(value)
    assert json.loads(b"".join(pieces)) == value
    assert max(map(len, pieces)) <= 3 * PIECE  # a line break takes two bytes

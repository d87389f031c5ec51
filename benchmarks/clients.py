"""Which of the SDK's clients carries concurrent requests best, and what does the scorer add?

    python benchmarks/clients.py [--rounds N]

Each way sends the same small requests to a loopback service in another process, 8 and then 64 at a
time. The ways take turns within a round, and the median of the rounds is reported: on a machine
that does other things too, compare the columns of one run, not of two.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import dashscope
from dashscope import AioTextReRank, AsyncClient, Client, TextReRank
from tqdm import tqdm

from qwen_rerank import DashScopeScorer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.loopback import KEY, LoopbackDashScope

CALLS = 400
CONCURRENCIES = (8, 64)
MODEL = "gte-rerank-v2"
TEXTS = ["one document", "and another"]

Way = Callable[[int], float]
"""Makes the calls, so many at a time, and returns how many it made a second."""


def serve(pipe: Connection) -> None:
    with LoopbackDashScope() as server:
        pipe.send(server.base_url)
        pipe.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    service = context.Process(target=serve, args=(theirs,))
    service.start()
    try:
        report(ways(ours.recv()), rounds)
    finally:
        ours.send("stop")
        service.join()


def report(ways: dict[str, Way], rounds: int) -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in tqdm(range(rounds), unit="round"):
        for concurrency in CONCURRENCIES:
            for name, way in ways.items():
                rates.setdefault((name, concurrency), []).append(way(concurrency))
    print("| calls/s | " + " | ".join(f"{number} at a time" for number in CONCURRENCIES) + " |")
    print("|---|" + "---|" * len(CONCURRENCIES))
    for name in ways:
        figures = (median(rates[name, concurrency]) for concurrency in CONCURRENCIES)
        print(f"| {name} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |")


def ways(base_url: str) -> dict[str, Way]:
    scorer = DashScopeScorer(MODEL, KEY, base_url=base_url)
    options = {"model": MODEL, "query": "which?", "documents": TEXTS}
    client = Client(api_key=KEY, base_url=base_url)
    legacy = {**options, "api_key": KEY, "base_address": base_url}
    return {
        "SDK TextReRank, threads": threaded(lambda: TextReRank.call(**legacy)),
        "SDK Client, threads": threaded(lambda: client.rerank.create(**options)),
        "DashScopeScorer.score, threads": threaded(lambda: scorer.score("which?", TEXTS)),
        "SDK AsyncClient": with_async_client(base_url, options),
        "SDK AioTextReRank": concurrent(lambda: AioTextReRank.call(**legacy)),
        "DashScopeScorer.ascore": concurrent(lambda: scorer.ascore("which?", TEXTS)),
    }


def threaded(call: Callable[[], object]) -> Way:
    def way(concurrency: int) -> float:
        with ThreadPoolExecutor(concurrency) as pool:
            started = time.perf_counter()
            list(pool.map(lambda _: call(), range(CALLS)))
            return CALLS / (time.perf_counter() - started)

    return way


def concurrent(call: Callable[[], Awaitable[object]]) -> Way:
    return lambda concurrency: asyncio.run(rate(call, concurrency))


def with_async_client(base_url: str, options: dict[str, object]) -> Way:
    async def run(concurrency: int) -> float:
        client = AsyncClient(api_key=KEY, base_url=base_url)
        try:
            return await rate(lambda: client.rerank.create(**options), concurrency)
        finally:
            await client.aclose()

    return lambda concurrency: asyncio.run(run(concurrency))


async def rate(call: Callable[[], Awaitable[object]], concurrency: int) -> float:
    places = iter(range(CALLS))

    async def worker() -> None:
        for _ in places:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds = time.perf_counter() - started
    await dashscope.close_shared_aio_session()
    return CALLS / seconds


if __name__ == "__main__":
    main()

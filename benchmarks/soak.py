"""Does the client last, when one call in twenty is in trouble?

    python benchmarks/soak.py [--calls N] [--seed N]

64 callers at a time, half of them threads and half tasks of two event loops, ask clients of all
kinds to rank, over a loopback service in another process. A call's texts say what is to go wrong
with it. Its outcome must be the one that follows: the right ranking, or a certain error. Memory,
descriptors, threads and tasks are watched throughout. Exits with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import multiprocessing
import random
import re
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from aiohttp import web

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.clients import CLIENTS, Ranked, arank, rank
from tests.support.loopback import (
    KEY,
    Fault,
    LoopbackDashScope,
    breaks_off,
    drops,
    hangs,
    ranking,
    refuses,
    says,
)

CALLS = 20_000
CONCURRENCY = 64
IN_TROUBLE = 20  # one call in so many
TIMEOUT = 2.0  # seconds for an attempt
RETRIES = 1
USES = 50  # after so many calls a caller makes itself new clients
WARM = 2_000  # calls after which memory must not grow
GROWTH = 10  # MB that it may
AT_MOST = {"descriptors": 2, "threads": 1, "tasks": 4}  # for each caller

ALWAYS = 1 + RETRIES


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with a call, and how that ends.

    Attributes:
        name: What the call's texts call it.
        fault: What the service does instead of answering, if anything.
        attempts: How many of the call's requests it does that to.
        seconds: How long the service takes to answer.
        retry_policy: Seconds after which a caller who awaits the answer leaves.
        ends: The error that the caller gets; None for the right ranking.
    """

    name: str
    fault: Fault | None = None
    attempts: int = 1
    seconds: float = 0.0
    retry_policy: float | None = None
    ends: type[Exception] | None = None


def passing_or_not(name: str, fault: Fault, ends: type[Exception]) -> list[Trouble]:
    """A trouble that a retry repairs, and one that stays."""
    return [
        Trouble(f"{name} once", fault),
        Trouble(f"{name} always", fault, attempts=ALWAYS, ends=ends),
    ]


def garbage(name: str, answer: str) -> Trouble:
    return Trouble(name, says(answer), ends=BadResponseError)


NONE = Trouble("none")
TROUBLES = [
    *passing_or_not("429", refuses(429, "Throttling.RateQuota"), RateLimitError),
    *passing_or_not("500", refuses(500, "InternalError"), ServiceError),
    *passing_or_not("503 in HTML", says("<html>", 503, "text/html"), ServiceError),
    *passing_or_not("200 with Throttling", refuses(200, "Throttling"), RateLimitError),
    *passing_or_not("dropped", drops, ServiceError),
    *passing_or_not("broken off", breaks_off, ServiceError),
    *passing_or_not("hanging", hangs, RequestTimeoutError),
    Trouble("200 with a code", refuses(200, "InvalidParameter"), ends=InvalidInputError),
    Trouble("401", refuses(401, "InvalidApiKey"), ends=AuthenticationError),
    Trouble("inspection", refuses(400, "DataInspectionFailed"), ends=ContentBlockedError),
    garbage("HTML", "<html>"),
    garbage("truncated", '{"output": {"results": [{"index": 0, "relev'),
    garbage("no scores", '{"output": {"results": []}}'),
    garbage("NaN", '{"output": {"results": [{"index": 0, "relevance_score": NaN}]}}'),
    Trouble("slow", seconds=0.5),
    *[Trouble("cancelled", seconds=1.0, retry_policy=0.05)] * 3,
]
BY_NAME = {trouble.name: trouble for trouble in TROUBLES}


@dataclass(frozen=True)
class Call:
    """What is asked for, and the right ranking."""

    trouble: Trouble
    texts: list[str]
    right: Ranked

    @classmethod
    def of(cls, number: int, seed: int) -> Call:
        chance, place = random.Random(seed * CALLS + number), number // IN_TROUBLE
        trouble = NONE if number % IN_TROUBLE else TROUBLES[place % len(TROUBLES)]
        scores = [score / 1_000 for score in chance.sample(range(1_000), chance.randint(1, 9))]
        texts = [f"call={number} trouble={trouble.name}; score={score:.3f}" for score in scores]
        best_first = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
        return cls(trouble, texts, best_first)

    def ends_well(self, outcome: Ranked | Exception, awaited: bool) -> bool:
        leaves = awaited and self.trouble.retry_policy is not None
        ends = TimeoutError if leaves else self.trouble.ends
        return outcome == self.right if ends is None else type(outcome) is ends


# --- The service, in a process of its own


def serve(pipe: Connection) -> None:
    with LoopbackDashScope() as server:
        server.faults.append(Script(server))
        pipe.send(server.base_url)
        pipe.recv()
        pipe.send((len(server.received), server.connections, server.most_in_flight))


class Script:
    """A fault that never ends: does to each request what its first text asks for."""

    def __init__(self, server: LoopbackDashScope) -> None:
        self._server = server
        self._attempts: Counter[str] = Counter()

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self._server.faults.append(self)  # for the next request
        found = re.match(r"call=(\d+) trouble=(.+?);", body["input"]["documents"][0])
        assert found is not None
        trouble = BY_NAME.get(found[2], NONE)
        self._attempts[found[1]] += 1
        if trouble.fault is not None and self._attempts[found[1]] <= trouble.attempts:
            return await trouble.fault(request, body)
        await asyncio.sleep(trouble.seconds)
        return web.json_response(ranking(body))


# --- The callers


@dataclass(frozen=True)
class Vitals:
    """How the process is: MB, and counts."""

    memory: float
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls) -> Vitals:
        process = psutil.Process()
        memory = process.memory_info().rss / 1e6
        return cls(memory, process.num_fds(), process.num_threads(), unfinished_tasks())


def unfinished_tasks() -> int:
    """Of all event loops, also those that only the client knows."""
    tasks = [thing for thing in gc.get_objects() if issubclass(type(thing), asyncio.Task)]
    return sum(not task.done() for task in tasks)


@dataclass
class Tally:
    """What came of the calls, and how the process was after each tenth of them."""

    calls: int
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    leaving: list[float] = field(default_factory=list)
    vitals: dict[int, Vitals] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    _done: int = 0
    # One thread, as the list of all objects stays in the memory of each that asks for it.
    _examiner: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def warm(self) -> int:
        """After how many calls memory must not grow any more."""
        return min(WARM, self.calls // 2)

    def record(self, call: Call, outcome: Ranked | Exception, awaited: bool) -> None:
        label = "right" if outcome == call.right else type(outcome).__name__
        with self._lock:
            self.outcomes.setdefault(call.trouble.name, Counter())[label] += 1
            if not call.ends_well(outcome, awaited):
                self.wrong.append(f"{call.texts[0]} → {outcome!r}")
            self._done += 1
            if self._done % (self.calls // 10) == 0:
                self.vitals[self._done] = self.examine()

    def examine(self) -> Vitals:
        return self._examiner.submit(Vitals.now).result()


Makers = list[Callable[[], Any]]


def turns(makers: Makers) -> Iterator[Any]:
    """Clients of all kinds in turn, every now and then new ones."""
    while True:
        clients = cycle([make() for make in makers])
        for _ in range(USES):
            yield next(clients)


def call_in_thread(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    for number, client in zip(numbers, turns(makers), strict=False):
        call = Call.of(number, seed)
        try:
            outcome: Ranked | Exception = rank(client, call.texts)
        except Exception as error:
            outcome = error.with_traceback(None)
        tally.record(call, outcome, awaited=False)


async def call_in_task(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    for number, client in zip(numbers, turns(makers), strict=False):
        call = Call.of(number, seed)
        started = time.perf_counter()
        try:
            asked = arank(client, call.texts)
            outcome: Ranked | Exception = await asyncio.wait_for(asked, call.trouble.retry_policy)
        except Exception as error:
            outcome = error.with_traceback(None)
        if call.trouble.retry_policy is not None:
            tally.leaving.append(time.perf_counter() - started - call.trouble.retry_policy)
        tally.record(call, outcome, awaited=True)


def soak(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    """Make the calls, so many at a time, and return when all are done."""
    caller = (numbers, seed, makers, tally)

    async def tasks() -> None:
        await asyncio.gather(*(call_in_task(*caller) for _ in range(CONCURRENCY // 4)))

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        threads = [pool.submit(call_in_thread, *caller) for _ in range(CONCURRENCY // 2)]
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        for future in threads + loops:
            future.result()


def at_rest(makers: Makers, tally: Tally) -> Vitals:
    """How the process is once nothing runs and the last scorer has closed the connections."""
    gc.collect()
    with makers[0]() as last:
        last.score("q", ["call=0 trouble=none;"])
    return tally.examine()


def warm_up(makers: Makers) -> None:
    for make in makers:
        rank(make(), ["call=0 trouble=none;"])
        asyncio.run(arank(make(), ["call=0 trouble=none;"]))


def listen(complaints: list[str]) -> None:
    """Collect what Python and the libraries print_error of: warnings, and what nobody caught."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    logging.getLogger().addHandler(Listener(logging.WARNING))
    logging.captureWarnings(True)
    warnings.simplefilter("always")
    sys.unraisablehook = lambda raised: complaints.append(repr(raised.exc_value))


# --- The report


def broken_bounds(tally: Tally, before: Vitals, after: Vitals) -> list[str]:
    """What should not have been, in words."""
    warm, *later = (tally.vitals[done] for done in sorted(tally.vitals) if done >= tally.warm)
    growth = max(vitals.memory for vitals in later) - warm.memory
    broken = [
        f"{len(found)} {kind}, such as {found[0]}"
        for kind, found in (("wrong outcomes", tally.wrong), ("complaints", tally.complaints))
        if found
    ]
    if growth >= GROWTH:
        broken.append(f"memory grew by {growth:.1f} MB")
    for name, each in AT_MOST.items():
        was, left = getattr(before, name), getattr(after, name)
        peak = max(getattr(vitals, name) for vitals in tally.vitals.values())
        if peak > was + each * CONCURRENCY:
            broken.append(f"{peak} {name}, of {was} before")
        if left > was:
            broken.append(f"{left} {name} left, of {was} before")
    return broken


def report(tally: Tally, before: Vitals, after: Vitals) -> None:
    print("| after | RSS, MB | descriptors | threads | tasks |\n|---|---|---|---|---|")
    rows = {"warm-up": before, **tally.vitals, "the end": after}
    for name, vitals in rows.items():
        memory, *counts = astuple(vitals)
        print(f"| {name} | {memory:.1f} | {' | '.join(map(str, counts))} |")
    print("\n| trouble | outcomes |\n|---|---|")
    for name in ("none", *BY_NAME):
        outcomes = tally.outcomes.get(name, Counter())
        print(f"| {name} | {', '.join(f'{n} {what}' for what, n in outcomes.items())} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.calls < 100:
        parser.error("--calls: 100 at least, as every tenth of them is looked at")
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")  # no thread is there yet
    service = context.Process(target=serve, args=(theirs,))
    service.start()
    try:
        broken = run(ours, arguments.calls, arguments.seed)
    finally:
        ours.send("stop")
        service.join()
    sys.exit("\n".join(broken) or 0)


def run(service: Connection, calls: int, seed: int) -> list[str]:
    options = {"api_key": KEY, "base_url": service.recv(), "timeout": TIMEOUT}
    makers = [partial(make, **options, max_retries=RETRIES) for make in CLIENTS.values()]
    tally = Tally(calls)
    listen(tally.complaints)
    warm_up(makers)
    before, started = at_rest(makers, tally), time.perf_counter()
    soak(iter(range(calls)), seed, makers, tally)
    seconds, after = time.perf_counter() - started, at_rest(makers, tally)
    report(tally, before, after)
    service.send("report")
    requests, connections, most = service.recv()
    print(
        f"\n{calls} calls in {seconds:.0f} s, {requests} requests on {connections} connections, "
        f"{most} in flight at most; {len(tally.leaving)} callers left, "
        f"{1_000 * median(tally.leaving or [0]):.1f} ms (median) after they wanted to."
    )
    return broken_bounds(tally, before, after)


if __name__ == "__main__":
    main()

"""Does the client stay healthy for many calls, if one in twenty fails?

    python benchmarks/soak.py [--calls N] [--seed N] [--timeout SECONDS]

64 callers, half of them threads and half tasks in two event loops, rank with all kinds of clients
over a loopback service in another process. A call's texts tell the service what should go wrong.
The outcome must be the expected one: the right ranking, or a certain error. Memory, descriptors,
threads and tasks are watched throughout. The exit code is 1 if a bound is exceeded.
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
from collections.abc import Callable, Iterable, Iterator
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

from qwen_rerank.testing.faults import breaks_off, drops, hangs, refuses, says
from qwen_rerank.testing.loopback import KEY, Fault, LoopbackDashScope, ranking
from tests.support.clients import CLIENTS, Ranked, arank, rank

CALLS = 20_000
CONCURRENCY = 64
FAULT_EVERY = 20  # calls
TIMEOUT = 2.0  # seconds per attempt; raise it on a machine that is busy with other things
RETRIES = 1
CALLS_PER_CLIENT = 50  # then a caller makes new clients
WARM = 2_000  # calls after which memory must no longer grow
GROWTH = 10  # MB that it may grow anyway
AT_MOST = {"descriptors": 2, "threads": 1, "tasks": 4}  # per caller

ALWAYS = 1 + RETRIES


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with a call, and the outcome.

    Attributes:
        name: Its name in the call's texts.
        fault: What the service does instead of responding, if anything.
        attempts: How many of the call's requests this affects.
        seconds: How long the service takes to respond.
        cancelled_after: Seconds after which an async caller cancels the call; None for never.
        error: The error that the caller gets; None for the right ranking.
    """

    name: str
    fault: Fault | None = None
    attempts: int = 1
    seconds: float = 0.0
    cancelled_after: float | None = None
    error: type[Exception] | None = None


def once_and_always(name: str, fault: Fault, error: type[Exception]) -> list[Trouble]:
    """A fault that a retry repairs, and one that it does not."""
    return [
        Trouble(f"{name} once", fault),
        Trouble(f"{name} always", fault, attempts=ALWAYS, error=error),
    ]


def bad_response(name: str, text: str) -> Trouble:
    return Trouble(name, says(text), error=BadResponseError)


NONE = Trouble("none")
TROUBLES = [
    *once_and_always("429", refuses(429, "Throttling.RateQuota"), RateLimitError),
    *once_and_always("500", refuses(500, "InternalError"), ServiceError),
    *once_and_always("503 in HTML", says("<html>", 503, "text/html"), ServiceError),
    *once_and_always("200 with Throttling", refuses(200, "Throttling"), RateLimitError),
    *once_and_always("dropped", drops, ServiceError),
    *once_and_always("broken off", breaks_off, ServiceError),
    *once_and_always("hanging", hangs, RequestTimeoutError),
    Trouble("200 with a code", refuses(200, "InvalidParameter"), error=InvalidInputError),
    Trouble("401", refuses(401, "InvalidApiKey"), error=AuthenticationError),
    Trouble("inspection", refuses(400, "DataInspectionFailed"), error=ContentBlockedError),
    bad_response("HTML", "<html>"),
    bad_response("truncated", '{"output": {"results": [{"index": 0, "relev'),
    bad_response("no scores", '{"output": {"results": []}}'),
    bad_response("NaN", '{"output": {"results": [{"index": 0, "relevance_score": NaN}]}}'),
    Trouble("slow", seconds=0.5),
    *[Trouble("cancelled", seconds=1.0, cancelled_after=0.05)] * 3,
]
BY_NAME = {trouble.name: trouble for trouble in TROUBLES}


@dataclass(frozen=True)
class Call:
    """The texts of a call, and the right ranking."""

    trouble: Trouble
    texts: list[str]
    right: Ranked

    @classmethod
    def of(cls, number: int, seed: int) -> Call:
        chance, index = random.Random(seed * CALLS + number), number // FAULT_EVERY
        trouble = NONE if number % FAULT_EVERY else TROUBLES[index % len(TROUBLES)]
        scores = [score / 1_000 for score in chance.sample(range(1_000), chance.randint(1, 9))]
        texts = [f"call={number} trouble={trouble.name}; score={score:.3f}" for score in scores]
        best_first = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1])
        return cls(trouble, texts, best_first)

    def expects(self, outcome: Ranked | Exception, is_async: bool) -> bool:
        cancelled = is_async and self.trouble.cancelled_after is not None
        error = TimeoutError if cancelled else self.trouble.error
        return outcome == self.right if error is None else type(outcome) is error


# --- The service, in its own process


def serve(pipe: Connection) -> None:
    with LoopbackDashScope() as server:
        server.faults.append(Script(server))
        pipe.send(server.base_url)
        pipe.recv()
        pipe.send((len(server.received), server.connections, server.most_in_flight))


class Script:
    """A fault for all requests: does to each what its first text asks for."""

    def __init__(self, server: LoopbackDashScope) -> None:
        self._server = server
        self._attempts: Counter[str] = Counter()

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self._server.faults.append(self)  # for the next request
        match = re.match(r"call=(\d+) trouble=(.+?);", body["input"]["documents"][0])
        assert match is not None
        number, trouble = match[1], BY_NAME.get(match[2], NONE)
        self._attempts[number] += 1
        if trouble.fault is not None and self._attempts[number] <= trouble.attempts:
            return await trouble.fault(request, body)
        await asyncio.sleep(trouble.seconds)
        return web.json_response(ranking(body))


# --- The callers


@dataclass(frozen=True)
class Vitals:
    """The state of the process: memory in MB, and counts."""

    memory: float
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls, loops: Iterable[asyncio.AbstractEventLoop]) -> Vitals:
        process = psutil.Process()
        memory = process.memory_info().rss / 1e6
        return cls(memory, process.num_fds(), process.num_threads(), unfinished_tasks(loops))


def unfinished_tasks(loops: Iterable[asyncio.AbstractEventLoop]) -> int:
    """Count the tasks of these event loops."""
    return sum(len(asyncio.all_tasks(loop)) for loop in loops)


def running_loops() -> set[asyncio.AbstractEventLoop]:
    """All running event loops, also those that only the client knows.

    Call it only while no other thread works: a tuple that is being built must not be seen.
    """
    loops = [each for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop)]
    return {loop for loop in loops if loop.is_running()}


@dataclass
class Tally:
    """The outcomes of the calls, and the state of the process after each tenth of them."""

    calls: int
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    cancelling: list[float] = field(default_factory=list)
    vitals: dict[int, Vitals] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _done: int = 0
    loops: set[asyncio.AbstractEventLoop] = field(default_factory=set)
    # One thread, because the list of all objects stays in the memory of each thread that asks.
    _examiner: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def warm(self) -> int:
        """The number of calls after which memory must no longer grow."""
        return min(WARM, self.calls // 2)

    def record(self, call: Call, outcome: Ranked | Exception, is_async: bool) -> None:
        label = "right" if outcome == call.right else type(outcome).__name__
        with self._lock:
            self.outcomes.setdefault(call.trouble.name, Counter())[label] += 1
            if not call.expects(outcome, is_async):
                self.wrong.append(f"{call.texts[0]} → {outcome!r}")
            self._done += 1
            if self._done % (self.calls // 10) == 0:
                self.vitals[self._done] = self.examine()

    def examine(self) -> Vitals:
        return self._examiner.submit(Vitals.now, self.loops).result()

    def find_loops(self) -> None:
        self.loops = self._examiner.submit(running_loops).result()


Makers = list[Callable[[], Any]]


def turns(makers: Makers) -> Iterator[Any]:
    """Clients of all kinds in turn, replaced by new ones now and then."""
    while True:
        clients = cycle([make() for make in makers])
        for _ in range(CALLS_PER_CLIENT):
            yield next(clients)


def call_in_thread(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    for number, client in zip(numbers, turns(makers), strict=False):
        call = Call.of(number, seed)
        try:
            outcome: Ranked | Exception = rank(client, call.texts)
        except Exception as error:
            outcome = error.with_traceback(None)
        tally.record(call, outcome, is_async=False)


async def call_in_task(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    for number, client in zip(numbers, turns(makers), strict=False):
        call = Call.of(number, seed)
        started, limit = time.perf_counter(), call.trouble.cancelled_after
        try:
            outcome: Ranked | Exception = await asyncio.wait_for(arank(client, call.texts), limit)
        except Exception as error:
            outcome = error.with_traceback(None)
        if limit is not None:
            tally.cancelling.append(time.perf_counter() - started - limit)
        tally.record(call, outcome, is_async=True)


def soak(numbers: Iterator[int], seed: int, makers: Makers, tally: Tally) -> None:
    """Make the calls, `CONCURRENCY` at a time, and return when all are done."""
    caller = (numbers, seed, makers, tally)

    async def tasks() -> None:
        tally.loops.add(asyncio.get_running_loop())
        await asyncio.gather(*(call_in_task(*caller) for _ in range(CONCURRENCY // 4)))

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        threads = [pool.submit(call_in_thread, *caller) for _ in range(CONCURRENCY // 2)]
        loops = [pool.submit(asyncio.run, tasks()) for _ in range(2)]
        for future in threads + loops:
            future.result()


def at_rest(makers: Makers, tally: Tally) -> Vitals:
    """The state of the process when nothing runs and the last scorer has closed the connections."""
    gc.collect()
    with makers[0]() as last:
        last.score("q", ["call=0 trouble=none;"])
    tally.find_loops()
    return tally.examine()


def warm_up(makers: Makers) -> None:
    for make in makers:
        rank(make(), ["call=0 trouble=none;"])
        asyncio.run(arank(make(), ["call=0 trouble=none;"]))


def collect_warnings(texts: list[str]) -> None:
    """Collect warnings, log records from WARNING on, and errors that nobody caught."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logging.getLogger().addHandler(Collector(logging.WARNING))
    logging.captureWarnings(True)
    warnings.simplefilter("always")
    sys.unraisablehook = lambda raised: texts.append(repr(raised.exc_value))


# --- The report


def exceeded_bounds(tally: Tally, before: Vitals, after: Vitals) -> list[str]:
    """One sentence per bound that was exceeded."""
    warm, *later = (tally.vitals[done] for done in sorted(tally.vitals) if done >= tally.warm)
    growth = max(vitals.memory for vitals in later) - warm.memory
    exceeded = [
        f"{len(texts)} {kind}, such as {texts[0]}"
        for kind, texts in (("wrong outcomes", tally.wrong), ("warnings", tally.warnings))
        if texts
    ]
    if growth >= GROWTH:
        exceeded.append(f"memory grew by {growth:.1f} MB")
    for name, each in AT_MOST.items():
        was, left = getattr(before, name), getattr(after, name)
        peak = max(getattr(vitals, name) for vitals in tally.vitals.values())
        if peak > was + each * CONCURRENCY:
            exceeded.append(f"{peak} {name} at the peak, {was} before")
        if left > was:
            exceeded.append(f"{left} {name} left over, {was} before")
    return exceeded


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
    parser.add_argument("--timeout", type=float, default=TIMEOUT)
    arguments = parser.parse_args()
    if arguments.calls < 100:
        parser.error("--calls must be at least 100, because the process is examined ten times")
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")  # there is no other thread yet
    service = context.Process(target=serve, args=(theirs,))
    service.start()
    try:
        exceeded = run(ours, arguments.calls, arguments.seed, arguments.timeout)
    finally:
        ours.send("stop")
        service.join()
    sys.exit("\n".join(exceeded) or 0)


def run(service: Connection, calls: int, seed: int, timeout: float) -> list[str]:
    options = {"api_key": KEY, "base_url": service.recv(), "timeout": timeout}
    makers = [partial(make, **options, max_retries=RETRIES) for make in CLIENTS.values()]
    tally = Tally(calls)
    collect_warnings(tally.warnings)
    warm_up(makers)
    before, started = at_rest(makers, tally), time.perf_counter()
    soak(iter(range(calls)), seed, makers, tally)
    seconds, after = time.perf_counter() - started, at_rest(makers, tally)
    report(tally, before, after)
    service.send("report")
    requests, connections, most = service.recv()
    print(
        f"\n{calls} calls in {seconds:.0f} s, {requests} requests on {connections} connections, "
        f"{most} in flight at most; {len(tally.cancelling)} calls were cancelled, which took "
        f"{1_000 * median(tally.cancelling or [0]):.1f} ms (median)."
    )
    return exceeded_bounds(tally, before, after)


if __name__ == "__main__":
    main()

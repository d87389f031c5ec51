"""One client in a process of its own, which is told what to do and reports what it took.

`Worker` is the parent's end; `python -m rig.worker CLIENT BASE_URL` is the other. They exchange
lines of JSON: a method of `_Measuring` with its arguments, and what it returned.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from rig import workload
from rig.clients import CLIENTS, Client

__all__ = ["Worker"]

BEAT = 0.001
"""Seconds between two looks at whether the event loop still turns."""


PACKAGES = (
    "aiohttp",
    "dashscope",
    "langchain-community",
    "langchain-core",
    "llama-index-core",
    "llama-index-postprocessor-dashscope-rerank",
    "pydantic",
    "requests",
    "zvec",
)


class Worker:
    """A client's process. It starts in the background; the first answer waits for it."""

    def __init__(self, python: Path, client: str, base_url: str) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "rig.worker", client, base_url],
            cwd=Path(__file__).resolve().parents[1],
            env={**_without_proxies(), "DASHSCOPE_HTTP_BASE_URL": base_url},  # the peers' only way
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """What the method returns, by name.

        Raises:
            RuntimeError: The client failed; with its error.
        """
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its input


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    name, base_url = sys.argv[1:]
    measuring = _Measuring(lambda: CLIENTS[name](base_url))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer = getattr(measuring, method)(**arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


class _Work(NamedTuple):
    """What a call is given, made of these texts."""

    texts: Sequence[str]
    inputs: Any

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.texts)


class _Measuring:
    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client = make()
        self._top_n = workload.TOP_N

    def _keep(self, top_n: int) -> None:
        self._top_n = top_n
        self._client.keep(top_n)

    def sync_calls(
        self, documents: int, calls: int, top_n: int = workload.TOP_N
    ) -> dict[str, float]:
        """Milliseconds that one call takes: of CPU, in all threads, and by the clock."""
        self._keep(top_n)
        work = self._work(workload.documents(documents))
        self._check(work, self._client.call(work.inputs))
        gc.collect()
        stopwatch = _Stopwatch()
        for _ in range(calls):
            self._client.call(work.inputs)
        return stopwatch.per_call(calls)

    def async_calls(
        self, documents: int, calls: int, concurrency: int = 1, top_n: int = workload.TOP_N
    ) -> dict[str, float]:
        """The same of asynchronous calls, so many at a time, after as many to warm up."""
        self._keep(top_n)
        work = self._work(workload.documents(documents))
        return asyncio.run(self._async_calls(work, calls, concurrency))

    async def _async_calls(self, work: _Work, calls: int, concurrency: int) -> dict[str, float]:
        await self._several(work, concurrency, concurrency)
        gc.collect()
        stopwatch = _Stopwatch()
        await self._several(work, calls, concurrency)
        taken = stopwatch.per_call(calls)
        await self._client.aclose()
        return taken

    async def _several(self, work: _Work, calls: int, concurrency: int) -> None:
        turns = iter(range(calls))

        async def caller() -> None:
            for turn in turns:
                answer = await self._client.acall(work.inputs)
                if turn == 0:
                    self._check(work, answer)

        await asyncio.gather(*(caller() for _ in range(concurrency)))

    def large(self, warm: bool) -> dict[str, float]:
        """One call of 5,000 documents, and the milliseconds that the event loop stood still.

        Where it is to find everything warm, one of 500 comes before.
        """
        self._keep(workload.TOP_N)
        return asyncio.run(self._large(self._work(workload.many()), warm))

    async def _large(self, work: _Work, warm: bool = False) -> dict[str, float]:
        gc.collect()
        try:
            if warm:
                await self._client.acall(self._work(workload.documents(500)).inputs)
            async with _Heartbeat() as heartbeat:
                stopwatch = _Stopwatch()
                answer = await self._client.acall(work.inputs)
                taken = stopwatch.per_call(1)
        finally:
            await self._client.aclose()
        self._check(work, answer)
        return {**taken, "blocked_ms": heartbeat.longest * 1e3}

    def traced(self) -> dict[str, float]:
        """What Python allocates for such a call at its peak, relative to the size of its texts."""
        work = self._work(workload.many())
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            asyncio.run(self._large(work))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return {"times": (peak - before) / work.size}

    def resident(self) -> dict[str, float]:
        """The same of the memory that the process occupies; Linux only."""
        work = self._work(workload.many())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before = _resident("VmRSS")
        asyncio.run(self._large(work))
        return {"times": (_resident("VmHWM") - before) / work.size}

    def duplicates(self, documents: int) -> dict[str, float]:
        """One call with every text twice."""
        texts = workload.documents(documents)
        self._client.call(self._work([*texts, *texts]).inputs)
        return {"distinct": len(texts)}

    def construct(self, times: int) -> dict[str, float]:
        """Milliseconds that it takes to make the client."""
        gc.collect()
        stopwatch = _Stopwatch()
        for _ in range(times):
            self._make()
        return stopwatch.per_call(times)

    def packages(self) -> dict[str, str]:
        """The versions of Python and of what bears on the figures."""
        found = {each.name: each.version for each in distributions() if each.name in PACKAGES}
        versions = {"Python": platform.python_version(), **dict(sorted(found.items()))}
        return {"versions": ", ".join(" ".join(each) for each in versions.items())}

    def _work(self, texts: Sequence[str]) -> _Work:
        return _Work(texts, self._client.inputs(texts))

    def _check(self, work: _Work, answer: Any) -> None:
        if self._client.texts(work.inputs, answer) != workload.best(work.texts, self._top_n):
            raise ValueError("The answer is wrong.")


class _Stopwatch:
    """CPU time of all threads, and time."""

    def __init__(self) -> None:
        self._cpu, self._time = time.process_time(), time.perf_counter()

    def per_call(self, calls: int) -> dict[str, float]:
        """Milliseconds since, a call."""
        cpu, elapsed = time.process_time() - self._cpu, time.perf_counter() - self._time
        return {"cpu_ms": cpu / calls * 1e3, "ms": elapsed / calls * 1e3}


class _Heartbeat:
    """Looks every millisecond whether the event loop turns, and keeps the longest gap."""

    longest = 0.0

    async def __aenter__(self) -> _Heartbeat:
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def _beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(BEAT)
            last, before = time.perf_counter(), last
            self.longest = max(self.longest, last - before)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(BEAT)  # a gap at the very end counts too
        self._task.cancel()


def _resident(name: str) -> int:
    """Bytes, from the kernel's own account; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()

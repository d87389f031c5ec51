"""One client in its own process, which measures what the benchmark asks for.

`Worker` is the parent's end, and `python -m rig.worker CLIENT BASE_URL` the other. They exchange
lines of JSON: the name of a method of `_Measurements` with its arguments, and what it returns.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rig import workload
from rig.clients import CLIENTS, Client

__all__ = ["OUTCOMES", "RAW", "SILENT", "Outcomes", "Worker"]

RANKED, CLEAR, RAW, SILENT = OUTCOMES = ("ranked", "clear error", "raw error", "silent")
"""How a call can end that meets a fault."""

Outcomes = dict[str, dict[str, dict[str, str]]]
"""By client and fault: how the call ended, and the error if there was one."""

UNPLANNED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RecursionError,
    TypeError,
    UnicodeError,
    json.JSONDecodeError,
)
"""What Python raises where code did not expect its input."""

BEAT = 0.001
"""Seconds between two beats of `_Heartbeat`."""

SHORT = 10
"""Documents of a short call, which takes about a millisecond."""

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
    """A client's process. It starts in the background, and the first `ask` waits for it."""

    def __init__(self, python: Path, client: str, base_url: str) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "rig.worker", client, base_url],
            cwd=Path(__file__).resolve().parents[1],
            env={**_without_proxies(), "DASHSCOPE_HTTP_BASE_URL": base_url},  # for the peers
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of `_Measurements` in the client's process.

        Raises:
            RuntimeError: The call failed. The text is that of the client's error.
        """
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):  # then there is no line to read either
            print(json.dumps([method, arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}.")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing a library prints gets between the replies
    name, base_url = sys.argv[1:]
    measurements = _Measurements(lambda: CLIENTS[name](base_url))
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            reply = getattr(measurements, method)(**arguments)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(reply), file=replies, flush=True)


class _Work(NamedTuple):
    """Texts, and the input of a call that the client makes of them."""

    texts: Sequence[str]
    inputs: Any

    @property
    def size(self) -> int:
        """Bytes of UTF-8."""
        return sum(len(text.encode()) for text in self.texts)


class _Measurements:
    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._client = make()
        self._top_n = workload.TOP_N

    def _set_top_n(self, top_n: int) -> None:
        self._top_n = top_n
        self._client.set_top_n(top_n)

    def sync_calls(
        self, documents: int, calls: int, top_n: int = workload.TOP_N
    ) -> dict[str, float]:
        """Milliseconds per call: CPU time of all threads, and elapsed time."""
        self._set_top_n(top_n)
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
        """The same for async calls, `concurrency` at a time, after as many to warm up."""
        self._set_top_n(top_n)
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
                result = await self._client.acall(work.inputs)
                if turn == 0:
                    self._check(work, result)

        await asyncio.gather(*(caller() for _ in range(concurrency)))

    def large(self, warm: bool) -> dict[str, float]:
        """One call of 5,000 documents, and for how many milliseconds it blocked the event loop.

        If `warm`, a call of 500 documents comes first.
        """
        self._set_top_n(workload.TOP_N)
        return asyncio.run(self._large(self._work(workload.many()), warm))

    async def _large(self, work: _Work, warm: bool = False) -> dict[str, float]:
        gc.collect()
        try:
            if warm:
                await self._client.acall(self._work(workload.documents(500)).inputs)
            async with _Heartbeat() as heartbeat:
                stopwatch = _Stopwatch()
                result = await self._client.acall(work.inputs)
                taken = stopwatch.per_call(1)
        finally:
            await self._client.aclose()
        self._check(work, result)
        return {**taken, "blocked_ms": heartbeat.longest * 1e3}

    def beside_images(self, images: int, size: int, image_service: str) -> dict[str, float]:
        """Milliseconds of short calls while another client of this process sends images.

        Args:
            images: How many documents of the other client's call are images.
            size: Bytes of each image.
            image_service: Where the other client sends them.
        """
        from qwen_rerank import Content, DashScopeScorer

        chance = random.Random(0)
        contents = [Content(image=b"GIF89a" + chance.randbytes(size)) for _ in range(images)]
        other = DashScopeScorer("qwen3-vl-rerank", workload.KEY, base_url=image_service)
        work = self._work(workload.documents(SHORT))
        self._check(work, self._client.call(work.inputs))
        other.score(workload.QUERY, contents[:1])  # both are warm now
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(other.score, workload.QUERY, contents)
            beside = list(self._milliseconds_of_calls(work, until=sending.done))
            sending.result()
        alone = list(islice(self._milliseconds_of_calls(work, until=bool), len(beside)))
        return {
            "longest": max(beside),
            "median": median(beside),
            "longest without images": max(alone),
        }

    def _milliseconds_of_calls(self, work: _Work, until: Callable[[], bool]) -> Iterator[float]:
        while not until():
            started = time.perf_counter()
            self._client.call(work.inputs)
            yield (time.perf_counter() - started) * 1e3

    def traced(self) -> dict[str, float]:
        """What Python allocates for such a call at its peak, relative to the size of the texts."""
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
        """The same for the resident memory of the process; Linux only."""
        work = self._work(workload.many())
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _resident("VmRSS")
        asyncio.run(self._large(work))
        return {"times": (_resident("VmHWM") - before) / work.size}

    def duplicates(self, documents: int) -> dict[str, float]:
        """One call with each text twice."""
        texts = workload.documents(documents)
        self._client.call(self._work([*texts, *texts]).inputs)
        return {"distinct": len(texts)}

    def call_with_fault(self) -> dict[str, str]:
        """How a call ends that meets a fault, which the benchmark has prepared at the service."""
        texts = [f"passage {index}, score={index / 10}" for index in range(3)]
        work = self._work(texts)
        try:
            result = self._client.call(work.inputs)
            returned = self._client.texts(work.inputs, result)
        except UNPLANNED as error:
            return {"outcome": RAW, "what": repr(error)[:300]}
        except Exception as error:
            return {"outcome": CLEAR, "what": repr(error)[:300]}
        return {"outcome": RANKED if returned == texts[::-1] else SILENT}

    def construct(self, times: int) -> dict[str, float]:
        """Milliseconds to construct the client."""
        gc.collect()
        stopwatch = _Stopwatch()
        for _ in range(times):
            self._make()
        return stopwatch.per_call(times)

    def packages(self) -> dict[str, str]:
        """The versions of Python and of the packages that matter for the figures."""
        installed = {each.name: each.version for each in distributions() if each.name in PACKAGES}
        versions = {"Python": platform.python_version(), **dict(sorted(installed.items()))}
        return {"versions": ", ".join(" ".join(each) for each in versions.items())}

    def _work(self, texts: Sequence[str]) -> _Work:
        return _Work(texts, self._client.inputs(texts))

    def _check(self, work: _Work, result: Any) -> None:
        if self._client.texts(work.inputs, result) != workload.best(work.texts, self._top_n):
            raise ValueError("The result is wrong.")


class _Stopwatch:
    """CPU time of all threads, and elapsed time."""

    def __init__(self) -> None:
        self._cpu, self._time = time.process_time(), time.perf_counter()

    def per_call(self, calls: int) -> dict[str, float]:
        """Milliseconds per call since this was made."""
        cpu, elapsed = time.process_time() - self._cpu, time.perf_counter() - self._time
        return {"cpu_ms": cpu / calls * 1e3, "ms": elapsed / calls * 1e3}


class _Heartbeat:
    """Wakes up every millisecond; `longest` is the longest gap between two beats, in seconds."""

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
        await asyncio.sleep(BEAT)  # so that a gap at the very end counts
        self._task.cancel()


def _resident(name: str) -> int:
    """A number of bytes from /proc; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()

"""What does the client cost, beside its peers and the least that a client can cost?

    python benchmarks/client.py [--rounds N] [--quick] [--json PATH] [--peers PYTHON]

Every client runs in a process of its own against a loopback service in another one, and they take
turns within each round. A figure is the median of the rounds. A ratio is taken within each round,
and is the median of those: on a machine that does other things too, compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.clients import CLIENTS, FAN_OUTS, OURS, PEERS, SDK
from rig.figures import Figures, Target, table
from rig.service import Service
from rig.worker import Worker
from tqdm import tqdm

FOLDER = Path(__file__).resolve().parent

LANGCHAIN, LLAMAINDEX, _ = OURS
COMMUNITY, LLAMAINDEX_PEER, _ = PEERS
SCORER = "DashScopeScorer"
FLOORS = {"sequential": "http.client", "concurrent": "aiohttp"}

SIZES = {100: 20, 500: 8}
"""How many documents a call has, and how many calls there are in a round."""

CONCURRENCY = 64
LATENCY = 0.02
PER_DOCUMENT = 0.0005

IMPORTS = {
    LANGCHAIN: ("langchain_core.documents", "langchain_qwen_rerank"),
    LLAMAINDEX: (
        "llama_index.core.schema, llama_index.core.postprocessor.types",
        "llamaindex_qwen_rerank",
    ),
}
IMPORT = """\
import sys, time
started = time.perf_counter()
import {}
print((time.perf_counter() - started) * 1e3, int("dashscope" in sys.modules))
"""


@dataclass
class Bench:
    """The service, the clients' processes, and what was measured so far."""

    service: Service
    processes: ExitStack
    peers: Path | None
    rounds: int
    quick: bool
    figures: Figures = field(default_factory=Figures)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        there = [name for name in CLIENTS if self._is_there(name)]
        self._workers = {name: self.processes.enter_context(self.start(name)) for name in there}

    def _is_there(self, client: str) -> bool:
        return not (client in SDK and self.quick) and not (client in PEERS and not self.peers)

    def start(self, client: str) -> Worker:
        """A new process of the client."""
        python = self.peers if client in PEERS else Path(sys.executable)
        assert python
        return Worker(python, client, self.service.base_url)

    def turns(
        self, what: str, clients: Iterable[str], rounds: int | None = None
    ) -> Iterator[tuple[str, Worker]]:
        """Each client once in every round, in another order each time."""
        present = [client for client in clients if client in self._workers]
        for turn in tqdm(range(rounds or self.rounds), desc=what, unit="round", leave=False):
            for client in random.Random(turn).sample(present, len(present)):
                yield client, self._workers[client]


def one_by_one(bench: Bench) -> None:
    """What one call costs."""
    bench.service.answer_after()
    for way, floor in FLOORS.items():
        for documents, calls in SIZES.items():
            clients = (floor, SCORER, *OURS, *PEERS)
            for client, worker in bench.turns(f"{way}, {documents} documents", clients):
                taken = worker.ask(way, documents=documents, calls=calls)
                bench.figures.add(f"CPU, {way}, {documents}", client, taken["cpu_ms"])
                bench.figures.add(f"time, {way}, {documents}", client, taken["ms"])


def many_at_a_time(bench: Bench) -> None:
    """200 calls of 50 documents each, of a service that takes 20 ms for one."""
    clients = ("aiohttp", SCORER, *OURS, *PEERS, *SDK)
    for client, worker in bench.turns("calls/s", clients):
        bench.service.answer_after(LATENCY)
        taken = worker.ask("concurrent", documents=50, calls=200, concurrency=CONCURRENCY)
        bench.figures.add("calls/s", client, 1e3 / taken["ms"])
        bench.figures.add("CPU, at a time", client, taken["cpu_ms"])
        bench.figures.add("in flight", client, bench.service.seen().most_in_flight)


def large_calls(bench: Bench) -> None:
    """5,000 documents in one call, of a service that takes 20 ms and 0.5 ms a document."""
    bench.service.answer_after(LATENCY, PER_DOCUMENT)
    for client, worker in bench.turns("5,000 documents", (*OURS, *FAN_OUTS)):
        taken = worker.ask("large")
        bench.figures.add("large", client, taken["ms"])
        bench.figures.add("large, CPU", client, taken["cpu_ms"])
        bench.figures.add("large, blocked", client, taken["blocked_ms"])
    for client, worker in bench.turns("peers, 5,000 documents", PEERS, rounds=1):
        try:
            worker.ask("large")
        except RuntimeError as error:
            bench.failures[client] = str(error)


SECTIONS = (one_by_one, many_at_a_time, large_calls)


def main() -> None:
    options = parsed()
    with ExitStack() as processes:
        service = processes.enter_context(Service())
        peers = options.peers if options.peers.exists() else None
        rounds = 1 if options.quick else options.rounds
        bench = Bench(service, processes, peers, rounds, options.quick)
        for section in SECTIONS:
            section(bench)
    f = bench.figures
    for what, by in f.items():
        print(what)
        for c in by: print("   ", c, round(f.median(what, c), 3))
    print(bench.failures)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each measures (9)")
    parser.add_argument("--quick", action="store_true", help="once, to see that all works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to store all figures")
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="PYTHON",
        default=FOLDER.parent / ".venv/peers/bin/python",
        help="the interpreter that has the packages of peers.txt (.venv/peers/bin/python)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What does the client cost, compared with its peers and with the least that a client can cost?

    python benchmarks/client.py [--rounds N] [--quick] [--json PATH] [--peers PYTHON]

Each client runs in its own process and talks to a loopback service in another one. The clients take
turns within a round. A figure is the median of the rounds. A ratio is taken within each round, and
is the median of those: on a machine that is busy with other things, compare ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rig.clients import CLIENTS, FAN_OUTS, FLOORS, LANGCHAIN, OURS, PEERS, SCORER, SDK
from rig.figures import Figures
from rig.peers import add_peers_option, available_peers
from rig.report import (
    BESIDE_IMAGES,
    CONCURRENCY,
    IMAGES,
    IMPORTS,
    MEGABYTES,
    PLUGINS,
    SIZES,
    TEN,
    as_json,
    as_markdown,
    fastest_fan_out,
)
from rig.service import Service
from rig.worker import Worker
from tqdm import tqdm

FOLDER = Path(__file__).resolve().parent

CALLS = 30
LATENCY = 0.02
PER_DOCUMENT = 0.0005

IMPORT = """\
import sys, time
times = [time.perf_counter()]
{before}
times.append(time.perf_counter())
{statement}
times.append(time.perf_counter())
print(times[1] - times[0], times[2] - times[1], int("dashscope" in sys.modules))
"""


@dataclass
class Bench:
    """The service, the clients' processes, and the figures so far."""

    service: Service
    processes: ExitStack
    peers: Path | None
    rounds: int
    quick: bool
    figures: Figures = field(default_factory=Figures)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        available = [name for name in CLIENTS if self._is_available(name)]
        self._workers = {name: self.processes.enter_context(self.start(name)) for name in available}

    def _is_available(self, client: str) -> bool:
        return not (client in SDK and self.quick) and not (client in PEERS and not self.peers)

    def start(self, client: str) -> Worker:
        """Start a new process of the client."""
        python = self.peers if client in PEERS else Path(sys.executable)
        assert python
        return Worker(python, client, self.service.base_url)

    def turns(
        self, what: str, clients: Iterable[str], at_most: int | None = None
    ) -> Iterator[tuple[str, Worker]]:
        """Each client once per round, in another order each time."""
        present = [client for client in clients if client in self._workers]
        rounds = min(self.rounds, at_most or self.rounds)
        for turn in tqdm(range(rounds), desc=what, unit="round"):
            for client in random.Random(turn).sample(present, len(present)):
                yield client, self._workers[client]

    def once(self, clients: Iterable[str]) -> Iterator[tuple[str, Worker]]:
        """Each client once, for what does not vary."""
        return ((client, self._workers[client]) for client in clients if client in self._workers)


def calls(bench: Bench) -> None:
    """One call after another to a service that responds at once, with all documents returned."""
    bench.service.respond_after()
    for mode, floor in FLOORS.items():
        for documents in SIZES:
            title = f"{mode}, {documents} documents"
            for client, worker in bench.turns(title, (floor, SCORER, *OURS, *PEERS)):
                _add_calls(bench, title, client, worker, mode, documents, top_n=documents)


def calls_for_ten(bench: Bench) -> None:
    """The same sync calls with ten documents returned, which is all the peers ask the service for.

    DashScopeScorer is left out, because its `score` always returns all scores.
    """
    bench.service.respond_after()
    for documents in SIZES:
        title = f"sync, {documents} documents, {TEN}"
        for client, worker in bench.turns(title, (FLOORS["sync"], *OURS, *PEERS)):
            _add_calls(bench, title, client, worker, "sync", documents, top_n=10)


def _add_calls(
    bench: Bench, title: str, client: str, worker: Worker, mode: str, documents: int, top_n: int
) -> None:
    taken = worker.ask(f"{mode}_calls", documents=documents, calls=CALLS, top_n=top_n)
    bench.figures.add(f"{title}: CPU ms", client, taken["cpu_ms"])
    bench.figures.add(f"{title}: ms", client, taken["ms"])


def concurrent_calls(bench: Bench) -> None:
    """200 calls with 50 documents each to a service that takes 20 ms."""
    clients = (FLOORS["async"], SCORER, *OURS, *PEERS, *SDK)
    for client, worker in bench.turns(f"{CONCURRENCY} concurrent calls", clients, at_most=5):
        bench.service.respond_after(LATENCY)
        taken = worker.ask("async_calls", documents=50, calls=200, concurrency=CONCURRENCY)
        bench.figures.add("calls/s", client, 1e3 / taken["ms"])
        bench.figures.add("CPU ms a call", client, taken["cpu_ms"])
        bench.figures.add("in flight", client, bench.service.seen().most_in_flight)


def large_calls(bench: Bench) -> None:
    """5,000 documents in one call to a service that takes 20 ms and 0.5 ms per document."""
    bench.service.respond_after(LATENCY, PER_DOCUMENT)
    for client, worker in bench.turns("calls with 5,000 documents", (*OURS, *FAN_OUTS)):
        _add_large(bench, "large", client, worker.ask("large", warm=True))
    for client, worker in bench.once(PEERS):
        try:
            worker.ask("large", warm=False)
        except RuntimeError as error:
            bench.notes[f"{client}, 5,000 documents"] = str(error)


def first_large_calls(bench: Bench) -> None:
    """The same as the first call of a process."""
    clients = (LANGCHAIN, fastest_fan_out(bench.figures))
    for client, _ in bench.turns("first calls", clients, at_most=3):
        bench.service.respond_after(LATENCY, PER_DOCUMENT)
        with bench.start(client) as worker:
            _add_large(bench, "first", client, worker.ask("large", warm=False))
        seen = bench.service.seen()
        bench.figures.add("first: requests", client, seen.requests)
        bench.figures.add("first: refused", client, seen.refused)


def _add_large(bench: Bench, which: str, client: str, taken: dict[str, float]) -> None:
    for name, unit in {"ms": "ms", "CPU ms": "cpu_ms", "loop blocked, ms": "blocked_ms"}.items():
        bench.figures.add(f"{which}: {name}", client, taken[unit])


def calls_beside_images(bench: Bench) -> None:
    """Short calls, one after another, while another client of the process sends large images.

    The images go to a service of their own, so that only the client can delay the short calls.
    """
    bench.service.respond_after()
    with Service() as image_service:
        for client, worker in bench.turns("calls beside images", (SCORER,), at_most=5):
            taken = worker.ask(
                "beside_images",
                images=IMAGES,
                size=MEGABYTES * 1_000_000,
                image_service=image_service.base_url,
            )
            for name in BESIDE_IMAGES:
                bench.figures.add(f"beside images: {name} ms", client, taken[name])


def memory(bench: Bench) -> None:
    """What a call with 5,000 documents adds at its peak, after one with 500."""
    for client, _ in bench.once((*PLUGINS, fastest_fan_out(bench.figures))):
        with bench.start(client) as worker:
            worker.ask("async_calls", documents=500, calls=1)
            for which in ("resident", "traced"):
                bench.figures.add(f"memory {which}, × texts", client, worker.ask(which)["times"])


def connections(bench: Bench) -> None:
    """100 calls one after another, and one to warm up."""
    for mode, floor in FLOORS.items():
        for client, worker in bench.once((floor, *OURS, *PEERS)):
            bench.service.respond_after()
            worker.ask(f"{mode}_calls", documents=10, calls=100)
            bench.figures.add(f"connections, {mode}", client, bench.service.seen().connections)


def billing(bench: Bench) -> None:
    """100 documents with 50 distinct texts."""
    for client, worker in bench.once((*OURS, *PEERS)):
        bench.service.respond_after()
        distinct = worker.ask("duplicates", documents=50)["distinct"]
        billed = bench.service.seen().billed / distinct
        bench.figures.add("texts billed / distinct", client, billed)


def construction(bench: Bench) -> None:
    """Constructing a client whose modules are imported."""
    for client, worker in bench.turns("construction", (SCORER, *OURS, *PEERS)):
        taken = worker.ask("construct", times=100)
        bench.figures.add("construction, CPU ms", client, taken["cpu_ms"])


def imports(bench: Bench) -> None:
    """Each import in a new process; the byte code is cached, because other sections ran it."""
    for _ in tqdm(range(min(bench.rounds, 5)), desc="imports", unit="round"):
        for statement, before in IMPORTS.items():
            code = IMPORT.format(before=before, statement=statement)
            run = subprocess.run(
                [sys.executable, "-c", code], cwd=FOLDER, check=True, capture_output=True, text=True
            )
            framework, plugin, loads_dashscope = map(float, run.stdout.split())
            bench.figures.add("ms before", statement, framework * 1e3)
            bench.figures.add("ms more", statement, plugin * 1e3)
            bench.figures.add("loads dashscope", statement, loads_dashscope)


def machine(bench: Bench) -> None:
    """Note where the figures come from."""
    bench.notes["machine"] = f"{platform.system()}, {platform.machine()}, {os.cpu_count()} CPUs"
    for client, worker in bench.once((LANGCHAIN, *tuple(PEERS)[:1])):
        bench.notes[f"packages of {client}"] = worker.ask("packages")["versions"]


SECTIONS = (
    calls,
    calls_for_ten,
    concurrent_calls,
    large_calls,
    first_large_calls,
    calls_beside_images,
    memory,
    connections,
    billing,
    construction,
    imports,
    machine,
)


def main() -> None:
    options = parse_arguments()
    peers = available_peers(options)
    with ExitStack() as processes:
        service = processes.enter_context(Service())
        rounds = 1 if options.quick else options.rounds
        bench = Bench(service, processes, peers, rounds, options.quick)
        for section in SECTIONS:
            section(bench)
    print(as_markdown(bench.figures, bench.notes))
    if options.json:
        options.json.write_text(as_json(bench.figures, bench.notes))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured (7)")
    parser.add_argument("--quick", action="store_true", help="measure once, to see that it works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to save all figures")
    add_peers_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()

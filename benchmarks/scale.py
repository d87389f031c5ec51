"""How do `rerank_many`, Ray Data and Ray Serve compare, and what do a lost node or driver cost?

    python benchmarks/scale.py [--quick | --share SHARE] [--json FILE] [--only NAME …]

Needs the extras `ray`, `embedded` and `local`. Everything runs on this machine: the service
responds after 20 ms, and nodes are processes. With `--only`, the other parts of the file stay as
they are. `--quick` checks that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

import psutil
import pyarrow.parquet as pq
import ray
from ray import serve
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "core"), str(ROOT)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")

from rig.service import Service  # noqa: E402

from qwen_rerank import (  # noqa: E402
    DashScopeScorer,
    EmbeddedScorer,
    LocalScorer,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    ServerScorer,
)
from qwen_rerank.batch import checkpointed, rerank_dataset, rerank_many  # noqa: E402
from qwen_rerank.batch.run import RunFiles, RunReranking  # noqa: E402
from qwen_rerank.batch.serving import application  # noqa: E402
from qwen_rerank.testing.loopback import KEY  # noqa: E402
from tests.batch.conftest import started as with_retries  # noqa: E402

DOCUMENTS = 20
TEXTS = [f"Document {n} says what penguins eat in winter, and where." for n in range(DOCUMENTS)]
ROUNDS = 3
NODE_CPUS = 2  # of the nodes with actors; with 1, writing has to wait
STORE = 600_000_000  # bytes of Ray's object store per node; a block can have 128 MiB
PORT = 8_642
CLIENTS = 64
WORDS = [
    "penguins", "krill", "eat", "drink", "winter", "cars", "roads", "markets", "fell", "fish",
    "cold", "sea", "seals", "ice", "stones", "and",
]  # fmt: skip


class Lengths(Scorer):
    """Scores by length, at once."""

    model = "lengths"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([float(len(text)) for text in texts])


class Logged(EmbeddedScorer):
    """Takes a while, and writes a line per query that is paid for: its number, and the node."""

    def __init__(self, log: Path, seconds: float) -> None:
        super().__init__()
        self.log = log
        self.seconds = seconds

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        scores = super().score(query, texts)
        time.sleep(self.seconds)
        with self.log.open("a") as file:
            file.write(f"{query.rpartition(' ')[2]} {ray.get_runtime_context().get_node_id()}\n")
        return scores


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "query": f"penguins {n}", "documents": TEXTS} for n in range(count)]


def tasks(count: int, texts: Sequence[str] = TEXTS) -> Iterator[Any]:
    for number in range(count):
        yield str(number), f"penguins {number}", records(texts)


def records(texts: Sequence[str]) -> list[Record]:
    return [Record(str(index), {"text": text}) for index, text in enumerate(texts)]


def service_scorer(base_url: str) -> Scorer:
    return DashScopeScorer("gte-rerank-v2", base_url=base_url, api_key=KEY)


def connect(address: str, **options: Any) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def one_node() -> Iterator[None]:
    options = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False}
    with_retries(partial(connect, "local", **options), ray.shutdown)
    try:
        yield
    finally:
        ray.shutdown()


# Queries per second


def rates(share: float) -> dict[str, Any]:
    """Queries per second of one process, and of jobs on 1, 2 and 4 actors, in turn."""
    count = max(96, int(1_000 * share))
    found: dict[str, Any] = {"queries": count, "documents": DOCUMENTS, "rounds": ROUNDS}
    with Service() as service, one_node(), tempfile.TemporaryDirectory() as folder:
        service.respond_after(0.02)
        makers: dict[str, Callable[[], Scorer]] = {
            "embedded": EmbeddedScorer,
            "service of 20 ms": partial(service_scorer, service.base_url),
        }
        for name, make in makers.items():
            jobs = {
                "rerank_many": partial(_many, make, count),
                "run": partial(_run, make, count, Path(folder)),
                **{f"{n} actors": partial(_on_actors, make, count, n) for n in (1, 2, 4)},
            }
            found[name] = _medians(jobs, count)
    return found


def _medians(jobs: dict[str, Callable[[], Iterator[object]]], count: int) -> dict[str, Any]:
    """What the jobs take until their first query, and after it."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            started = time.perf_counter()
            results = job()
            next(results)
            start = time.perf_counter() - started
            assert 1 + sum(1 for _ in results) == count
            seconds[name].append((start, time.perf_counter() - started - start))
    found: dict[str, Any] = {}
    for name, pairs in seconds.items():
        found[name] = {
            "queries per second": round(count / median(map(sum, pairs)), 1),
            "seconds to the first": round(median(start for start, _ in pairs), 2),
            "ms per further query": round(1_000 * median(rest for _, rest in pairs) / count, 2),
        }
    base = found["rerank_many"]["ms per further query"]
    for figures in found.values():
        figures["times rerank_many"] = round(figures["ms per further query"] / base, 2)
    return found


def _many(make: Callable[[], Scorer], count: int) -> Iterator[object]:
    yield from rerank_many(RerankEngine(make(), rerank_field="text"), tasks(count))


def _run(make: Callable[[], Scorer], count: int, folder: Path) -> Iterator[object]:
    """What `qwen-rerank run` does: read a file, keep a journal, write a run."""
    candidates, out = folder / "candidates.jsonl", folder / "reranked.run"
    with candidates.open("w") as file:
        for row in rows(count):
            documents = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS)]
            line = {"query_id": row["id"], "query": row["query"], "documents": documents}
            file.write(f"{json.dumps(line)}\n")
    with RunReranking(make(), RunFiles(candidates, out, overwrite=True)) as reranking:
        yield 0  # the files are read
        reranking.rerank()
        reranking.journal.remove()
    with out.open() as file:
        assert sum(1 for _ in file) == count * DOCUMENTS
    yield from range(1, count)


def _on_actors(make: Callable[[], Scorer], count: int, actors: int) -> Iterator[object]:
    ds = ray.data.from_items(rows(count), override_num_blocks=count // 16)
    yield from rerank_dataset(ds, make, concurrency=actors, batch_size=16).iter_rows()


# Memory


def memory(share: float) -> dict[str, Any]:
    """The peak memory of a process that reranks more and more pairs, in MiB."""
    sizes = [pairs for pairs in (10_000, 100_000, 1_000_000) if pairs <= 1_000_000 * share]
    return {f"{pairs:,} pairs": json.loads(_child("memory", pairs)) for pairs in sizes}


def _memory_of(pairs: int) -> None:
    """Print what a job of 100 documents per query needs, in a process of its own."""
    engine = RerankEngine(Lengths(), rerank_field="text")
    texts = [f"{'text ' * 40}{number}" for number in range(100)]
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as folder:
        started, cpu = time.perf_counter(), time.process_time()
        for _ in rerank_many(engine, tasks(pairs // 100, texts), journal=Path(folder) / "journal"):
            pass
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024
    found = {
        "MiB before": before >> 20,
        "peak MiB": peak >> 20,
        "seconds": round(seconds, 1),
        "CPU ms per query": round(1_000 * cpu / (pairs // 100), 2),
    }
    print(json.dumps(found))


def _child(*arguments: object) -> str:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


# Jobs on a cluster of three nodes, and kills


def kills(share: float) -> dict[str, Any]:
    """What is paid for twice, and what is lost, if a node or the driver is killed."""
    queries = max(100, int(1_000 * share))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, Nodes() as nodes:
        for kind in ("node", "driver"):
            job = Job(Path(name) / kind, nodes, queries, DOCUMENTS, 0.02)
            with job.driver() as driver:
                job.wait_for_paid(queries // 2)
                kill = job.kill_node() if kind == "node" else job.kill_driver(driver)
            if kind == "node":
                nodes.add()
            else:
                job.run()
            found[f"a killed {kind}"] = {**kill, **job.counts()}
    return {"queries": queries, "documents": DOCUMENTS, "CPUs per node": NODE_CPUS, **found}


def million(share: float) -> dict[str, Any]:
    """A million pairs: one process, and a cluster that loses its driver and then a node."""
    queries, documents = max(60, int(1_000 * share)), 1_000
    with tempfile.TemporaryDirectory() as name, Nodes() as nodes:
        job = Job(Path(name), nodes, queries, documents)
        peaks = Peaks()
        with peaks:
            started = time.perf_counter()
            with job.driver() as driver:
                job.wait_for_paid(queries // 3)
                driver_kill = job.kill_driver(driver)
            with job.driver():
                job.wait_for_paid(2 * queries // 3)
                node_kill = job.kill_node()
            seconds = time.perf_counter() - started
        counts = job.counts()
        started = time.perf_counter()
        differing = job.rows_unlike_one_process()
        alone = time.perf_counter() - started
    return {
        "pairs": queries * documents,
        "queries": queries,
        "documents": documents,
        "nodes": 3,
        "CPUs per node": NODE_CPUS,
        "rows that differ from one process": differing,
        **counts,
        "killed driver": driver_kill,
        "killed node": node_kill,
        "seconds with both kills": round(seconds),
        "seconds in one process": round(alone),
        "peak MiB": peaks.mebibytes,
    }


class Nodes:
    """A cluster of a node for the driver, and two with a GPU that isn't there for an actor each."""

    def __enter__(self) -> Self:
        head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
        start = partial(Cluster, initialize_head=True, head_node_args=head)
        self.cluster = with_retries(start, ray.shutdown)
        self.doomed = self.add()
        self.add()
        connect(self.cluster.address)
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()
        self.cluster.shutdown()

    def add(self) -> Any:
        options = {"num_cpus": NODE_CPUS, "num_gpus": 1, "object_store_memory": STORE}
        return with_retries(partial(self.cluster.add_node, **options), lambda: None)


class Job:
    """A job with checkpoints, whose driver is another process."""

    def __init__(
        self, folder: Path, nodes: Nodes, queries: int, documents: int, seconds: float = 0.0
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self.queries = queries
        self.documents = documents
        self.arguments = (folder, nodes.cluster.address, seconds)
        folder.mkdir(exist_ok=True)
        ds = ray.data.range(queries, override_num_blocks=10)
        ds.map(partial(_row, documents=documents)).write_parquet(str(folder / "in"))

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start the job; at the end, wait for it, and raise if it failed but was not killed."""
        command = [sys.executable, __file__, "--child", "job", *map(str, self.arguments)]
        with subprocess.Popen(command) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"The driver ended with {process.returncode}.")

    def run(self) -> None:
        with self.driver():
            pass

    def wait_for_paid(self, count: int) -> None:
        while len(self._paid()) < count:
            time.sleep(0.02)

    def kill_driver(self, driver: subprocess.Popen[bytes]) -> dict[str, int]:
        """Kill the driver, and wait until its actors are dead, too."""
        driver.kill()
        before = -1
        while before < len(paid := self._paid()):
            before = len(paid)
            time.sleep(3)
        in_flight = {number for number, _ in paid} - self._checkpointed()
        return {"paid before": len(paid), "of these in flight": len(in_flight)}

    def kill_node(self) -> dict[str, int]:
        doomed = self.nodes.doomed
        there = {number for number, node in self._paid() if node == doomed.node_id}
        self.nodes.cluster.remove_node(doomed, allow_graceful=False)
        there |= {number for number, node in self._paid() if node == doomed.node_id}
        in_flight = there - self._checkpointed()
        return {"paid on the node": len(there), "of these in flight": len(in_flight)}

    def counts(self) -> dict[str, int]:
        ids = [row["id"] for row in self._rows(["id"])]
        paid = self._paid()
        return {
            "rows lost": self.queries - len(set(ids)),
            "rows twice": len(ids) - len(set(ids)),
            "paid twice": len(paid) - len({number for number, _ in paid}),
        }

    def rows_unlike_one_process(self) -> int:
        """How many rows have other documents, another order or other scores than one process."""
        engine = RerankEngine(EmbeddedScorer(), rerank_field="text", missing="keep")
        written = {row["id"]: row for row in self._rows(None)}
        given = [_row({"id": number}, self.documents) for number in range(self.queries)]
        todo = ((str(row["id"]), row["query"], records(row["documents"])) for row in given)
        differing = 0
        for query_id, ranking in rerank_many(engine, todo):
            row = written.get(int(query_id), {})
            documents = [record.fields["text"] for record in ranking]
            is_equal = (
                row.get("query") == given[int(query_id)]["query"]
                and row.get("documents") == documents
                and row.get("relevance_scores") == [record.score for record in ranking]
            )
            differing += not is_equal
        return differing

    def _paid(self) -> list[tuple[int, str]]:
        with suppress(FileNotFoundError):
            lines = (self.folder / "paid").read_text().splitlines()
            return [(int(number), node) for number, node in map(str.split, lines)]
        return []

    def _checkpointed(self) -> set[int]:
        files = (self.folder / "checkpoints").glob("*.parquet")
        done = [path for path in files if ".pending" not in path.name]
        return {int(id_) for path in done for id_ in pq.read_table(path).column("id").to_pylist()}

    def _rows(self, columns: list[str] | None) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / "out").glob("*.parquet")):
            yield from pq.ParquetFile(path).read(columns).to_pylist()


def _row(row: dict[str, Any], documents: int) -> dict[str, Any]:
    """The query of a number, with its documents; always the same."""
    number = row["id"]
    chance = random.Random(int(number))
    texts = [" ".join([*chance.choices(WORDS, k=12), str(i)]) for i in range(documents)]
    query = " ".join([*chance.sample(WORDS, 3), str(number)])
    return {"id": number, "query": query, "documents": texts}


def _drive(folder: str, address: str, seconds: str) -> None:
    """The driver of a `Job`."""
    connect(address)
    with checkpointed(f"{folder}/checkpoints", "id"):
        ds = ray.data.read_parquet(f"{folder}/in").repartition(target_num_rows_per_block=8)
        make = partial(Logged, Path(folder, "paid"), float(seconds))
        ranked = rerank_dataset(ds, make, concurrency=2, num_gpus=1, batch_size=8)
        # As `qwen-rerank run --engine ray` does, so that writing waits for no CPU.
        ranked.write_parquet(f"{folder}/out", mode="append", ray_remote_args={"num_cpus": 0.1})


class Peaks:
    """Watches how much memory the driver and each actor use, with what they share."""

    def __enter__(self) -> Self:
        self.mebibytes = {"driver": 0, "actor": 0}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(1):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    command = " ".join(process.cmdline())
                    used = process.memory_info().rss >> 20
                    if "--child job" in command:
                        self.mebibytes["driver"] = max(self.mebibytes["driver"], used)
                    elif "_Actor" in command:
                        self.mebibytes["actor"] = max(self.mebibytes["actor"], used)


# Serving


def serving(share: float) -> dict[str, Any]:
    """Calls per second of 64 clients, also while a replica is killed."""
    calls = max(128, int(600 * share))
    bare, served, killed = [], [], []
    with _served(EmbeddedScorer, 2) as scorer:
        asyncio.run(_load(scorer, calls // 10))
        for _ in range(ROUNDS):
            bare.append(asyncio.run(_load(EmbeddedScorer(), calls)))
            served.append(asyncio.run(_load(scorer, calls)))
            killed.append(asyncio.run(_load(scorer, calls, in_the_middle=_kill_a_replica)))
            _wait_for_replicas(2)
    found = {"bare scorer": bare, "Serve": served, "a killed replica": killed}
    return {
        "calls": calls,
        "clients": CLIENTS,
        "rounds": ROUNDS,
        **{name: _median_of(loads) for name, loads in found.items()},
    }


@contextmanager
def _served(make: Callable[[], Scorer], replicas: int) -> Iterator[ServerScorer]:
    with one_node():
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(application(make, min_replicas=replicas, max_replicas=replicas))
        try:
            yield ServerScorer(
                f"http://127.0.0.1:{PORT}/v1/rerank", max_retries=8, timeout=60, deadline=300
            )
        finally:
            serve.shutdown()


def _replicas() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ServeReplica" in " ".join(process.cmdline()):
                found.append(process)
    return found


def _kill_a_replica() -> None:
    _replicas()[0].send_signal(signal.SIGKILL)


def _wait_for_replicas(count: int) -> None:
    while len(_replicas()) < count:
        time.sleep(0.2)
    time.sleep(5)  # until it is ready


async def _load(
    scorer: Scorer,
    calls: int,
    texts: Sequence[str] = TEXTS,
    clients: int = CLIENTS,
    in_the_middle: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Score with many clients, each with queries of its own."""
    seconds: list[float] = []
    numbers = iter(range(calls))
    failed: Counter[str] = Counter()

    async def client() -> None:
        for number in numbers:
            if number == calls // 2 and in_the_middle is not None:
                in_the_middle()
            started = time.perf_counter()
            try:
                await scorer.ascore(f"penguins {number}", texts)
            except Exception as error:
                failed[f"{type(error).__name__}: {error}"[:120]] += 1
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return {
        "calls per second": calls / (time.perf_counter() - started),
        "p50 ms": 1_000 * median(seconds),
        "p99 ms": 1_000 * quantiles(seconds, n=100)[-1],
        "failed": failed.total(),
        "errors": dict(failed),
    }


def _median_of(loads: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: round(median(load[name] for load in loads), 1)
        for name in ("calls per second", "p50 ms", "p99 ms")
    }
    errors = {error for load in loads for error in load["errors"]}
    return {
        **found,
        "failed": sum(load["failed"] for load in loads),
        **({"errors": sorted(errors)} if errors else {}),
    }


# Small calls of many users to LocalScorer


class AsOnGpu(LocalScorer):
    """Computes small calls that wait in one batch, which LocalScorer otherwise does on GPUs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert self._loaded is not None
        self._loaded = self._loaded._replace(join_tokens=16_384)


def batching(share: float) -> dict[str, Any]:
    """Calls of 3 texts to a tiny model: one client, and 16 at once."""
    from tests.support.tiny_qwen import save

    calls = max(64, int(240 * share))
    load = partial(_load, calls=calls, texts=TEXTS[:3])
    found: dict[str, Any] = {"calls": calls, "documents": 3, "rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as name:
        folder = str(save(Path(name)))
        make = partial(AsOnGpu, folder, device="cpu", dtype="float32")
        alone = LocalScorer(folder, device="cpu", dtype="float32")
        expected = [alone.score(f"penguins {n}", TEXTS[:3]).values for n in range(CLIENTS)]
        with _served(make, 1) as served:
            ways: dict[str, Scorer] = {"own batches": alone, "shared": make(), "Serve": served}
            loads = defaultdict(list)
            for _ in range(ROUNDS):
                for way, scorer in ways.items():
                    for clients in (1, 16):
                        loads[way, clients].append(asyncio.run(load(scorer, clients=clients)))
            for way, scorer in ways.items():
                one, many = (_median_of(loads[way, clients]) for clients in (1, 16))
                gain = many["calls per second"] / one["calls per second"]
                off = _largest_difference(asyncio.run(_at_once(scorer)), expected)
                found[way] = {
                    "1 client": one,
                    "16 clients": many,
                    "gain": round(gain, 2),
                    "largest difference of a score": off,
                }
    return found


async def _at_once(scorer: Scorer) -> list[list[float]]:
    calls = (scorer.ascore(f"penguins {number}", TEXTS[:3]) for number in range(CLIENTS))
    return [scores.values for scores in await asyncio.gather(*calls)]


def _largest_difference(found: list[list[float]], expected: list[list[float]]) -> float:
    pairs = zip(chain.from_iterable(found), chain.from_iterable(expected), strict=True)
    return max(abs(one - other) for one, other in pairs)


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "memory": memory,
    "rates": rates,
    "kills": kills,
    "million": million,
    "serving": serving,
    "batching": batching,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", dest="share", action="store_const", const=0.05, default=1.0)
    parser.add_argument("--share", type=float, help="the share of the queries to run, up to 1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *arguments = options.child
        _memory_of(int(arguments[0])) if kind == "memory" else _drive(*arguments)
        return
    found: dict[str, Any] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text())
    found["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    found["ray"] = ray.__version__
    for name in options.only:
        started = time.perf_counter()
        part = PARTS[name](options.share)
        part["took seconds"] = round(time.perf_counter() - started)
        if options.share != 1:
            part["share"] = options.share
        found[name] = part
        print(name, json.dumps(part, indent=2), flush=True)
        if options.json:
            options.json.write_text(f"{json.dumps(found, indent=2)}\n")


if __name__ == "__main__":
    main()

"""How do `rerank_many`, Ray Data and Ray Serve compare, and what do a lost node or driver cost?

    python benchmarks/scale.py [--quick | --share SHARE] [--json FILE] [--only NAME …]

Needs the extras `ray` and `embedded`. Everything runs on this machine: the service responds after
20 ms, and nodes are processes. `--quick` checks that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")

from rig.service import Service  # noqa: E402

from qwen_rerank import (  # noqa: E402
    DashScopeScorer,
    EmbeddedScorer,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    ServerScorer,
)
from qwen_rerank.batch import checkpointed, rerank_dataset, rerank_many  # noqa: E402
from qwen_rerank.batch.serving import application  # noqa: E402
from qwen_rerank.testing.loopback import KEY  # noqa: E402

DOCUMENTS = 20
TEXTS = [f"Document {n} says what penguins eat in winter, and where." for n in range(DOCUMENTS)]
STORE = 150_000_000  # bytes of Ray's object store per node
PORT = 8_642


class Lengths(Scorer):
    """Scores by length, at once."""

    model = "lengths"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores([float(len(text)) for text in texts])


class Logged(EmbeddedScorer):
    """Takes 20 ms, and writes a line per query that is paid for."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.log = log

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        time.sleep(0.02)
        with open(self.log, "a") as file:
            file.write(f"{query}\n")
        return super().score(query, texts)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "query": f"penguins {n}", "documents": TEXTS} for n in range(count)]


def tasks(count: int, texts: Sequence[str] = TEXTS) -> Iterator[Any]:
    for number in range(count):
        records = [Record(str(i), {"text": text}) for i, text in enumerate(texts)]
        yield str(number), f"penguins {number}", records


def service_scorer(base_url: str) -> Scorer:
    return DashScopeScorer("gte-rerank-v2", base_url=base_url, api_key=KEY)


@contextmanager
def one_node() -> Iterator[None]:
    ray.init(
        address="local", num_cpus=4, object_store_memory=STORE, include_dashboard=False,
        log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def rates(share: float) -> dict[str, Any]:
    """Queries per second of one process, and of jobs on 1, 2 and 4 actors."""
    count = max(40, int(1_000 * share))
    found: dict[str, Any] = {"queries": count, "documents": DOCUMENTS}
    with Service() as service, one_node():
        service.respond_after(0.02)
        makers = {
            "embedded": EmbeddedScorer,
            "service of 20 ms": partial(service_scorer, service.base_url),
        }
        for name, make in makers.items():
            found[name] = {"rerank_many": _rate_of_many(make, count)}
            for actors in (1, 2, 4):
                found[name][f"{actors} actors"] = _rate_of_actors(make, count, actors)
    return found


def _rate_of_many(make: Callable[[], Scorer], count: int) -> float:
    engine = RerankEngine(make(), rerank_field="text")
    list(rerank_many(engine, tasks(4)))
    started = time.perf_counter()
    assert len(list(rerank_many(engine, tasks(count)))) == count
    return round(count / (time.perf_counter() - started), 1)


def _rate_of_actors(make: Callable[[], Scorer], count: int, actors: int) -> float:
    """Queries per second, with the start of the actors."""
    started = time.perf_counter()
    ds = ray.data.from_items(rows(count), override_num_blocks=4 * actors)
    ranked = rerank_dataset(ds, make, concurrency=actors, batch_size=16)
    assert sum(1 for _ in ranked.iter_rows()) == count
    return round(count / (time.perf_counter() - started), 1)


def memory(share: float) -> dict[str, Any]:
    """The peak memory of this process after more and more pairs, in MiB."""
    engine = RerankEngine(Lengths(), rerank_field="text")
    texts = [f"{'text ' * 40}{number}" for number in range(100)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for pairs in (10_000, 100_000, 1_000_000)[: 3 if share == 1 else 1]:
            started = time.perf_counter()
            journal = Path(folder) / str(pairs)
            for _ in rerank_many(engine, tasks(pairs // 100, texts), journal=journal):
                pass
            found[f"{pairs:,} pairs"] = {
                "peak MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "seconds": round(time.perf_counter() - started, 1),
            }
    return found


def kills(share: float) -> dict[str, Any]:
    """What is paid for twice, and what is lost, if a node or the driver is killed."""
    count = max(60, int(1_000 * share))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "object_store_memory": STORE},
        )
        for _ in range(2):
            doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            found = {
                "queries": count,
                "a killed node": _killed_node(folder, count, cluster, doomed),
                "a killed driver": _killed_driver(folder, count, cluster.address),
            }
        finally:
            ray.shutdown()
            cluster.shutdown()
    return found


def _killed_node(folder: Path, count: int, cluster: Any, node: Any) -> dict[str, int]:
    log = folder / "paid"
    ds = ray.data.from_items(rows(count), override_num_blocks=30)
    ranked = rerank_dataset(ds, partial(Logged, str(log)), concurrency=3, batch_size=8)
    found = []
    for number, row in enumerate(ranked.iter_rows()):
        found.append(row["id"])
        if number == count // 3:
            cluster.remove_node(node, allow_graceful=False)
    return _counted(log, found, count)


def _killed_driver(folder: Path, count: int, address: str) -> dict[str, int]:
    """Kill the driver in the middle, and start another one."""
    ray.data.from_items(rows(count), override_num_blocks=30).write_parquet(str(folder / "in"))
    log = folder / "paid again"
    command = [sys.executable, __file__, "--driver", str(folder), address]
    with subprocess.Popen(command) as driver:
        while len(_lines(log)) < count // 2:
            time.sleep(0.05)
        driver.kill()
    subprocess.run(command, check=True)
    written = ray.data.read_parquet(str(folder / "out")).take_all()
    return _counted(log, [row["id"] for row in written], count)


def drive(folder: str, address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    with checkpointed(f"{folder}/checkpoints", "id"):
        ds = ray.data.read_parquet(f"{folder}/in").repartition(target_num_rows_per_block=8)
        make = partial(Logged, f"{folder}/paid again")
        ranked = rerank_dataset(ds, make, concurrency=2, batch_size=8)
        ranked.write_parquet(f"{folder}/out", mode="append")


def _lines(log: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return log.read_text().splitlines()
    return []


def _counted(log: Path, ids: Sequence[int], count: int) -> dict[str, int]:
    paid = Counter(_lines(log))
    return {
        "rows lost": count - len(set(ids)),
        "rows twice": len(ids) - len(set(ids)),
        "paid twice": sum(paid.values()) - len(paid),
    }


def serving(share: float) -> dict[str, Any]:
    """Calls per second of 64 clients, also while a replica is killed."""
    calls = max(100, int(3_000 * share))
    bare = asyncio.run(_load(EmbeddedScorer(), calls))
    with one_node():
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(application(EmbeddedScorer, min_replicas=2, max_replicas=2))
        try:
            scorer = ServerScorer(
                f"http://127.0.0.1:{PORT}/v1/rerank", max_retries=8, timeout=60, deadline=300
            )
            asyncio.run(_load(scorer, calls // 10))
            served = asyncio.run(_load(scorer, calls))
            killed = asyncio.run(_load(scorer, calls, _kill_a_replica))
        finally:
            serve.shutdown()
    return {"calls": calls, "bare scorer": bare, "Serve": served, "a killed replica": killed}


def _kill_a_replica() -> None:
    replicas = [
        process
        for process in psutil.Process().children(recursive=True)
        if "ServeReplica" in " ".join(process.cmdline())
    ]
    replicas[0].send_signal(signal.SIGKILL)


async def _load(
    scorer: Scorer, calls: int, in_the_middle: Callable[[], object] | None = None
) -> dict[str, Any]:
    """Score with 64 clients, each with queries of its own."""
    seconds: list[float] = []
    numbers = iter(range(calls))
    failed: Counter[str] = Counter()

    async def client() -> None:
        for number in numbers:
            if number == calls // 2 and in_the_middle is not None:
                in_the_middle()
            started = time.perf_counter()
            try:
                await scorer.ascore(f"penguins {number}", TEXTS)
            except Exception as error:
                failed[f"{type(error).__name__}: {error}"[:120]] += 1
            seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(64)))
    return {
        "calls per second": round(calls / (time.perf_counter() - started), 1),
        "p50 ms": round(1_000 * median(seconds)),
        "p99 ms": round(1_000 * quantiles(seconds, n=100)[-1]),
        "failed": dict(failed) or 0,
    }


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "memory": memory,
    "rates": rates,
    "kills": kills,
    "serving": serving,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", dest="share", action="store_const", const=0.05, default=1.0)
    parser.add_argument("--share", type=float, help="the share of the queries to run, up to 1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--driver", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver:
        drive(*options.driver)
        return
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "ray": ray.__version__,
        "share": options.share,
    }
    for name in options.only:
        started = time.perf_counter()
        found[name] = PARTS[name](options.share)
        found[name]["took seconds"] = round(time.perf_counter() - started)
        print(name, json.dumps(found[name], indent=2), flush=True)
        if options.json:
            options.json.write_text(f"{json.dumps(found, indent=2)}\n")


if __name__ == "__main__":
    main()

"""Reranking on Ray: the same result as in one process, also if a node or the driver is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    RateLimitError,
    Record,
    RerankEngine,
    Scorer,
    Scores,
)
from qwen_rerank.batch import UsageTotal, rerank_dataset
from qwen_rerank.evaluation import read_run
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.batch.conftest import started
from tests.cli.process import COMMAND, environment
from tests.support.interpreter import ROOT

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

QUERIES = 40
TEXTS = ["cars drive", "penguins eat krill", "krill live in the sea", " "]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A simulated cluster: a node for the driver and two more."""
    changed = {"PYTHONPATH": environment()["PYTHONPATH"]}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)  # for the workers
    store = 100_000_000  # bytes
    head = {"num_cpus": 2, "object_store_memory": store, "include_dashboard": False}
    simulated = started(partial(Cluster, initialize_head=True, head_node_args=head), ray.shutdown)
    started(partial(simulated.add_node, num_cpus=1, object_store_memory=store), lambda: None)
    ray.init(address=simulated.address, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield simulated
    ray.shutdown()
    simulated.shutdown()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def rows(count: int = QUERIES) -> list[dict[str, Any]]:
    return [
        {"id": number, "query": f"krill {number}", "documents": [*TEXTS, f"text {number}"]}
        for number in range(count)
    ]


def dataset(count: int = QUERIES) -> Any:
    return ray.data.from_items(rows(count), override_num_blocks=4)


def expected(row: dict[str, Any], top_n: int | None = None) -> tuple[list[str], list[Any]]:
    engine = RerankEngine(EmbeddedScorer(), rerank_field="text", missing="keep")
    records = [Record(str(i), {"text": text}) for i, text in enumerate(row["documents"])]
    ranking = engine.rerank(row["query"], records, top_n)
    return [row["documents"][int(r.id)] for r in ranking], [r.score for r in ranking]


def check(results: Sequence[dict[str, Any]], top_n: int | None = None) -> None:
    """Check that the rows are the expected ones, each once."""
    by_id = {row["id"]: row for row in results}
    assert sorted(row["id"] for row in results) == list(range(QUERIES))
    for row in rows():
        documents, scores = expected(row, top_n)
        assert by_id[row["id"]]["query"] == row["query"]
        assert by_id[row["id"]]["documents"] == documents
        assert by_id[row["id"]]["relevance_scores"] == scores


def test_rows_are_those_of_one_process_and_usage_is_summed(cluster: Any) -> None:
    usage = UsageTotal()
    results = rerank_dataset(dataset(), EmbeddedScorer, top_n=3, concurrency=2, usage=usage)
    check(results.take_all(), top_n=3)
    assert usage.value.texts_sent == QUERIES * 4


class Refusing(Scorer):
    """Refuses one query in ten, and scores by length."""

    model = "refusing"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        if query.endswith("7"):
            raise InvalidInputError(f"{query} is refused")
        return Scores([float(len(text)) for text in texts])


def test_a_row_that_fails_is_kept_with_its_error_or_fails_the_job(cluster: Any) -> None:
    kept = rerank_dataset(dataset(10), Refusing, on_error="keep", batch_size=4).take_all()
    failed = [row for row in kept if row["error"]]
    assert [(row["id"], row["error"]) for row in failed] == [(7, "krill 7 is refused")]
    assert failed[0]["documents"] == rows(10)[7]["documents"]
    assert failed[0]["relevance_scores"] is None
    assert len(kept) == 10
    with pytest.raises(Exception, match="krill 7 is refused"):
        rerank_dataset(dataset(10), Refusing).take_all()


def test_mappings_are_ranked_by_rerank_field_with_a_share_of_the_rates(
    cluster: Any, dashscope: LoopbackDashScope
) -> None:
    bodies = [f"score=0.{n}" for n in (2, 9, 5)]
    items = [{"query": "krill", "documents": [{"id": body, "body": body} for body in bodies]}]
    url, key = dashscope.base_url, dashscope.key
    ds = rerank_dataset(
        ray.data.from_items(items),
        lambda: DashScopeScorer(base_url=url, api_key=key, requests_per_minute=10),
        rerank_field="body",
    )
    (row,) = ds.take_all()
    assert [document["id"] for document in row["documents"]] == sorted(bodies, reverse=True)
    assert row["relevance_scores"] == [0.9, 0.5, 0.2]
    shared = DashScopeScorer(base_url=url, api_key=key, requests_per_minute=2, deadline=5)
    shared.share_rates(2)
    shared.score("krill", bodies)
    with pytest.raises(RateLimitError, match="requests_per_minute=1"):
        shared.score("krill", bodies)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": EmbeddedScorer()}, "scorer must be a class or a function"),
        ({"concurrency": 0}, "concurrency"),
        ({"on_error": "skip"}, "on_error"),
    ],
)
def test_invalid_arguments_are_named(cluster: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        rerank_dataset(dataset(1), **{"scorer": EmbeddedScorer, **options})


def write(path: Path, entries: Sequence[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A run of 8 queries with 4 documents each, and the texts in BEIR's format."""
    run = tmp_path / "bm25.run"
    run.write_text(
        "".join(
            f"q{query} Q0 d{(query + rank) % 6} {rank} {-rank} bm25\n"
            for query in range(8)
            for rank in range(4)
        )
    )
    return {
        "run": run,
        "queries": write(
            tmp_path / "queries.jsonl", [{"_id": f"q{n}", "text": f"krill {n}"} for n in range(9)]
        ),
        "corpus": write(
            tmp_path / "corpus.jsonl",
            [{"_id": f"d{n}", "title": "T", "text": f"krill {'x ' * n}"} for n in range(7)],
        ),
    }


def test_the_command_writes_the_same_run_on_ray_as_in_one_process(
    cluster: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    def rerank(name: str, *options: object) -> dict[str, dict[str, float]]:
        command = [
            *COMMAND, "run", "--candidates", files["run"], "--queries", files["queries"],
            "--corpus", files["corpus"], "-o", tmp_path / name, "--scorer", "embedded", *options,
        ]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True, env=environment(), cwd=ROOT)
        return read_run(tmp_path / name)

    one = rerank("one.run")
    many = rerank("ray.run", "--engine", "ray", "--address", cluster.address, "--actors", 2)
    assert one == many
    assert [list(one[id_].items()) for id_ in one] == [list(many[id_].items()) for id_ in one]
    assert not list(tmp_path.glob("ray.run?*"))


class Slow(EmbeddedScorer):
    """Takes a while, and writes a line per query when it is paid for."""

    def __init__(self, paid: str, seconds: float) -> None:
        super().__init__()
        self.paid = paid
        self.seconds = seconds

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        time.sleep(self.seconds)  # the service's time
        with open(self.paid, "a") as file:
            file.write(f"{query}\n")
        return super().score(query, texts)


def paid(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []


def wait_for_file(folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_after_a_node_is_killed_every_row_comes_once(cluster: Any, tmp_path: Path) -> None:
    node = started(partial(cluster.add_node, num_cpus=1, object_store_memory=10**8), lambda: None)
    cluster.wait_for_nodes()
    log = str(tmp_path / "paid")
    ds = rerank_dataset(
        dataset(), lambda: Slow(log, 0.1), concurrency=3, batch_size=4, max_concurrency=2
    )
    iterator = iter(ds.iter_rows())
    results = [next(iterator)]
    cluster.remove_node(node, allow_graceful=False)
    results.extend(iterator)
    check(results)
    assert set(paid(Path(log))) == {row["query"] for row in rows()}


DRIVER = """
import sys
import ray
from qwen_rerank.batch import checkpointed, rerank_dataset
from tests.batch.test_ray import Slow

folder, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
with checkpointed(folder + "/checkpoints", "id"):
    ds = ray.data.read_parquet(folder + "/in").repartition(target_num_rows_per_block=4)
    paid = folder + "/paid"
    ds = rerank_dataset(ds, lambda: Slow(paid, 0.05), batch_size=4, max_concurrency=2)
    ds.write_parquet(folder + "/out", mode="append")
"""


def test_after_the_driver_is_killed_checkpointed_rows_are_not_paid_for_again(
    cluster: Any, tmp_path: Path
) -> None:
    ray.data.from_items(rows(), override_num_blocks=10).write_parquet(str(tmp_path / "in"))
    command = [sys.executable, "-c", DRIVER, str(tmp_path), cluster.address]
    log, out = tmp_path / "paid", tmp_path / "out"
    with subprocess.Popen(command, env=environment(), cwd=ROOT) as driver:
        wait_for_file(out)
        driver.kill()
    written = ray.data.read_parquet(str(out)).count()
    subprocess.run(command, env=environment(), cwd=ROOT, check=True)
    check(ray.data.read_parquet(str(out)).take_all())
    assert 0 < written < QUERIES
    assert 0 <= len(paid(log)) - QUERIES <= QUERIES - written

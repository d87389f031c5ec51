"""Reranking on Ray: the same result as in one process, also if a node or the driver is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
)
from qwen_rerank.batch import UsageTotal, rerank_dataset
from qwen_rerank.cli.app import run
from qwen_rerank.evaluation import read_run
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.batch.conftest import started
from tests.batch.driver import rerank
from tests.cli.process import environment
from tests.support.interpreter import ROOT
from tests.support.scorers import ByLength, Paid, paid

ray = pytest.importorskip("ray")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

QUERIES = 40
TEXTS = ["cars drive", "penguins eat krill", "krill live in the sea", " "]


@pytest.fixture(scope="module")
def simulated() -> Iterator[Any]:
    """A simulated cluster: a node for the driver and two more. One of these is killed at the end.

    Nearly all the time goes into starting processes, so workers are kept for the next job, and into
    noticing that a node is dead, so its health is checked often.
    """
    changed = {"PYTHONPATH": environment()["PYTHONPATH"]}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)  # for the workers
    size = {"object_store_memory": 100_000_000, "include_log_monitor": False}
    kept = {"idle_worker_killing_time_threshold_ms": 600_000, "num_workers_soft_limit": 12}
    kept |= {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    head = {"num_cpus": 2, "include_dashboard": False, "no_monitor": True, **size}
    head["_system_config"] = kept
    cluster = started(partial(Cluster, initialize_head=True, head_node_args=head), ray.shutdown)
    for _ in range(2):
        started(partial(cluster.add_node, wait=False, num_cpus=1, **size), lambda: None)
    cluster.wait_for_nodes(timeout=120)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def cluster(simulated: Any) -> Any:
    """The cluster, to which this process is connected."""
    if not ray.is_initialized():
        ray.init(address=simulated.address, log_to_driver=False, configure_logging=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
    return simulated


def rows(count: int = QUERIES) -> list[dict[str, Any]]:
    return [
        {"id": number, "query": f"krill {number}", "documents": [*TEXTS, f"text {number}"]}
        for number in range(count)
    ]


def dataset(count: int = QUERIES) -> Any:
    return ray.data.from_items(rows(count), override_num_blocks=4)


def expected(
    row: dict[str, Any], scorer: Scorer, top_n: int | None = None
) -> tuple[list[str], list[Any]]:
    engine = RerankEngine(scorer, rerank_field="text", missing="keep")
    records = [Record(str(i), {"text": text}) for i, text in enumerate(row["documents"])]
    ranking = engine.rerank(row["query"], records, top_n)
    return [row["documents"][int(r.id)] for r in ranking], [r.score for r in ranking]


def check(results: Sequence[dict[str, Any]], scorer: Scorer, top_n: int | None = None) -> None:
    """Check that the rows are the expected ones, each once."""
    by_id = {row["id"]: row for row in results}
    assert sorted(row["id"] for row in results) == list(range(QUERIES))
    for row in rows():
        documents, scores = expected(row, scorer, top_n)
        assert by_id[row["id"]]["query"] == row["query"]
        assert by_id[row["id"]]["documents"] == documents
        assert by_id[row["id"]]["relevance_scores"] == scores


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
    simulated: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    def rerank(name: str, *options: object) -> dict[str, dict[str, float]]:
        arguments = [
            "run", "--candidates", files["run"], "--queries", files["queries"],
            "--corpus", files["corpus"], "-o", tmp_path / name, "--scorer", "embedded", *options,
        ]  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            run(list(map(str, arguments)))
        assert not ended.value.code
        return read_run(tmp_path / name)

    ray.shutdown()  # the command connects by itself
    one = rerank("one.run")
    many = rerank("ray.run", "--engine", "ray", "--address", simulated.address, "--actors", 2)
    assert one == many
    assert [list(one[id_].items()) for id_ in one] == [list(many[id_].items()) for id_ in one]
    assert not list(tmp_path.glob("ray.run?*"))


def test_rows_are_those_of_one_process_and_usage_is_summed(cluster: Any) -> None:
    usage = UsageTotal()
    results = rerank_dataset(dataset(), EmbeddedScorer, top_n=3, concurrency=2, usage=usage)
    check(results.take_all(), EmbeddedScorer(), top_n=3)
    assert usage.value.texts_sent == QUERIES * 4


def test_a_row_that_fails_is_kept_with_its_error_or_fails_the_job(cluster: Any) -> None:
    refusing = partial(ByLength, refused="krill 7")
    kept = rerank_dataset(dataset(10), refusing, on_error="keep", batch_size=4).take_all()
    failed = [row for row in kept if row["error"]]
    assert [(row["id"], row["error"]) for row in failed] == [(7, "krill 7 is refused.")]
    assert failed[0]["documents"] == rows(10)[7]["documents"]
    assert failed[0]["relevance_scores"] is None
    assert len(kept) == 10
    with pytest.raises(Exception, match="krill 7 is refused"):
        rerank_dataset(dataset(10), refusing).take_all()


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


def test_invalid_arguments_are_named(cluster: Any) -> None:
    ds = dataset(1)
    invalid: list[tuple[Any, str]] = [
        ({"scorer": EmbeddedScorer()}, "scorer must be a class or a function"),
        ({"concurrency": 0}, "concurrency"),
        ({"on_error": "skip"}, "on_error"),
    ]
    for options, message in invalid:
        with pytest.raises(InvalidInputError, match=message):
            rerank_dataset(ds, **{"scorer": EmbeddedScorer, **options})


DRIVER = """
import sys
import ray
from tests.batch.driver import rerank

ray.init(address=sys.argv[1], log_to_driver=False)
rerank(sys.argv[2])
"""


def wait_for_file(folder: Path, process: subprocess.Popen[bytes]) -> None:
    while not list(folder.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)


def test_after_the_driver_is_killed_checkpointed_rows_are_not_paid_for_again(
    cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for start in range(0, QUERIES, 4):
        part = pyarrow.Table.from_pylist(rows()[start : start + 4])
        parquet.write_table(part, tmp_path / "in" / f"{start}.parquet")
    command = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path)]
    out = tmp_path / "out"
    with subprocess.Popen(command, env=environment(), cwd=ROOT) as driver:
        wait_for_file(out, driver)
        driver.kill()
    written = parquet.read_table(out).num_rows
    rerank(str(tmp_path))
    check(parquet.read_table(out).to_pylist(), ByLength())
    assert 0 < written < QUERIES
    assert 0 <= len(paid(tmp_path / "paid")) - QUERIES <= QUERIES - written


def test_after_a_node_is_killed_every_row_comes_once(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "paid"
    scorer = partial(Paid, str(log), seconds=0.1)
    ds = rerank_dataset(dataset(), scorer, concurrency=3, batch_size=4, max_concurrency=2)
    iterator = iter(ds.iter_rows())
    results = [next(iterator)]
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    results.extend(iterator)
    check(results, ByLength())
    assert set(paid(log)) == {row["query"] for row in rows()}

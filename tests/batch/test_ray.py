"""Reranking on Ray: the same result as in one process, also if a node or the driver is killed."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    RateLimitError,
    Record,
    RerankEngine,
    Scorer,
)
from qwen_rerank.batch import UsageTotal, read_candidates, rerank_dataset
from qwen_rerank.batch.ray_files import QUERIES_PER_BLOCK
from qwen_rerank.batch.ray_run import CPUS
from qwen_rerank.cli.app import run
from qwen_rerank.evaluation import read_run
from qwen_rerank.testing.faults import hangs
from qwen_rerank.testing.loopback import SERVER, LoopbackDashScope
from tests.batch.conftest import started
from tests.cli.process import COMMAND, environment
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

QUERIES, MANY = 40, 256
TEXTS = ["cars drive", "penguins eat krill", "krill live in the sea", " "]


@pytest.fixture(scope="module")
def service() -> Iterator[LoopbackDashScope]:
    """A loopback DashScope, to which the environment of the cluster points."""
    with LoopbackDashScope() as server:
        yield server


def environment_for(service: LoopbackDashScope) -> dict[str, str]:
    own = {"DASHSCOPE_BASE_URL": service.base_url, "DASHSCOPE_API_KEY": service.key}
    return {"PYTHONPATH": environment()["PYTHONPATH"], **own}


@pytest.fixture(scope="module")
def cluster(service: LoopbackDashScope) -> Iterator[Any]:
    """A simulated cluster: a node for the driver, and two with a GPU that isn't there.

    Nearly all the time goes into starting processes, so tasks have few CPUs, and workers are kept
    for the next job; and into waiting for dead nodes and dying workers, so neither is waited for as
    long as usual. This process is connected to the cluster.
    """
    size = {"object_store_memory": 100_000_000, "include_log_monitor": False}
    kept = {"idle_worker_killing_time_threshold_ms": 600_000, "num_workers_soft_limit": 12}
    kept |= {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
    kept |= {"kill_worker_timeout_milliseconds": 100}
    head = {"num_cpus": CPUS, "include_dashboard": False, "no_monitor": True, **size}
    head["_system_config"] = kept
    other = {"num_cpus": 0, "num_gpus": 1, **size}
    with pytest.MonkeyPatch.context() as changed:
        for name, value in environment_for(service).items():
            changed.setenv(name, value)  # for the workers
        make = partial(Cluster, initialize_head=True, head_node_args=head)
        cluster = started(make, ray.shutdown)
        for _ in range(2):
            started(partial(cluster.add_node, wait=False, **other), lambda: None)
        cluster.wait_for_nodes(timeout=120)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield cluster
        ray.shutdown()
        cluster.shutdown()


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


def test_a_run_in_several_files_is_joined_with_its_texts(cluster: Any, tmp_path: Path) -> None:
    ranks = {"a": [("q1", "d1", 0), ("q2", "d2", 7)], "b": [("q1", "d2", 3), ("q1", "d3", 2)]}
    run = [write_parquet(tmp_path / f"{name}.parquet", pairs) for name, pairs in ranks.items()]
    texts = [{"_id": f"d{n}", "title": "T", "text": f"text {n}"} for n in range(4)]
    queries = [{"_id": f"q{n}", "text": f"krill {n}"} for n in range(4)]
    corpus = write(tmp_path / "corpus.jsonl", texts)
    names = write(tmp_path / "queries.jsonl", queries)
    ds = read_candidates(run, queries=names, corpus=corpus, depth=2, num_partitions=1)
    found = {row["query_id"]: (row["query"], row["documents"]) for row in ds.take_all()}
    assert found == {
        "q1": (
            "krill 1",
            [{"id": "d1", "text": "T\ntext 1"}, {"id": "d3", "text": "T\ntext 3"}],
        ),
        "q2": ("krill 2", [{"id": "d2", "text": "T\ntext 2"}]),
    }


def test_documents_that_several_files_list_are_refused(cluster: Any, tmp_path: Path) -> None:
    line = {"query_id": "q1", "query": "krill", "documents": [{"id": "d1", "text": "one"}]}
    runs = [write(tmp_path / f"{number}.jsonl", [line]) for number in range(2)]
    with pytest.raises(Exception, match="'d1' is listed twice for query 'q1'"):
        read_candidates(runs, num_partitions=1).take_all()


@pytest.fixture
def account(service: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands find in the environment."""
    for name, value in environment_for(service).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("account")
def test_a_command_says_what_failed_and_what_the_cluster_lacks(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"query_id": "q1", "query": "krill", "documents": [{"id": "d1"}]}
    arguments = ["run", "--candidates", str(write(tmp_path / "run.jsonl", [line]))]
    arguments += ["-o", str(tmp_path / "out.run"), "--engine", "ray", "--gpus", "3"]
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    warning, *failure = capsys.readouterr().err.splitlines()
    assert "The job needs 3 GPU, and the Ray cluster has 2." in warning
    assert " ".join(failure) == (
        "qwen-rerank: There is no text for 'd1', which the run lists for query 'q1'. "
        "Pass the --corpus that the run comes from."
    )
    assert not list(tmp_path.glob("out*"))  # nothing was paid for, and the run may be mended


def write_parquet(path: Path, pairs: Sequence[tuple[str, str, int]]) -> Path:
    rows = [dict(zip(("query_id", "document_id", "rank"), pair, strict=True)) for pair in pairs]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """256 queries with 4 documents each, of which 64 are blank."""
    scored = [{"id": f"d{n}", "text": f"score=0.{n * 5 % 7}"} for n in range(6)]
    scored.append({"id": "d6", "text": " "})
    entries = [
        {"query_id": f"q{n}", "query": f"krill {n}", "documents": [*scored[n % 4 :][:4]]}
        for n in range(MANY)
    ]
    return write(tmp_path / "candidates.jsonl", entries)


ANSWERED, HELD = 150, 8
"""How many requests the service answers before the driver is killed, and how many it holds back."""


async def answers(request: web.Request, body: dict[str, Any]) -> web.Response:
    return web.json_response(request.app[SERVER].ranking(body))


@pytest.mark.usefixtures("account")
def test_a_command_whose_driver_was_killed_continues_and_writes_the_run_of_one_process(
    cluster: Any,
    service: LoopbackDashScope,
    candidates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, many = tmp_path / "one.run", tmp_path / "ray.run"
    on_one = ["run", "--candidates", str(candidates), "-o", str(one)]
    on_ray = ["run", "--candidates", str(candidates), "-o", str(many)]
    on_ray += ["--engine", "ray", "--address", cluster.address]
    finish(on_one)
    service.received.clear()
    service.faults.extend([answers] * ANSWERED + [hangs] * HELD)
    state = tmp_path / "ray.run.ray"
    joined, reranked = state / "candidates", state / "reranked"
    with subprocess.Popen([*COMMAND, *on_ray], env=environment(), cwd=ROOT) as driver:
        while len(service.received) < ANSWERED + HELD or not list(reranked.glob("*.parquet")):
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
    (table,) = joined.glob("*.parquet")
    assert parquet.read_metadata(table).num_row_groups == MANY / QUERIES_PER_BLOCK
    written = parquet.read_table(reranked).num_rows
    assert 0 < written <= ANSWERED
    finish(on_ray)
    assert "64 documents have no score: they have no text." in capsys.readouterr().err
    assert ordered(many) == ordered(one)
    assert len(service.received) <= ANSWERED + HELD + MANY - written
    assert not list(tmp_path.glob("ray.run?*"))


def ordered(run: Path) -> dict[str, list[tuple[str, float]]]:
    return {query_id: list(scores.items()) for query_id, scores in read_run(run).items()}


def finish(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert not ended.value.code


def test_after_a_node_is_killed_every_row_comes_once(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "paid"
    scorer = partial(Paid, str(log), seconds=0.1)
    ds = rerank_dataset(
        dataset(), scorer, concurrency=2, num_cpus=0, num_gpus=1, batch_size=4, max_concurrency=2
    )
    iterator = iter(ds.iter_rows())
    results = [next(iterator)]
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    results.extend(iterator)
    check(results, ByLength())
    assert set(paid(log)) == {row["query"] for row in rows()}

"""`qwen-rerank eval`, `check` and `models`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import Usage
from qwen_rerank.batch.progress import format_usage
from qwen_rerank.evaluation import compare, read_judgements, read_run
from qwen_rerank.scorers.catalog import CATALOG
from qwen_rerank.scorers.probe import PROBES, Probe
from qwen_rerank.testing.faults import edits, refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.cli.conftest import Cli
from tests.support.servers import SERVERS

RUNS = {
    "bm25": "q1 Q0 x 1 3 r\nq1 Q0 a 2 2 r\nq2 Q0 b 1 2 r\nq2 Q0 x 2 1 r\n",
    "reranked": "q1 Q0 a 1 0.9 r\nq1 Q0 x 2 0.1 r\nq2 Q0 b 1 0.8 r\nq2 Q0 x 2 0.2 r\n",
}
QRELS = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq2\tb\t1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in RUNS.items():
        (tmp_path / f"{name}.run").write_text(text)
    (tmp_path / "test.tsv").write_text(QRELS)
    return tmp_path


@pytest.fixture
def both(folder: Path) -> list[Any]:
    runs = [folder / f"{name}.run" for name in RUNS]
    return ["eval", "--run", runs[0], "--run", runs[1], "--qrels", folder / "test.tsv"]


class TestEval:
    def test_it_prints_the_report_of_the_library(
        self, cli: Cli, folder: Path, both: list[Any]
    ) -> None:
        outcome = cli(*both)
        report = compare(
            {name: read_run(folder / f"{name}.run") for name in RUNS},
            read_judgements(folder / "test.tsv"),
        )
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out == f"{report}\n"
        assert "+0.250" in outcome.out

    def test_measures_are_chosen_by_name(self, cli: Cli, both: list[Any]) -> None:
        outcome = cli(*both, "--measure", "P@1", "-m", "AP(rel=2)", "--json")
        report = json.loads(outcome.out)
        assert report["measures"] == {
            "P@1": {"bm25": 0.5, "reranked": 1.0},
            "AP(rel=2)": {"bm25": 0.25, "reranked": 0.5},
        }
        assert report["per_query"]["bm25"]["P@1"] == {"q1": 0.0, "q2": 1.0}

    def test_runs_may_have_names(self, cli: Cli, both: list[Any], folder: Path) -> None:
        assert cli(*both, "--run", folder / "bm25.run").code == 2
        named = cli(*both, "--run", f"again={folder / 'bm25.run'}", "--json")
        assert json.loads(named.out)["runs"] == ["bm25", "reranked", "again"]

    def test_one_run_is_measured_alone(self, cli: Cli, both: list[Any]) -> None:
        del both[3:5]
        assert "gain" not in cli(*both).out.splitlines()[-1]

    def test_a_plot_is_written_and_described(self, cli: Cli, both: list[Any], folder: Path) -> None:
        outcome = cli(*both, "--plot", folder / "gains.svg")
        assert outcome.code == 0
        assert "Queries: 1 better," in outcome.err
        assert "Queries: 1 better," in (folder / "gains.svg").read_text()

    def test_a_page_has_the_texts_of_the_queries_and_documents(
        self, cli: Cli, both: list[Any], folder: Path
    ) -> None:
        (folder / "queries.tsv").write_text("q1\tWhat do penguins eat?\nq9\tNot in the runs\n")
        (folder / "corpus.tsv").write_text("a\tPenguins eat krill.\nz\tNot in the runs\n")
        options = ["--queries", folder / "queries.tsv", "--corpus", folder / "corpus.tsv"]
        outcome = cli(*both, "--html", folder / "report.html", *options)
        assert outcome.code == 0
        assert outcome.err.endswith("report.html: 2 queries\n")
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "What do penguins eat?" in page
        assert "Penguins eat krill." in page
        assert "Not in the runs" not in page

    def test_a_result_that_exists_is_replaced_only_with_overwrite_and_an_input_never(
        self, cli: Cli, both: list[Any], folder: Path
    ) -> None:
        for option, name in (("--html", "report.html"), ("--plot", "gains.svg")):
            (folder / name).write_text("mine")
            refused = cli(*both, option, folder / name)
            assert (refused.code, refused.out) == (2, "")
            assert f"{name} already exists.\nPass --overwrite, or another file." in refused.err
            assert (folder / name).read_text() == "mine"
            assert cli(*both, option, folder / name, "--overwrite").code == 0
            assert (folder / name).read_text() != "mine"
        refused = cli(*both, "--html", folder / "test.tsv", "--overwrite")
        assert "test.tsv is an input and would be overwritten" in refused.err
        assert (folder / "test.tsv").read_text() == QRELS

    @pytest.mark.parametrize("plot", ["gains.doc", "nowhere/gains.svg"])
    def test_a_plot_that_cannot_be_written_is_named_before_anything_is_printed(
        self, cli: Cli, both: list[Any], folder: Path, plot: str
    ) -> None:
        outcome = cli(*both, "--plot", folder / plot)
        assert (outcome.code, outcome.out) == (2, "")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (["--run", "nowhere.run"], "nowhere.run: No such file"),
            (["--run", "=bm25.run"], "'=bm25.run' has no name"),
            (["--measure", "best"], "no measure 'best'"),
            (["--qrels", "bm25.run"], "line 1: expected 4 columns"),
        ],
    )
    def test_an_invalid_argument_is_named(
        self, cli: Cli, both: list[Any], folder: Path, monkeypatch: pytest.MonkeyPatch,
        change: list[str], message: str,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(folder)
        outcome = cli(*both, *change)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err


class TestCalibrate:
    def test_it_proposes_a_min_score_and_draws_it(self, cli: Cli, folder: Path) -> None:
        options = ["--run", folder / "reranked.run", "--qrels", folder / "test.tsv"]
        outcome = cli("calibrate", *options, "--plot", folder / "curve.svg")
        assert outcome.code == 0
        assert outcome.out.endswith("\n\nQwenRerank(min_score=0.5)\n")
        assert "curve.svg: Precision and recall by min_score" in outcome.err
        assert "Precision and recall by min_score" in (folder / "curve.svg").read_text()
        assert json.loads(cli("calibrate", *options, "--json").out)["min_score"] == 0.5
        assert cli("calibrate", *options, "--plot", folder / "curve.svg").code == 2
        (folder / "test.tsv").write_text("")
        assert "test.tsv is empty." in cli("calibrate", *options).err


def answers_first(probe: Probe, answer: float = 0.9, other: float = 0.3) -> Any:
    """Give the answer of a probe one score, and all other texts another."""
    return give([answer if index == probe.answer else other for index in range(len(probe.texts))])


class TestCheck:
    def test_scores_near_one_half_are_a_warning(
        self, cli: Cli, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend(edits(answers_first(probe, 0.51, 0.5)) for probe in PROBES)
        outcome = cli("check", "--model", "qwen3-rerank")
        assert outcome.code == 0
        assert outcome.out.splitlines()[-1].startswith("warn  Nearly all scores are between 0.45")

    def test_every_step_passes(self, cli: Cli, dashscope: LoopbackDashScope) -> None:
        dashscope.faults.extend(edits(answers_first(probe)) for probe in PROBES)
        outcome = cli("check", "--model", "qwen3-rerank")
        assert outcome.code == 0, outcome.out
        lines = outcome.out.splitlines()
        assert [line for line in lines if line.startswith("ok ")] == [
            "ok    key, address and packages",
            "ok    response",
            "ok    ranking",
        ]
        assert f"model='qwen3-rerank', base_url='{dashscope.base_url}'" in outcome.out
        assert "48 texts, " in outcome.out
        rows = [line.split(maxsplit=3) for line in lines if line.lstrip().startswith("yes")]
        assert rows == [["yes", "0.900", "0.300", probe.query] for probe in PROBES]

    def test_the_offline_scorer_passes(self, cli: Cli) -> None:
        assert cli("check", "-s", "embedded").code == 0

    def test_a_wrong_ranking_fails(self, cli: Cli, dashscope: LoopbackDashScope) -> None:
        dashscope.faults.extend(edits(answers_first(probe)) for probe in PROBES[:-1])
        dashscope.faults.append(edits(give([0.6, *[0.5] * 7])))
        outcome = cli("check")
        assert outcome.code == 1
        assert outcome.out.splitlines()[-1] == "fail  ranking"
        assert "5 of 6 queries found their answer (one language)" in outcome.err
        assert "the answer scores 0.5, and another text 0.6" in outcome.err

    @pytest.mark.parametrize(
        ("fault", "code", "message"),
        [
            (refuses(401, "InvalidApiKey"), 3, "A key belongs to one region"),
            (refuses(400, "ModelNotExist"), 2, "Use a model that the region"),
            (refuses(501, "InternalError"), 4, "Try again later."),
        ],
    )
    def test_an_error_of_the_service_fails_with_a_remedy(
        self, cli: Cli, dashscope: LoopbackDashScope, fault: Any, code: int, message: str
    ) -> None:
        dashscope.faults.append(fault)
        outcome = cli("check")
        assert outcome.code == code
        assert outcome.out.splitlines()[-1] == "fail  response"
        assert message in outcome.err

    def test_without_a_key_the_first_step_fails(self, cli: Cli) -> None:
        outcome = cli("check")
        assert outcome.code == 3
        assert outcome.out == "fail  key, address and packages\n"
        assert "DASHSCOPE_API_KEY" in outcome.err

    def test_a_server_gets_its_key_from_the_environment(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SERVERS["vllm"](key="sk-server") as server:
            arguments = ("check", "-s", "server", "--url", f"{server.root}/v1/rerank")
            assert cli(*arguments).code == 3
            monkeypatch.setenv("QWEN_RERANK_SERVER_KEY", "sk-server")
            outcome = cli(*arguments)
        assert "sk-server" not in outcome.out + outcome.err
        assert outcome.code in (0, 1)
        _, answered, *_ = server.received
        assert answered.headers["Authorization"] == "Bearer sk-server"


def give(values: list[float]) -> Any:
    """Give the documents these scores, in the order in which they were sent."""

    def edit(results: list[Any]) -> None:
        for result in results:
            result["relevance_score"] = values[result["index"]]

    return edit


class TestModels:
    def test_the_json_is_the_catalog(self, cli: Cli) -> None:
        rows = json.loads(cli("models", "--json").out)
        assert [(row["model"], row["region"]) for row in rows] == [
            (entry.model, entry.region) for entry in CATALOG
        ]
        for row, entry in zip(rows, CATALOG, strict=True):
            if entry.limits is not None:
                assert row["request_tokens"] == entry.limits.request_tokens
            assert row["usd_per_million_tokens"] == entry.usd.text
            assert row["cny_per_million_tokens"] == entry.cny.text
            assert row["discontinued"] == entry.discontinued

    def test_the_table_shows_it_in_the_width_of_a_terminal(self, cli: Cli) -> None:
        outcome = cli("models")
        lines = outcome.out.splitlines()
        assert len(lines) == len(CATALOG) + 2
        assert max(map(len, lines)) <= 110
        shown = r"qwen3-rerank +cn-beijing +500 +30,000 +4,000 +5,400 +yes +0\.069"
        assert re.search(shown, outcome.out)
        assert "gte-rerank was discontinued on 2026-05-30: use qwen3-rerank." in outcome.err


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        (Usage(tokens=1_234, cost=0.00123), "1,234 tokens, $0.0012"),
        (Usage(tokens=1_234), "1,234 tokens"),
    ],
)
def test_usage_has_a_price_if_it_is_known(usage: Usage, message: str) -> None:
    assert format_usage(usage) == message

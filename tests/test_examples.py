"""The examples and notebooks work when a user runs them."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from qwen_rerank import EmbeddedScorer
from qwen_rerank.evaluation import read_run
from qwen_rerank.testing.loopback import LoopbackDashScope

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DATA = ROOT / "core" / "qwen_rerank" / "testing" / "data"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use the repository's packages, a dead proxy, and no user settings."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "core"), str(ROOT)]))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/quickstart.py", *arguments],
        cwd=ROOT,
        encoding="utf-8",
        capture_output=True,
        check=False,
    )


def ndcg(output: str, framework: str, language: str) -> tuple[float, float]:
    """The printed nDCG@10 of the retrieved and of the reranked passages."""
    row = re.search(rf"^{framework} +{language} +\d+ +([\d.]+) +([\d.]+)", output, re.MULTILINE)
    assert row is not None
    return float(row[1]), float(row[2])


class TestQuickstart:
    def test_runs_without_a_key_and_without_a_network(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LC_ALL", "en_GB.UTF-8")
        run = quickstart()
        assert run.returncode == 0, run.stderr
        assert "DASHSCOPE_API_KEY" in run.stdout
        assert re.search(r"^980 texts scored in [\d.]+ s by embedded", run.stdout, re.MULTILINE)
        assert "Traceback" not in run.stderr
        assert "Warning" not in run.stderr
        assert languages_shown(run.stdout) == ({"en"}, "en")

        assert "2506.05176" in run.stdout  # what a Qwen model gives is cited, not measured
        for step in ("import", "load", "index", "retrieve", "retrieve and rerank"):
            assert re.search(rf"^ +\d+\.\d\d s  .*{step}", run.stdout, re.MULTILINE)
        for framework in ("LangChain", "LlamaIndex"):
            before, after = ndcg(run.stdout, framework, "all")
            assert 0 < before <= after < 1

        example, _, rest = run.stdout.partition("All queries")
        assert re.search(r"^1 +Alert B21.* +✓ Alert B12", example, re.MULTILINE)
        (change,) = re.findall(r"q\d+, nDCG@10 ([\d.]+) → ([\d.]+)$", rest, re.MULTILINE)
        assert float(change[0]) > float(change[1])

    def test_with_a_key_the_service_ranks_and_queries_are_in_the_language_of_the_user(
        self, dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
        run = quickstart()
        assert run.returncode == 0, run.stderr
        assert languages_shown(run.stdout) == ({"zh"}, "zh")
        assert "电池显示 B12" in run.stdout
        assert "by qwen3-rerank: 49 requests" in run.stdout
        assert Counter(request.model for request in dashscope.received) == {"qwen3-rerank": 49}
        assert {len(request.documents) for request in dashscope.received} == {20}

    def test_the_chosen_model_is_asked_and_its_error_is_printed_as_a_message(
        self, dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-refused")
        run = quickstart("--model", "gte-rerank-v2")
        assert run.returncode == 1
        assert "AuthenticationError: " in run.stderr
        assert "InvalidApiKey" in run.stderr
        assert "Traceback" not in run.stderr
        assert "sk-refused" not in run.stdout + run.stderr
        assert {request.model for request in dashscope.received} == {"gte-rerank-v2"}

    def test_a_model_without_a_key_says_what_to_set(self) -> None:
        run = quickstart("--model", "qwen3-rerank")
        assert run.returncode == 1
        assert "DASHSCOPE_API_KEY" in run.stderr
        assert "Traceback" not in run.stderr


def languages_shown(output: str) -> tuple[set[str], str]:
    """The languages of the queries in detail, and the first one in the table."""
    languages = {query["id"]: query["language"] for query in json_lines("queries.jsonl")}
    shown = re.findall(r"(q\d+), nDCG", output)
    first, *_ = re.findall(r"^LangChain +(\w+)", output, re.MULTILINE)
    return {languages[id_] for id_ in shown}, first


def json_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


class TestCorpus:
    @pytest.mark.parametrize(
        ("name", "keys"),
        [
            ("passages.jsonl", {"id", "title", "text", "language"}),
            ("queries.jsonl", {"id", "text", "language"}),
        ],
    )
    def test_entries_are_complete_and_distinct(self, name: str, keys: set[str]) -> None:
        entries = json_lines(name)
        assert all(entry.keys() == keys for entry in entries)
        assert all(value.strip() for entry in entries for value in entry.values())
        assert {entry["language"] for entry in entries} == {"en", "zh"}
        for key in keys - {"language"}:
            assert len({entry[key] for entry in entries}) == len(entries)

    def test_there_are_24_queries(self) -> None:
        assert len(json_lines("queries.jsonl")) == 24

    def test_judgements_refer_to_existing_queries_and_passages(self) -> None:
        with (DATA / "qrels.tsv").open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table, delimiter="\t"))
        pairs = [(row["query_id"], row["passage_id"]) for row in rows]
        queries = {query["id"] for query in json_lines("queries.jsonl")}
        passages = {passage["id"] for passage in json_lines("passages.jsonl")}
        assert len(set(pairs)) == len(pairs)
        assert {passage for _, passage in pairs} <= passages
        assert {row["gain"] for row in rows} == {"1", "2", "3"}
        assert {row["query_id"] for row in rows if row["gain"] == "3"} == queries


EXECUTE = ROOT / "notebooks" / "execute.py"


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """notebooks/execute.py, a script outside any package."""
    spec = importlib.util.spec_from_file_location("execute", EXECUTE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: NotebookNode) -> str:
    return "".join(output.get("text", "") for c in code_cells(notebook) for output in c.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebooks:
    def test_is_saved_with_all_outputs_and_no_volatile_metadata(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = code_cells(notebook)
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        for cell in code:
            counts = {
                output.get("execution_count", cell.execution_count) for output in cell.outputs
            }
            assert counts <= {cell.execution_count}
        assert all(cell.metadata in ({}, {"tags": ["varies"]}) for cell in notebook.cells)
        assert notebook.metadata == {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        assert str(ROOT) not in path.read_text(encoding="utf-8")

    def test_is_saved_with_the_outputs_of_the_offline_scorer(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
        assert "error" not in {output.output_type for output in outputs}
        assert f"from {EmbeddedScorer().model}" in printed(notebook)

    def test_starts_with_what_you_will_have_at_the_end(self, path: Path) -> None:
        opening = nbformat.read(path, as_version=4).cells[0]
        assert opening.cell_type == "markdown"
        assert re.match(r"# .+\n\nAt the end you will have ", opening.source)

    def test_its_pictures_have_alternative_texts(self, path: Path) -> None:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            for output in cell.outputs:
                for kind in output.get("data", {}):
                    if kind.startswith("image/"):
                        assert len(output.metadata[kind]["alt"]) > 80


def test_with_a_key_the_service_ranks_in_every_notebook_outside_the_repository(
    dashscope: LoopbackDashScope, execute: ModuleType, tmp_path: Path
) -> None:
    """In one kernel, which imports the frameworks once."""
    sources, lengths = list[str](), list[int]()
    for path in NOTEBOOKS:
        sources += ["%reset -f"]
        cells = code_cells(nbformat.read(path, as_version=4))
        sources += [cell.source for cell in cells]
        lengths.append(1 + len(cells))
    nbformat.write(notebook_with(*sources), tmp_path / "all.ipynb")
    executed = iter(execute.executed(tmp_path / "all.ipynb", os.environ).cells)
    for path, length in zip(NOTEBOOKS, lengths, strict=True):
        own = new_notebook(cells=list(islice(executed, length)))
        assert "from qwen3-rerank" in printed(own), path.name
    assert {request.model for request in dashscope.received} == {"qwen3-rerank"}


def notebook_with(*sources: str) -> NotebookNode:
    return new_notebook(cells=list(map(new_code_cell, sources)))


def run_execute(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXECUTE, *arguments],
        encoding="utf-8",
        capture_output=True,
        check=False,
    )


def test_running_notebooks_saves_changed_outputs_and_checking_them_saves_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notebook.ipynb"
    notebook = notebook_with("print('steady')", "import time; print(time.time_ns())")
    notebook.cells[1].metadata.tags = ["varies"]
    nbformat.write(notebook, path)
    unexecuted = path.read_bytes()
    check = run_execute("--check", path)
    assert (check.returncode, path.read_bytes()) == (1, unexecuted)
    assert "steady" in check.stderr
    assert "out of date" in check.stderr

    assert run_execute(path).returncode == 0
    executed = path.read_bytes()
    assert "steady" in printed(nbformat.reads(executed.decode(), as_version=4))
    assert run_execute(path).returncode == 0
    assert path.read_bytes() == executed


def test_a_failing_notebook_is_named_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook_with("print('so far')", "1 / 0"), path)
    before = path.read_bytes()
    run = run_execute(path)
    assert (run.returncode, path.read_bytes()) == (1, before)
    assert "notebook.ipynb" in run.stderr
    assert "ZeroDivisionError" in run.stderr


def test_notebooks_run_offline_even_if_there_is_a_key(
    execute: ModuleType, dashscope: LoopbackDashScope
) -> None:
    assert "DASHSCOPE_API_KEY" in os.environ
    assert not [name for name in execute.offline() if name.startswith("DASHSCOPE_")]


def text(words: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=words)


def picture(alt: str, data: str = "AA==") -> NotebookNode:
    return new_output("display_data", {"image/png": data}, metadata={"image/png": {"alt": alt}})


@pytest.mark.parametrize(
    ("old", "new", "is_current"),
    [
        ([text("0.123 a")], [text("0.124 a")], True),
        ([text("0.123 a")], [text("0.223 a")], False),
        ([text("0.123 a")], [text("0.123 b")], False),
        ([text("3 texts")], [text("4 texts")], False),
        ([text("a")], [text("a", name="stderr")], False),
        ([text("a")], [], False),
        ([picture("Bars of 0.5", "AA==")], [picture("Bars of 0.5", "BB==")], True),
        ([picture("Bars of 0.5")], [picture("Bars of 0.7")], False),
    ],
)
def test_outputs_are_outdated_if_their_content_changed(
    execute: ModuleType, old: list[NotebookNode], new: list[NotebookNode], is_current: bool
) -> None:
    stored, run = notebook_with("code"), notebook_with("code")
    stored.cells[0].outputs, run.cells[0].outputs = old, new
    assert execute.outdated(stored, run) == ([] if is_current else [0])


@pytest.mark.parametrize(
    ("new", "is_current"),
    [([text("2 s")], True), ([text("1 s"), picture("Lines")], False), ([], False)],
)
def test_in_varying_cells_only_output_types_are_compared(
    execute: ModuleType, new: list[NotebookNode], is_current: bool
) -> None:
    stored, run = notebook_with("code"), notebook_with("code")
    stored.cells[0].outputs, run.cells[0].outputs = [text("1 s")], new
    for notebook in (stored, run):
        notebook.cells[0].metadata.tags = ["varies"]
    assert execute.outdated(stored, run) == ([] if is_current else [0])


def test_the_first_stage_in_the_data_is_what_its_script_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("queries.jsonl", "passages.jsonl"):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    code = (
        "import sys, pathlib, first_stage; first_stage.DATA = pathlib.Path(sys.argv[1]); "
        "(first_stage.DATA / 'bm25.run').write_text(first_stage.run(), encoding='utf-8')"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "core", ROOT, EXAMPLES))))
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    written, kept = read_run(tmp_path / "bm25.run"), read_run(DATA / "bm25.run")
    assert len(kept) == 24
    assert written.keys() == kept.keys()
    for query_id, scores in kept.items():
        assert written[query_id] == pytest.approx(scores, abs=0.01)

"""`qwen-rerank run`: every query is reranked and paid for once, whatever happens."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from qwen_rerank.batch.candidates import Candidates
from qwen_rerank.batch.text_index import TextIndex
from qwen_rerank.evaluation import read_run
from qwen_rerank.testing.faults import edits, refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.cli.conftest import Cli
from tests.cli.process import COMMAND, environment, start

QUERIES = {f"q{number}": f"query number {number}" for number in range(12)}
DOCUMENTS = {f"d{number}": f"score=0.{number}" for number in range(1, 10)}


ANSWERS = edits(lambda _: None)
"""Not a fault but a response, to put before faults."""


class Files:
    """A run of 12 queries with 5 documents each, and the texts in BEIR's format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queries = folder / "queries.jsonl"
        self.corpus = folder / "corpus.jsonl"
        self.candidates = folder / "bm25.run"
        self.out = folder / "out.run"
        self.journal = folder / "out.run.journal"
        self.write("queries.jsonl", [{"_id": id_, "text": text} for id_, text in QUERIES.items()])
        self.write(
            "corpus.jsonl",
            [{"_id": id_, "title": "T", "text": text} for id_, text in DOCUMENTS.items()],
        )
        self.candidate_ids = {
            query_id: [f"d{(index + step) % 9 + 1}" for step in range(5)]
            for index, query_id in enumerate(QUERIES)
        }
        self.candidates.write_text(
            "".join(
                f"{query_id} Q0 {document_id} {rank} {-rank} bm25\n"
                for query_id, ids in self.candidate_ids.items()
                for rank, document_id in enumerate(ids, start=1)
            )
        )

    def write(self, name: str, entries: list[dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
        return path

    @property
    def arguments(self) -> list[Any]:
        return [
            "run", "--queries", self.queries, "--corpus", self.corpus,
            "--candidates", self.candidates, "-o", self.out,
        ]  # fmt: skip

    @property
    def expected(self) -> dict[str, dict[str, float]]:
        """The result, best first."""
        return {
            query_id: {
                id_: float(DOCUMENTS[id_].removeprefix("score="))
                for id_ in sorted(ids, key=DOCUMENTS.__getitem__, reverse=True)
            }
            for query_id, ids in self.candidate_ids.items()
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def in_order(run: dict[str, dict[str, float]]) -> list[Any]:
    return [(query_id, list(ranking.items())) for query_id, ranking in run.items()]


class TestDryRun:
    @pytest.mark.parametrize("passages", [[], ["--passages"]])
    def test_it_says_what_will_be_billed_and_leaves_nothing_behind(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, passages: list[str]
    ) -> None:
        before = sorted(files.folder.iterdir())
        arguments = [*files.arguments, *passages, "--region", "cn-beijing"]
        dry = cli(*arguments, "--dry-run")
        assert dry.code == 0, dry.err
        assert sorted(files.folder.iterdir()) == before
        assert not dashscope.received
        found = re.search(r"60 texts in (12 requests): ([\d,]+ tokens, \$[\d.]+)\.", dry.out)
        assert found, dry.out
        real = cli(*arguments)
        assert f"Cost: {found[1]}, 0 retries, {found[2]}." in real.err

    def test_it_counts_only_what_is_not_finished(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults += [ANSWERS] * 3
        dashscope.faults.append(refuses(400, "Arrearage"))
        assert cli(*files.arguments, "--concurrency", 1).code != 0
        journal = files.journal.read_bytes()
        dry = cli(*files.arguments, "--dry-run")
        assert dry.out.startswith("9 queries would send 45 texts in 9 requests: ")
        assert dry.err == "3 of 12 queries are finished.\n"
        assert files.journal.read_bytes() == journal
        assert cli(*files.arguments, "--dry-run", "--restart").code == 2

    def test_it_needs_no_key(self, cli: Cli, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
        arguments = [*files.arguments, "--passages", "--region", "cn-beijing"]
        dry = cli(*arguments, "--dry-run")
        assert "12 queries would send 60 texts in 12 requests: " in dry.out, dry.err
        assert cli(*arguments).code == 3
        monkeypatch.setenv("DASHSCOPE_API_KEY", "not a key")
        assert cli(*arguments, "--dry-run").code == 3

    def test_a_scorer_on_this_machine_costs_nothing(self, cli: Cli, files: Files) -> None:
        dry = cli(*files.arguments, "--dry-run", "--scorer", "embedded")
        assert "60 texts in 0 requests: 0 tokens, $0.0000. Nothing was sent." in dry.out


class TestResult:
    def test_the_queries_keep_their_order_and_their_documents_are_reranked(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        outcome = cli(*files.arguments)
        assert outcome.code == 0, outcome.err
        assert in_order(read_run(files.out)) == in_order(files.expected)
        first, *_ = files.out.read_text().splitlines()
        assert first == "q0 Q0 d5 1 0.5 qwen3-rerank"
        assert len(dashscope.received) == len(QUERIES)
        assert {text for r in dashscope.received for text in r.documents} <= {
            f"T\n{text}" for text in DOCUMENTS.values()
        }
        assert sorted(path.name for path in files.folder.iterdir()) == [
            "bm25.run", "corpus.jsonl", "out.run", "queries.jsonl",
        ]  # fmt: skip

    def test_the_summary_has_counts_and_cost(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        outcome = cli(*files.arguments)
        assert outcome.out == ""
        assert "Reranked 12 queries with 60 documents; 12 queries now" in outcome.err
        assert "12 requests, 0 retries" in outcome.err
        assert " tokens" in outcome.err
        assert cli("--quiet", *files.arguments, "--overwrite").err == ""

    def test_a_warning_of_many_queries_is_shown_once(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        long = "penguin " * 5_000
        files.write("corpus.jsonl", [{"_id": id_, "text": long} for id_ in DOCUMENTS])
        dashscope.faults.extend([edits(lambda _: None)] * 12)
        outcome = cli(*files.arguments)
        assert outcome.err.count("Warning: ") == 1
        assert "11 repeated warnings are not shown." in outcome.err

    def test_queries_run_concurrently(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.answer_only_when(in_flight=4)
        assert cli(*files.arguments, "--concurrency", 4).code == 0
        assert dashscope.most_in_flight == 4

    def test_json_candidates_have_their_own_texts_or_those_of_the_files(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        entries = [
            {"query_id": "q1", "query": "?", "documents": [{"id": "x", "text": "score=0.1"}, "d9"]},
            {"query_id": "q2", "documents": [{"id": "d1", "score": 2}, {"id": "d2", "score": 1}]},
        ]
        files.candidates = files.write("candidates.jsonl", entries)
        outcome = cli(*files.arguments)
        assert outcome.code == 0, outcome.err
        assert in_order(read_run(files.out)) == [
            ("q1", [("d9", 0.9), ("x", 0.1)]),
            ("q2", [("d2", 0.2), ("d1", 0.1)]),
        ]

    def test_json_candidates_with_all_texts_need_no_other_file(
        self, cli: Cli, tmp_path: Path, dashscope: LoopbackDashScope
    ) -> None:
        entry = {"query_id": "q", "query": "?", "documents": [{"id": "x", "text": "score=0.1"}]}
        (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(entry).encode()))
        outcome = cli("run", "--candidates", tmp_path / "c.jsonl.gz", "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "out").read_text() == "q Q0 x 1 0.1 qwen3-rerank\n"

    def test_texts_may_be_tab_separated(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        for name, texts in (("queries", QUERIES), ("corpus", DOCUMENTS)):
            path = files.folder / f"{name}.tsv"
            path.write_text("".join(f"{id_}\t{text}\n" for id_, text in texts.items()))
            setattr(files, name, path)
        assert cli(*files.arguments).code == 0
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_depth_limits_what_is_reranked_and_top_n_what_is_kept(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        lines = files.candidates.read_text().splitlines(keepends=True)
        files.candidates.write_text("".join(lines[index ^ 1] for index in range(len(lines))))
        files.candidates.write_text("".join(sorted(lines, key=lambda line: line.split()[0])))
        outcome = cli(*files.arguments, "--depth", 3, "--top-n", 2)
        assert outcome.code == 0, outcome.err
        assert "24 documents beyond --depth were left out." in outcome.err
        assert {len(request.documents) for request in dashscope.received} == {3}
        assert list(read_run(files.out)["q0"]) == ["d3", "d2"]

    @pytest.mark.parametrize(
        ("field", "text"), [("title", "T"), ("{title}: {text}", "T: score=0.5")]
    )
    def test_field_is_that_of_documents_and_queries_keep_their_text(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, field: str, text: str
    ) -> None:
        outcome = cli(*files.arguments, "--field", field)
        assert outcome.code == 0, outcome.err
        assert {request.query for request in dashscope.received} == {*QUERIES.values()}
        assert text in {text for request in dashscope.received for text in request.documents}

    def test_a_document_without_text_comes_after_the_others(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        entry = {"_id": "d1", "title": "", "text": " "}
        kept = [{"_id": id_, "text": text} for id_, text in DOCUMENTS.items() if id_ != "d1"]
        files.write("corpus.jsonl", [entry, *kept])
        outcome = cli(*files.arguments)
        assert outcome.code == 0
        ranking = read_run(files.out)["q0"]
        assert list(ranking) == ["d5", "d4", "d3", "d2", "d1"]
        assert ranking["d1"] == ranking["d2"] - 1
        count = sum("d1" in ids for ids in files.candidate_ids.values())
        assert f"{count} documents have no text and come after the others." in outcome.err

    def test_queries_without_candidates_are_counted(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        entries = [
            {"query_id": "q1", "documents": ["d1"]},
            {"query_id": "q2", "documents": []},
            {"query_id": "x", "query": "?", "documents": ["d2"]},
        ]
        files.candidates = files.write("candidates.jsonl", entries)
        outcome = cli(*files.arguments)
        assert outcome.code == 0, outcome.err
        assert "11 queries have no candidates and are not in the result." in outcome.err
        assert list(read_run(files.out)) == ["q1", "x"]

    def test_a_refused_query_stops_the_run_or_keeps_its_order(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.append(refuses(400, "DataInspectionFailed"))
        stopped = cli(*files.arguments, "--concurrency", 1)
        assert stopped.code == 1
        assert "0 of 12 queries are finished" in stopped.err
        dashscope.faults.append(refuses(400, "DataInspectionFailed"))
        kept = cli(*files.arguments, "--concurrency", 1, "--keep-refused")
        assert kept.code == 0, kept.err
        assert "1 queries were refused and keep their order." in kept.err
        run = read_run(files.out)
        assert list(run["q0"]) == files.candidate_ids["q0"]
        assert list(run["q1"]) == list(files.expected["q1"])


class TestContinuing:
    def test_keep_refused_continues_a_stopped_run_and_stays_required(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        refusal = refuses(400, "DataInspectionFailed")
        dashscope.faults.extend([ANSWERS] * 3 + [refusal] * 2 + [refuses(401, "InvalidApiKey")])
        alone = [*files.arguments, "--concurrency", 1]
        assert "3 of 12 queries are finished" in cli(*alone).err
        assert "4 of 12 queries are finished" in cli(*alone, "--keep-refused").err
        refused = cli(*alone)
        assert refused.code == 2
        assert "1 of the finished queries were refused" in refused.err
        assert len(dashscope.received) == 6
        assert cli(*alone, "--keep-refused").code == 0

    def test_after_a_failure_it_continues_where_it_stopped(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        stopped = cli(*files.arguments, "--concurrency", 1)
        assert stopped.code == 3
        assert (
            "5 of 12 queries are finished and saved. Run the command again to continue."
            in stopped.err
        )
        assert not files.out.exists()
        again = cli(*files.arguments, "--concurrency", 3)
        assert again.code == 0, again.err
        assert "5 of 12 queries were finished earlier." in again.err
        assert "12 queries with 60 documents; 7 queries now" in again.err
        assert "12 requests" in again.err
        assert len(dashscope.received) == 13  # the one that was refused is not billed
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_after_a_failure_started_queries_are_finished(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.answer_only_when(in_flight=3)
        dashscope.faults.append(refuses(401, "InvalidApiKey"))
        stopped = cli(*files.arguments, "--concurrency", 3)
        assert "2 of 12 queries are finished" in stopped.err
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == 13

    def test_killed_repeatedly_it_pays_for_nothing_twice(
        self, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        arguments = [*files.arguments, "--concurrency", 4]
        for answered in (3, 2):
            hanging = Hanging(4)
            dashscope.faults.extend([ANSWERS] * answered + [hanging] * 4)
            with start(*arguments) as process:
                assert hanging.all_arrived.wait(100)  # earlier responses are in the journal by now
                process.kill()
                _, err = process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert b"Traceback" not in err
            assert not files.out.exists()
        with start(*arguments) as process:
            _, err = process.communicate()
        assert process.returncode == 0, err
        assert b"5 of 12 queries were finished earlier." in err
        assert len(dashscope.received) == len(QUERIES) + 2 * 4
        assert in_order(read_run(files.out)) == in_order(files.expected)
        assert not files.journal.exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_says_how_to_continue(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, sent: signal.Signals
    ) -> None:
        hanging = Hanging(2)
        dashscope.faults.extend([ANSWERS] * 4 + [hanging] * 2)
        with start(*files.arguments, "--concurrency", 2) as process:
            assert hanging.all_arrived.wait(100)
            process.send_signal(sent)
            _, err = process.communicate()
        assert process.returncode == 128 + sent
        assert b"4 of 12 queries are finished and saved" in err
        assert b"Traceback" not in err
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == len(QUERIES) + 2

    def test_a_finished_run_is_not_paid_for_again(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        assert cli(*files.arguments).code == 0
        again = cli(*files.arguments)
        assert again.code == 2
        assert "--overwrite" in again.err
        assert len(dashscope.received) == len(QUERIES)

    @pytest.mark.parametrize("changed", [[], ["--restart"]])
    def test_a_journal_in_which_nothing_is_finished_replaces_no_result(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, changed: list[str]
    ) -> None:
        files.out.write_text("paid for")
        files.journal.touch()
        refused = cli(*files.arguments, *changed)
        assert refused.code == 2
        assert "--overwrite" in refused.err
        assert files.out.read_text() == "paid for"
        assert dashscope.received == []

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
    def test_on_a_full_disk_whole_lines_of_the_journal_are_kept(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        limited = [
            "sh",
            "-c",
            'ulimit -f 2 && exec "$@"',
            "sh",
            *COMMAND,
            *map(str, files.arguments),
        ]
        stopped = subprocess.run(limited, env=environment(), capture_output=True, check=False)
        assert stopped.returncode == 1
        assert b"qwen-rerank: File too large." in stopped.stderr
        kept = re.search(rb"(\d+) of 12 queries are finished and saved", stopped.stderr)
        assert kept is not None
        assert 0 < int(kept[1]) < 12
        again = cli(*files.arguments)
        assert f"{int(kept[1])} of 12 queries were finished earlier." in again.err
        assert in_order(read_run(files.out)) == in_order(files.expected)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda ranking: ranking[:-1], "its 4 documents are not the expected 5"),
            (lambda ranking: [], "its 0 documents are not the expected 5"),
            (lambda ranking: [*ranking[:-1], ["d1", float("nan")]], "finite number"),
        ],
    )
    def test_a_damaged_journal_is_refused_before_anything_more_is_paid_for(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, damage: Any, message: str
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        cli(*files.arguments, "--concurrency", 1)
        lines = files.journal.read_text().splitlines()
        entry = json.loads(lines[2])
        whole = files.journal.read_text()
        lines[2] = json.dumps({**entry, "ranking": damage(entry["ranking"])})
        files.journal.write_text("".join(f"{line}\n" for line in lines))
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "line 3 is corrupted" in outcome.err
        assert message in outcome.err
        assert len(dashscope.received) == 6
        assert not files.out.exists()
        files.journal.write_text(whole)
        assert cli(*files.arguments).code == 0
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_other_options_are_refused_until_a_restart(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        cli(*files.arguments, "--concurrency", 1)
        for changed, message in (
            (["--model", "gte-rerank-v2"], "scorer was"),
            (["--top-n", "2"], "--top-n was None and is 2"),
            (["--field", "text"], "field was"),
        ):
            refused = cli(*files.arguments, *changed)
            assert refused.code == 2
            assert message in refused.err
            assert "--restart" in refused.err
        files.write("queries.jsonl", [{"_id": id_, "text": f"{id_}?"} for id_ in QUERIES])
        assert "queries was" in cli(*files.arguments).err
        assert len(dashscope.received) == 6
        assert cli(*files.arguments, "--restart").code == 0
        assert len(dashscope.received) == 6 + len(QUERIES)


def once(action: Callable[[], object]) -> Any:
    """Do something while the first request is answered."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        action()
        return await ANSWERS(request, body)

    return fault


class TestInputsThatChangeMeanwhile:
    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("bm25.run", lambda text: text[20:]),
            ("bm25.run", lambda text: text.replace("d9", "d1")),
            ("bm25.run", lambda text: text[: text.index("q11")]),
            ("bm25.run", lambda text: text + "q12 Q0 d1 1 1 x\n"),
            ("bm25.run", lambda text: "not a run\n"),
            ("corpus.jsonl", lambda text: text.replace("score=0.", "score=9.")),
            ("corpus.jsonl", lambda text: text + '{"_id": "new", "text": "new"}\n'),
            ("queries.jsonl", lambda text: text.replace("query number 7", "query number 8")),
            ("queries.jsonl", lambda text: ""),
        ],
    )
    def test_the_run_stops_and_continues_once_the_file_is_restored(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope,
        name: str, change: Callable[[str], str],
    ) -> None:  # fmt: skip
        path = files.folder / name
        original, times = path.read_text(), path.stat()

        def edit() -> None:
            path.write_text(change(original))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

        dashscope.faults.append(once(edit))
        outcome = cli(*files.arguments, "--concurrency", 1)
        assert outcome.code == 2
        assert f"{name} has changed since it was first read" in outcome.err
        assert not files.out.exists()
        path.write_text(original)
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == len(QUERIES)
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_a_file_that_is_replaced_by_another_counts_as_changed(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        other = files.write("other", [{"_id": id_, "text": "other"} for id_ in DOCUMENTS])
        dashscope.faults.append(once(lambda: other.replace(files.corpus)))
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "corpus.jsonl has changed since it was first read" in outcome.err
        assert not files.out.exists()


class TestResultFile:
    @pytest.mark.parametrize(
        "appear",
        [
            lambda out: out.write_text("another result"),
            lambda out: out.symlink_to("nowhere"),
            lambda out: out.mkdir(),
        ],
        ids=["file", "dangling link", "folder"],
    )
    def test_a_result_that_appears_meanwhile_is_not_replaced(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, appear: Callable[[Path], object]
    ) -> None:
        dashscope.faults.append(once(lambda: appear(files.out)))
        stopped = cli(*files.arguments)
        assert stopped.code == 2
        assert "12 of 12 queries are finished and saved" in stopped.err
        assert f"{files.out} already exists." in stopped.err
        assert sorted(path.name for path in files.folder.iterdir()) == [
            "bm25.run", "corpus.jsonl", "out.run", "out.run.journal", "queries.jsonl",
        ]  # fmt: skip
        files.out.rename(files.folder / "moved")
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == len(QUERIES)
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_a_result_that_exists_is_not_replaced_by_a_run_that_continues(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        files.out.write_text("earlier")
        assert cli(*files.arguments, "--overwrite", "--concurrency", 1).code == 3
        refused = cli(*files.arguments)
        assert refused.code == 2
        assert "--overwrite" in refused.err
        assert len(dashscope.received) == 6
        assert files.out.read_text() == "earlier"
        assert cli(*files.arguments, "--overwrite").code == 0
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_a_run_that_was_killed_after_it_wrote_its_result_is_finished_without_overwrite(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.append(once(files.out.touch))
        assert cli(*files.arguments).code == 2
        journal = files.journal.read_bytes()
        assert cli(*files.arguments, "--overwrite").code == 0
        files.journal.write_bytes(journal)
        assert cli(*files.arguments).code == 0
        assert not files.journal.exists()
        assert len(dashscope.received) == len(QUERIES)

    def test_no_other_file_is_written_or_removed(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        target = files.folder / "target"
        target.write_text("mine")
        (files.folder / "out.run.part").symlink_to(target)
        (files.folder / "out.run.tmp").write_text("mine too")
        files.out.symlink_to(target)
        assert cli(*files.arguments, "--overwrite").code == 0
        assert target.read_text() == (files.folder / "out.run.part").read_text() == "mine"
        assert (files.folder / "out.run.tmp").read_text() == "mine too"
        assert not files.out.is_symlink()
        assert in_order(read_run(files.out)) == in_order(files.expected)


class TestInvalidInputCostsNothing:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("bm25.run", lambda text: text + text[:60], "q0.*not together"),
            ("bm25.run", lambda text: text + "q99 Q0 d1 1 1 x\n", "no text for 'q99'"),
            ("bm25.run", lambda text: text + "q99 Q0 d1\n", "line 61: expected 6 columns"),
            ("bm25.run", lambda text: "", "has no candidates"),
            ("corpus.jsonl", lambda text: text.replace('"d3"', '"d33"'), "no text for 'd3'"),
            (
                "corpus.jsonl",
                lambda text: text + text.replace("T", "U"),
                "line 10.*'d1'.*line 1",
            ),
            ("corpus.jsonl", lambda text: text + "{", "line 10: invalid JSON"),
            ("queries.jsonl", lambda text: text.replace("query number 7", " "), "'q7' is blank"),
        ],
    )
    def test_an_invalid_line_is_named(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope,
        name: str, change: Callable[[str], str], message: str,
    ) -> None:  # fmt: skip
        path = files.folder / name
        path.write_text(change(path.read_text()))
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(outcome.err)
        assert dashscope.received == []
        assert not files.journal.exists()

    def test_options_for_ray_that_can_not_act_are_refused(self, cli: Cli, files: Files) -> None:
        for option, value in (("--actors", 1), ("--gpus", 0), ("--address", "auto")):
            outcome = cli(*files.arguments, option, value)
            assert (outcome.code, f"{option} is only for" in outcome.err) == (2, True)
        pytest.importorskip("ray")
        elsewhere = ("--engine", "ray", "--address", "127.0.0.1:1")
        outcome = cli(*files.arguments, *elsewhere)
        assert (outcome.code, "no Ray cluster at --address 127" in outcome.err) == (2, True)
        files.journal.touch()
        outcome = cli(*files.arguments, "--engine", "ray", "--dry-run")
        assert (outcome.code, "can't say what a job on Ray" in outcome.err) == (2, True)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"query": "?", "documents": []}, "no query_id"),
            ({"query_id": "q", "query": "?"}, "documents is None, not a list"),
            ({"query_id": "q", "query": 1, "documents": []}, "the query is 1, not a string"),
            ({"query_id": "q", "query": "?", "documents": [{"text": "x"}]}, "no id"),
            ({"query_id": "q", "query": "?", "documents": [1]}, "a document is 1, not an id"),
            (
                {"query_id": "q", "query": "?", "documents": ["a b"]},
                "id 'a b' contains white space",
            ),
            ({"query_id": "", "query": "?", "documents": ["a"]}, "no query_id"),
            ({"query_id": True, "query": "?", "documents": ["a"]}, "query_id is True, not an id"),
            ({"query_id": "q", "query": "?", "documents": [{"id": []}]}, "id is [], not an id"),
            ({"query_id": "q", "query": "?", "documents": ["a", "a"]}, "'a' is listed twice"),
            ({"query_id": "q", "query": "?", "documents": ["a"]}, "Pass --corpus"),
            ({"query_id": "q", "documents": []}, "Pass --queries"),
        ],
    )
    def test_an_invalid_candidate_is_named(
        self, cli: Cli, tmp_path: Path, dashscope: LoopbackDashScope, entry: Any, message: str
    ) -> None:
        (tmp_path / "c.jsonl").write_text(json.dumps(entry))
        outcome = cli("run", "--candidates", tmp_path / "c.jsonl", "-o", tmp_path / "out")
        assert outcome.code == 2
        assert message in outcome.err
        assert list(tmp_path.iterdir()) == [tmp_path / "c.jsonl"]

    def test_compressed_texts_are_refused(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        files.corpus = files.folder / "corpus.jsonl.gz"
        files.corpus.write_bytes(b"")
        assert "gunzip --keep" in cli(*files.arguments).err

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
    @pytest.mark.parametrize("name", ["corpus", "candidates"])
    def test_a_pipe_is_refused(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, name: str
    ) -> None:
        pipe = files.folder / "pipe"
        os.mkfifo(pipe)
        setattr(files, name, pipe)
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "is a pipe or a device" in outcome.err

    @pytest.mark.parametrize("out", ["", "folder", os.devnull])
    def test_a_result_that_is_not_a_file_is_refused(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, out: str
    ) -> None:
        (files.folder / "folder").mkdir()
        files.out = Path(out) if not out else files.folder / out
        outcome = cli(*files.arguments, "--overwrite")
        assert outcome.code == 2
        assert "is not a file" in outcome.err
        assert dashscope.received == []

    @pytest.mark.parametrize(
        ("name", "ending"),
        [("queries", ""), ("corpus", ""), ("candidates", ""), ("candidates", ".journal")],
    )
    def test_no_input_is_overwritten(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, name: str, ending: str
    ) -> None:
        path = getattr(files, name).rename(files.folder / f"out.run{ending}")
        setattr(files, name, path)
        before = path.read_bytes()
        outcome = cli(*files.arguments, "--overwrite", "--restart")
        assert outcome.code == 2
        assert f"{path} is an input and would be overwritten." in outcome.err
        assert path.read_bytes() == before

    def test_a_missing_folder_is_named(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        files.out = files.folder / "nowhere" / "out.run"
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "There is no folder" in outcome.err
        assert dashscope.received == []


def test_memory_holds_the_texts_of_one_query_at_a_time(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("".join(f"d{number}\ttext {number} {'x' * 200}\n" for number in range(200)))
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"q{number}\tquery {number}\n" for number in range(60)))

    def peak(count: int) -> int:
        run = tmp_path / "candidates.run"
        with run.open("w") as file:
            for query in range(count):
                file.writelines(f"q{query} Q0 d{rank} {rank} {-rank} x\n" for rank in range(200))
        with (
            closing(TextIndex(queries, None)) as query_index,
            closing(TextIndex(corpus, None)) as corpus_index,
        ):
            tracemalloc.start()
            candidates = Candidates(run, query_index, corpus_index, None)
            assert candidates.counts.documents == count * 200
            assert sum(len(job.documents) for job in candidates.jobs(())) == count * 200
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    all_texts = 55 * 200 * 200
    assert peak(60) < peak(5) + all_texts // 10


class Hanging:
    """Never responds; signals when the expected number of requests has arrived."""

    def __init__(self, count: int) -> None:
        self.all_arrived = threading.Event()
        self._missing = count

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self._missing -= 1
        if not self._missing:
            self.all_arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

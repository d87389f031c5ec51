"""`qwen-rerank run`: everything is reranked once, whatever happens meanwhile."""

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

from qwen_rerank.cli.candidates import Candidates
from qwen_rerank.cli.text_index import TextIndex
from qwen_rerank.evaluation import read_run
from tests.cli.conftest import Cli
from tests.cli.process import COMMAND, environment, start
from tests.support.loopback import LoopbackDashScope, edits, refuses

QUERIES = {f"q{number}": f"query number {number}" for number in range(12)}
DOCUMENTS = {f"d{number}": f"score=0.{number}" for number in range(1, 10)}


ANSWERS = edits(lambda _: None)
"""No fault: an answer, to put before faults."""


class Files:
    """A run of 12 queries with 5 documents each, and the texts, as BEIR has them."""

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
        self.found = {
            query_id: [f"d{(place + step) % 9 + 1}" for step in range(5)]
            for place, query_id in enumerate(QUERIES)
        }
        self.candidates.write_text(
            "".join(
                f"{query_id} Q0 {document_id} {rank} {-rank} bm25\n"
                for query_id, found in self.found.items()
                for rank, document_id in enumerate(found, start=1)
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
        """What the service makes of it, best first."""
        return {
            query_id: {
                id_: float(DOCUMENTS[id_].removeprefix("score="))
                for id_ in sorted(found, key=DOCUMENTS.__getitem__, reverse=True)
            }
            for query_id, found in self.found.items()
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def in_order(run: dict[str, dict[str, float]]) -> list[Any]:
    return [(query_id, list(found.items())) for query_id, found in run.items()]


class TestWhole:
    def test_a_run_is_reranked_in_its_order_of_queries(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        outcome = cli(*files.arguments)
        assert outcome.code == 0, outcome.err
        assert in_order(read_run(files.out)) == in_order(files.expected)
        first, *_ = files.out.read_text().splitlines()
        assert first == "q0 Q0 d5 1 0.5 gte-rerank-v2"
        assert len(dashscope.received) == len(QUERIES)
        assert {text for r in dashscope.received for text in r.documents} <= {
            f"T\n{text}" for text in DOCUMENTS.values()
        }
        assert sorted(path.name for path in files.folder.iterdir()) == [
            "bm25.run", "corpus.jsonl", "out.run", "queries.jsonl",
        ]  # fmt: skip

    def test_the_summary_says_what_it_took(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        outcome = cli(*files.arguments)
        assert outcome.out == ""
        assert "Reranked 12 queries, 60 documents: 12 queries now" in outcome.err
        assert "12 requests, 0 retries" in outcome.err
        assert " tokens" in outcome.err
        assert cli("--quiet", *files.arguments, "--overwrite").err == ""

    def test_a_warning_that_many_queries_draw_is_said_once(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        long = "penguin " * 5_000
        files.write("corpus.jsonl", [{"_id": id_, "text": long} for id_ in DOCUMENTS])
        dashscope.faults.extend([edits(lambda _: None)] * 12)
        outcome = cli(*files.arguments)
        assert outcome.err.count("Warning: ") == 1
        assert "11 warnings like those above were not repeated." in outcome.err

    def test_queries_run_at_the_same_time(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.answer_only_when(in_flight=4)
        assert cli(*files.arguments, "--concurrency", 4).code == 0
        assert dashscope.most_in_flight == 4

    def test_json_lines_bring_their_texts_or_leave_them_to_the_files(
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

    def test_json_lines_with_all_texts_need_no_other_file(
        self, cli: Cli, tmp_path: Path, dashscope: LoopbackDashScope
    ) -> None:
        entry = {"query_id": "q", "query": "?", "documents": [{"id": "x", "text": "score=0.1"}]}
        (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(entry).encode()))
        outcome = cli("run", "--candidates", tmp_path / "c.jsonl.gz", "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.err
        assert (tmp_path / "out").read_text() == "q Q0 x 1 0.1 gte-rerank-v2\n"

    def test_tabbed_texts_do_as_well(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        for name, texts in (("queries", QUERIES), ("corpus", DOCUMENTS)):
            path = files.folder / f"{name}.tsv"
            path.write_text("".join(f"{id_}\t{text}\n" for id_, text in texts.items()))
            setattr(files, name, path)
        assert cli(*files.arguments).code == 0
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_depth_reranks_the_first_by_score_and_top_n_keeps_the_best(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        lines = files.candidates.read_text().splitlines(keepends=True)
        files.candidates.write_text("".join(lines[place ^ 1] for place in range(len(lines))))
        files.candidates.write_text("".join(sorted(lines, key=lambda line: line.split()[0])))
        outcome = cli(*files.arguments, "--depth", 3, "--top-n", 2)
        assert outcome.code == 0, outcome.err
        assert "24 documents beyond --depth were left out." in outcome.err
        assert {len(request.documents) for request in dashscope.received} == {3}
        assert list(read_run(files.out)["q0"]) == ["d3", "d2"]

    def test_a_document_without_text_stands_behind_the_others(
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
        count = sum("d1" in found for found in files.found.values())
        assert f"{count} documents have no text, and stand behind the others." in outcome.err

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
        assert "11 queries have no candidates, and are not in the result." in outcome.err
        assert list(read_run(files.out)) == ["q1", "x"]

    def test_a_refused_query_stops_it_or_keeps_its_order(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.append(refuses(400, "DataInspectionFailed"))
        stopped = cli(*files.arguments, "--concurrency", 1)
        assert stopped.code == 1
        assert "0 of 12 queries are finished" in stopped.err
        dashscope.faults.append(refuses(400, "DataInspectionFailed"))
        kept = cli(*files.arguments, "--concurrency", 1, "--keep-refused")
        assert kept.code == 0, kept.err
        assert "1 queries were refused and keep the order they had." in kept.err
        run = read_run(files.out)
        assert list(run["q0"]) == files.found["q0"]
        assert list(run["q1"]) == list(files.expected["q1"])


class TestStoppedAndStartedAgain:
    def test_keeping_refused_queries_begins_where_one_stopped_it_and_has_no_way_back(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        refusal = refuses(400, "DataInspectionFailed")
        dashscope.faults.extend([ANSWERS] * 3 + [refusal] * 2 + [refuses(401, "InvalidApiKey")])
        alone = [*files.arguments, "--concurrency", 1]
        assert "3 of 12 queries are finished" in cli(*alone).err
        assert "4 of 12 queries are finished" in cli(*alone, "--keep-refused").err
        refused = cli(*alone)
        assert refused.code == 2
        assert "1 of the queries that are finished were refused." in refused.err
        assert len(dashscope.received) == 6
        assert cli(*alone, "--keep-refused").code == 0

    def test_after_a_failure_it_goes_on_where_it_was(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        stopped = cli(*files.arguments, "--concurrency", 1)
        assert stopped.code == 3
        assert "5 of 12 queries are finished and kept: start it again to go on." in stopped.err
        assert not files.out.exists()
        again = cli(*files.arguments, "--concurrency", 3)
        assert again.code == 0, again.err
        assert "5 of 12 queries are finished already." in again.err
        assert "12 queries, 60 documents: 7 queries now" in again.err
        assert "12 requests" in again.err
        assert len(dashscope.received) == 13  # the one that was refused is not billed
        assert in_order(read_run(files.out)) == in_order(files.expected)

    def test_after_a_failure_what_has_begun_is_finished(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.answer_only_when(in_flight=3)
        dashscope.faults.append(refuses(401, "InvalidApiKey"))
        stopped = cli(*files.arguments, "--concurrency", 3)
        assert "2 of 12 queries are finished" in stopped.err
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == 13

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_killed_again_and_again_it_pays_for_nothing_twice(
        self, files: Files, dashscope: LoopbackDashScope, concurrency: int
    ) -> None:
        arguments = [*files.arguments, "--concurrency", concurrency]
        for answered in (0, 3, 2):
            hanging = Hanging(concurrency)
            dashscope.faults.extend([ANSWERS] * answered)
            dashscope.faults.extend([hanging] * concurrency)
            with start(*arguments) as process:
                assert hanging.all_there.wait(60)  # what was answered is in the journal by now
                process.kill()
                _, said = process.communicate()
            assert process.returncode == -signal.SIGKILL
            assert b"Traceback" not in said
            assert not files.out.exists()
        with start(*arguments) as process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert b"5 of 12 queries are finished already." in said
        assert len(dashscope.received) == len(QUERIES) + 3 * concurrency
        assert in_order(read_run(files.out)) == in_order(files.expected)
        assert not files.journal.exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_says_how_to_go_on(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, sent: signal.Signals
    ) -> None:
        hanging = Hanging(2)
        dashscope.faults.extend([ANSWERS] * 4 + [hanging] * 2)
        with start(*files.arguments, "--concurrency", 2) as process:
            assert hanging.all_there.wait(60)
            process.send_signal(sent)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + sent
        assert b"4 of 12 queries are finished and kept" in said
        assert b"Traceback" not in said
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

    def test_a_result_that_cannot_be_written_is_written_when_started_again(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        in_the_way = files.folder / "out.run.part"
        in_the_way.mkdir()
        stopped = cli(*files.arguments)
        assert stopped.code == 2
        assert "12 of 12 queries are finished and kept" in stopped.err
        in_the_way.rmdir()
        assert cli(*files.arguments).code == 0
        assert len(dashscope.received) == len(QUERIES)
        assert in_order(read_run(files.out)) == in_order(files.expected)

    @pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
    def test_where_the_journal_finds_no_room_what_is_whole_is_kept(
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
        kept = re.search(rb"(\d+) of 12 queries are finished and kept", stopped.stderr)
        assert kept is not None
        assert 0 < int(kept[1]) < 12
        again = cli(*files.arguments)
        assert f"{int(kept[1])} of 12 queries are finished already." in again.err
        assert in_order(read_run(files.out)) == in_order(files.expected)

    @pytest.mark.parametrize(
        ("name", "says"),
        [("bm25.run", "bm25.run has changed"), ("corpus.jsonl", "corpus.jsonl has changed: 'd")],
    )
    def test_a_file_that_changes_meanwhile_is_an_error_and_no_other_result(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, name: str, says: str
    ) -> None:
        path = files.folder / name

        async def changes(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            path.write_text(path.read_text()[20:])
            return await ANSWERS(request, body)

        dashscope.faults.append(changes)
        outcome = cli(*files.arguments, "--concurrency", 1)
        assert outcome.code == 2
        assert says in outcome.err
        assert not files.out.exists()

    def test_other_options_are_refused_until_it_is_started_anew(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        dashscope.faults.extend([ANSWERS] * 5 + [refuses(401, "InvalidApiKey")])
        cli(*files.arguments, "--concurrency", 1)
        for changed, says in (
            (["--model", "qwen3-rerank"], "scorer was"),
            (["--top-n", "2"], "--top-n was None and is 2"),
            (["--field", "text"], "--field was"),
        ):
            refused = cli(*files.arguments, *changed)
            assert refused.code == 2
            assert says in refused.err
            assert "--restart" in refused.err
        files.write("queries.jsonl", [{"_id": id_, "text": f"{id_}?"} for id_ in QUERIES])
        assert "--queries was" in cli(*files.arguments).err
        assert len(dashscope.received) == 6
        assert cli(*files.arguments, "--restart").code == 0
        assert len(dashscope.received) == 6 + len(QUERIES)


class TestWhatIsWrongCostsNothing:
    @pytest.mark.parametrize(
        ("name", "change", "says"),
        [
            ("bm25.run", lambda text: text + text[:60], "q0.*comes back"),
            ("bm25.run", lambda text: text + "q99 Q0 d1 1 1 x\n", "no text for 'q99'"),
            ("bm25.run", lambda text: text + "q99 Q0 d1\n", "line 61: a result is"),
            ("bm25.run", lambda text: "", "has no candidates"),
            ("corpus.jsonl", lambda text: text.replace('"d3"', '"d33"'), "no text for 'd3'"),
            ("corpus.jsonl", lambda text: text + text, "'d1' more than once"),
            ("corpus.jsonl", lambda text: text + "{", "line 10: it is no JSON"),
            ("queries.jsonl", lambda text: text.replace("query number 7", " "), "'q7' is blank"),
        ],
    )
    def test_a_broken_file_is_named(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope,
        name: str, change: Callable[[str], str], says: str,
    ) -> None:  # fmt: skip
        path = files.folder / name
        path.write_text(change(path.read_text()))
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(outcome.err)
        assert dashscope.received == []
        assert not files.journal.exists()

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ({"query": "?", "documents": []}, "it has no query_id"),
            ({"query_id": "q", "query": "?"}, "list of documents"),
            ({"query_id": "q", "query": 1, "documents": []}, "no text"),
            ({"query_id": "q", "query": "?", "documents": [{"text": "x"}]}, "it has no id"),
            ({"query_id": "q", "query": "?", "documents": [1]}, "with an id"),
            ({"query_id": "q", "query": "?", "documents": ["a b"]}, "white space: 'a b'"),
            ({"query_id": "", "query": "?", "documents": ["a"]}, "it has no query_id"),
            ({"query_id": True, "query": "?", "documents": ["a"]}, "it has no query_id"),
            ({"query_id": "q", "query": "?", "documents": [{"id": []}]}, "it has no id"),
            ({"query_id": "q", "query": "?", "documents": ["a", "a"]}, "twice"),
            ({"query_id": "q", "query": "?", "documents": ["a"]}, "Pass --corpus"),
            ({"query_id": "q", "documents": []}, "Pass --queries"),
        ],
    )
    def test_a_broken_candidate_is_named(
        self, cli: Cli, tmp_path: Path, dashscope: LoopbackDashScope, entry: Any, says: str
    ) -> None:
        (tmp_path / "c.jsonl").write_text(json.dumps(entry))
        outcome = cli("run", "--candidates", tmp_path / "c.jsonl", "-o", tmp_path / "out")
        assert outcome.code == 2
        assert says in outcome.err
        assert list(tmp_path.iterdir()) == [tmp_path / "c.jsonl"]

    def test_packed_texts_are_refused(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        files.corpus = files.folder / "corpus.jsonl.gz"
        files.corpus.write_bytes(b"")
        assert "gunzip --keep" in cli(*files.arguments).err

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
    @pytest.mark.parametrize("name", ["queries", "corpus", "candidates"])
    def test_a_pipe_is_refused_as_it_can_be_read_only_once(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, name: str
    ) -> None:
        pipe = files.folder / "pipe"
        os.mkfifo(pipe)
        setattr(files, name, pipe)
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "is a pipe or a device" in outcome.err

    @pytest.mark.parametrize("out", ["", ".", "folder", os.devnull])
    def test_a_result_that_can_be_no_file_is_refused(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, out: str
    ) -> None:
        (files.folder / "folder").mkdir()
        files.out = Path(out) if out in ("", ".") else files.folder / out
        outcome = cli(*files.arguments, "--overwrite")
        assert outcome.code == 2
        assert "is no file" in outcome.err
        assert dashscope.received == []

    @pytest.mark.parametrize("name", ["queries", "corpus", "candidates"])
    @pytest.mark.parametrize("ending", ["", ".part", ".journal"])
    def test_no_input_is_written_to(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope, name: str, ending: str
    ) -> None:
        path = getattr(files, name).rename(files.folder / f"out.run{ending}")
        setattr(files, name, path)
        before = path.read_bytes()
        outcome = cli(*files.arguments, "--overwrite", "--restart")
        assert outcome.code == 2
        assert f"{path} is read, and would be written to." in outcome.err
        assert path.read_bytes() == before

    def test_a_folder_that_is_not_there_is_named_first(
        self, cli: Cli, files: Files, dashscope: LoopbackDashScope
    ) -> None:
        files.out = files.folder / "nowhere" / "out.run"
        outcome = cli(*files.arguments)
        assert outcome.code == 2
        assert "There is no folder" in outcome.err
        assert dashscope.received == []


def test_memory_does_not_grow_with_the_number_of_queries(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("".join(f"d{number}\ttext {number}\n" for number in range(500)))
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"q{number}\tquery {number}\n" for number in range(200)))

    def peak(count: int) -> int:
        run = tmp_path / "candidates.run"
        with run.open("w") as file:
            for query in range(count):
                file.writelines(f"q{query} Q0 d{rank} {rank} {-rank} x\n" for rank in range(500))
        with (
            closing(TextIndex(queries, ["text"])) as asked,
            closing(TextIndex(corpus, ["text"])) as texts,
        ):
            tracemalloc.start()
            candidates = Candidates(run, asked, texts, None)
            assert candidates.counts.documents == count * 500
            assert sum(len(job.documents) for job in candidates.jobs(())) == count * 500
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    assert peak(100) < peak(10) + 100_000


class Hanging:
    """Never answers; tells when so many requests are there."""

    def __init__(self, count: int) -> None:
        self.all_there = threading.Event()
        self._missing = count

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self._missing -= 1
        if not self._missing:
            self.all_there.set()
        await asyncio.Event().wait()
        raise AssertionError

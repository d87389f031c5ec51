"""The journal survives interruptions, and refuses whatever it did not write."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, Usage
from qwen_rerank.batch.journal import FinishedQuery, Journal
from qwen_rerank.batch.run import RunFiles
from qwen_rerank.testing import FakeScorer

OPTIONS = {"scorer": ("DashScopeScorer", "qwen3-rerank", None), "--top-n": None}
QUERIES = [
    FinishedQuery("q1", [("a", 0.9), ("b", 0.1)], Usage(requests=1, tokens=10, cost=0.5)),
    FinishedQuery("q2", [("企鹅", 0.1234567890123456), ("c", None)], Usage(requests=2, cost=1.0)),
    FinishedQuery("q3", [], Usage(), unranked=True),
]


def write_journal(path: Path) -> bytes:
    with closing(Journal(path, OPTIONS)) as journal:
        journal.add(QUERIES[0])
        journal.add(*QUERIES[1:])
    return path.read_bytes()


def rankings(journal: Journal) -> list[Any]:
    return [journal.ranking(query.query_id, [id_ for id_, _ in query.ranking]) for query in QUERIES]


def test_a_reopened_journal_has_what_was_added(tmp_path: Path) -> None:
    write_journal(tmp_path / "j")
    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        assert list(journal.finished) == ["q1", "q2", "q3"]
        assert rankings(journal) == [query.ranking for query in QUERIES]
        assert journal.usage == Usage(requests=3, tokens=10, cost=1.5)
        assert journal.unranked == 1
        assert journal.without_text == 1


def test_cut_off_anywhere_it_keeps_whole_lines_and_takes_new_ones(tmp_path: Path) -> None:
    whole = write_journal(tmp_path / "whole")
    ends = [offset + 1 for offset, byte in enumerate(whole) if byte == ord("\n")]
    near = {size for end in ends for size in range(end - 3, end + 3) if size <= len(whole)}
    for size in sorted({*range(0, len(whole), 17), *near}):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        with closing(Journal(path, OPTIONS)) as journal:
            assert list(journal.finished) == ["q1", "q2", "q3"][:kept]
            for query in QUERIES[kept:]:
                journal.add(query)
            assert rankings(journal) == [query.ranking for query in QUERIES]
        assert path.read_bytes() == whole


def test_a_last_line_of_other_bytes_is_cut_off(tmp_path: Path) -> None:
    whole = write_journal(tmp_path / "j")
    (tmp_path / "j").write_bytes(whole + b"\0" * 20 + b"\n")
    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        assert len(journal.finished) == 3
    assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "restart"),
    [
        (b"my notes\n", False),
        (b"my notes", True),
        (b'{"a": 1}\n', True),
        (b'{"options": {}}', False),
        (b'{"options": {"scorer": "x"}}\n', True),
        (b'{"options": {\n}}\n', True),
    ],
)
def test_another_file_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, restart: bool
) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(InvalidInputError, match="is not a journal"):
        Journal(tmp_path / "j", OPTIONS, restart=restart)
    assert (tmp_path / "j").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"options": {}}\n'])
def test_a_link_is_refused_and_its_target_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "target").write_bytes(content)
    (tmp_path / "j").symlink_to(tmp_path / "target")
    with pytest.raises(InvalidInputError, match="is not a journal"):
        Journal(tmp_path / "j", OPTIONS, restart=True)
    assert (tmp_path / "target").read_bytes() == content


def test_a_folder_in_the_place_of_a_ray_jobs_state_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from qwen_rerank.batch.ray_run import rerank_run_on_ray

    (tmp_path / "in.run").write_text("q1 Q0 a 1 0.5 bm25\n")
    (tmp_path / "out.run.ray").mkdir()
    (tmp_path / "out.run.ray" / "mine").touch()
    files = RunFiles(tmp_path / "in.run", tmp_path / "out.run", restart=True)
    with pytest.raises(InvalidInputError, match="exists and does not belong to this job"):
        rerank_run_on_ray(FakeScorer, files)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in.run", "mine", "out.run.ray"]


def entry(ranking: Any) -> Callable[[bytes], bytes]:
    """Give the query of a line another ranking."""
    return lambda line: json.dumps({**json.loads(line), "ranking": ranking}).encode() + b"\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line * 2, "line 3 is corrupted: query 'q1' is also on line 2"),
        (lambda line: b"{}\n", "line 2 is corrupted: query_id: Field required"),
        (entry([["a", 0.9], ["b", float("nan")]]), "line 2 is corrupted: .*finite number"),
        (entry([["a", float("inf")], ["b", 0.1]]), "line 2 is corrupted: .*finite number"),
        (entry([["a", 0.9]]), "line 2 is corrupted: its 1 documents are not the expected 2"),
        (entry([]), "its 0 documents are not the expected 2"),
        (entry([["a", 0.9], ["a", 0.1]]), "line 2 is corrupted: a document is listed twice"),
        (entry([["a", 0.9], ["x", 0.1]]), "line 2 is corrupted: the query has no document 'x'"),
        (entry([["a", 0.9], ["b", 0.2], ["b", 0.1]]), "a document is listed twice"),
        (entry([["b", 0.1], ["a", 0.9]]), "not in the order of their scores"),
        (entry([["b", None], ["a", 0.9]]), "not in the order of their scores"),
    ],
)
def test_a_line_that_it_did_not_write_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    head, line, *others = write_journal(tmp_path / "j").splitlines(keepends=True)
    for rest in (others, []):
        (tmp_path / "j").write_bytes(b"".join([head, damage(line), *rest]))
        with (
            pytest.raises(InvalidInputError, match=message),
            closing(Journal(tmp_path / "j", OPTIONS)) as journal,
        ):
            journal.ranking("q1", ["a", "b"])
    with closing(Journal(tmp_path / "j", OPTIONS, restart=True)) as journal:
        assert not journal.finished


def test_a_line_in_the_middle_that_is_not_json_is_refused(tmp_path: Path) -> None:
    head, line, *others = write_journal(tmp_path / "j").splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([head, line[:-10] + b"\n", *others]))
    with pytest.raises(InvalidInputError, match="line 2 is corrupted: it is not valid JSON"):
        Journal(tmp_path / "j", OPTIONS)


def test_top_n_says_how_many_documents_a_ranking_has(tmp_path: Path) -> None:
    write_journal(tmp_path / "j")
    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        assert journal.ranking("q1", ["a", "b", "c"], top_n=2) == QUERIES[0].ranking
        assert journal.ranking("q1", ["a", "b"], top_n=5) == QUERIES[0].ranking
        with pytest.raises(InvalidInputError, match="the expected 1"):
            journal.ranking("q1", ["a", "b", "c"], top_n=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**OPTIONS, "--top-n": 5}, "--top-n was None and is 5"),
        ({**OPTIONS, "--depth": 5}, "--depth was not set and is 5"),
        ({"--top-n": None}, "scorer was .* and is not set"),
    ],
)
def test_the_journal_of_other_options_is_refused_until_a_restart(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    before = write_journal(tmp_path / "j")
    with pytest.raises(InvalidInputError, match=message):
        Journal(tmp_path / "j", options)
    assert (tmp_path / "j").read_bytes() == before
    with closing(Journal(tmp_path / "j", options, restart=True)) as journal:
        assert not journal.finished
    assert len((tmp_path / "j").read_bytes().splitlines()) == 1


def test_only_one_process_can_write_to_it(tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path / "j", OPTIONS)),
        pytest.raises(InvalidInputError, match="in use, by another process"),
    ):
        Journal(tmp_path / "j", OPTIONS, restart=True)
    with closing(Journal(tmp_path / "j", OPTIONS)):
        pass  # the first one has released it


class Vanishing(type(Path())):  # type: ignore[misc]
    """A file that another process removes as soon as this one has opened it."""

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = super().open(mode, *arguments, **options)
        if mode == "rb":
            self.unlink()
        return file


@pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be removed there")
def test_a_journal_that_is_removed_while_it_is_opened_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="in use, by another process"):
        Journal(Vanishing(tmp_path / "j"), OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_after_a_line_could_not_be_written_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        journal.add(QUERIES[0])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                journal.add(QUERIES[1])
        with pytest.raises(OSError, match="an earlier line could not be written"):
            journal.add(QUERIES[2])


def test_every_line_is_one_object(tmp_path: Path) -> None:
    lines = write_journal(tmp_path / "j").splitlines()
    assert [json.loads(line).get("query_id") for line in lines] == [None, "q1", "q2", "q3"]

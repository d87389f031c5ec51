"""The journal survives whatever happens to it, or says that it did not."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import InvalidInputError, Usage
from qwen_rerank.cli.journal import Finished, Journal

OPTIONS = {"scorer": ("DashScopeScorer", "qwen3-rerank", None), "--top-n": None}
FINISHED = [
    Finished("q1", [("a", 0.9), ("b", 0.1)], Usage(requests=1, tokens=10, cost=0.5)),
    Finished("q2", [("企鹅", 0.1234567890123456), ("c", None)], Usage(requests=2, cost=1.0)),
    Finished("q3", [], Usage(), refused=True),
]


def written(path: Path) -> bytes:
    with closing(Journal(path, OPTIONS)) as journal:
        for finished in FINISHED:
            journal.add(finished)
    return path.read_bytes()


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    written(tmp_path / "j")
    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        assert list(journal.done) == ["q1", "q2", "q3"]
        for finished in FINISHED:
            assert journal.ranking(finished.query_id) == finished.ranking
        assert journal.usage == Usage(requests=3, tokens=10, cost=1.5)
        assert journal.refused == 1
        assert journal.textless == 1


def test_cut_off_anywhere_it_keeps_all_whole_lines_and_takes_new_ones(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole")
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    near = {size for end in ends for size in range(end - 3, end + 3) if size <= len(whole)}
    for size in sorted({*range(0, len(whole), 17), *near}):
        path = tmp_path / "cut"
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        with closing(Journal(path, OPTIONS)) as journal:
            assert list(journal.done) == ["q1", "q2", "q3"][:kept]
            for finished in FINISHED[kept:]:
                journal.add(finished)
            assert [journal.ranking(f.query_id) for f in FINISHED] == [f.ranking for f in FINISHED]
        assert path.read_bytes() == whole


def test_a_last_line_of_other_bytes_is_as_torn_as_half_a_one(tmp_path: Path) -> None:
    whole = written(tmp_path / "j")
    (tmp_path / "j").write_bytes(whole + b"\0" * 20 + b"\n")
    with closing(Journal(tmp_path / "j", OPTIONS)) as journal:
        assert len(journal.done) == 3
    assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b'{"a": 1}\n', b"[]\n"])
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(InvalidInputError, match="is no journal"):
        Journal(tmp_path / "j", OPTIONS)
    assert (tmp_path / "j").read_bytes() == content


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    first, second, *others = written(tmp_path / "j").splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([first, second[:-10] + b"\n", *others]))
    with pytest.raises(InvalidInputError, match="damaged"):
        Journal(tmp_path / "j", OPTIONS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({**OPTIONS, "--top-n": 5}, "--top-n was None and is 5"),
        ({**OPTIONS, "--depth": 5}, "--depth was not given and is 5"),
        ({"--top-n": None}, "scorer was .* and is not given"),
    ],
)
def test_the_journal_of_other_options_is_refused_until_it_is_thrown_away(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    before = written(tmp_path / "j")
    with pytest.raises(InvalidInputError, match=says):
        Journal(tmp_path / "j", options)
    assert (tmp_path / "j").read_bytes() == before
    with closing(Journal(tmp_path / "j", options, restart=True)) as journal:
        assert not journal.done
    assert len((tmp_path / "j").read_bytes().splitlines()) == 1


def test_two_processes_cannot_write_to_it(tmp_path: Path) -> None:
    with (
        closing(Journal(tmp_path / "j", OPTIONS)),
        pytest.raises(InvalidInputError, match="Another process"),
    ):
        Journal(tmp_path / "j", OPTIONS, restart=True)
    with closing(Journal(tmp_path / "j", OPTIONS)):
        pass  # the first has let go of it


class Vanishing(type(Path())):  # type: ignore[misc]
    """A file that another process removes as soon as this one has opened it."""

    def open(self, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = super().open(mode, *arguments, **options)
        if mode == "rb":
            self.unlink()
        return file


@pytest.mark.skipif(sys.platform == "win32", reason="what is open can't be removed there")
def test_a_journal_that_its_run_removes_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="Another process"):
        Journal(Vanishing(tmp_path / "j"), OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_every_line_is_one_object(tmp_path: Path) -> None:
    lines = written(tmp_path / "j").splitlines()
    assert [json.loads(line).get("query_id") for line in lines] == [None, "q1", "q2", "q3"]

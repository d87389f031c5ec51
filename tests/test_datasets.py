"""TREC's and BEIR's files, whole and broken."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import read_judgements, read_run, read_texts

RUN = "q1 Q0 a 1 2.5 bm25\nq1 Q0 b 2 2.5 bm25\nq2\tQ0\tc\t1\t-1e-3\tbm25\n\nq2 Q0 a 2 7 bm25\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def writer(name: str, text: str) -> Path:
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return writer


Write = Callable[[str, str], Path]


@pytest.mark.parametrize("name", ["run.txt", "run.txt.gz"])
def test_a_run_has_its_documents_by_score_and_equal_ones_as_they_are(
    write: Write, name: str
) -> None:
    run = read_run(write(name, RUN))
    assert [(id_, list(found.items())) for id_, found in run.items()] == [
        ("q1", [("a", 2.5), ("b", 2.5)]),
        ("q2", [("a", 7.0), ("c", -0.001)]),
    ]


def test_runs_and_judgements_are_those_that_ir_measures_reads(write: Write) -> None:
    path = write("run.txt", RUN)
    rows = list(ir_measures.read_trec_run(str(path)))
    assert {(row.query_id, row.doc_id, row.score) for row in rows} == {
        (id_, *pair) for id_, found in read_run(path).items() for pair in found.items()
    }
    qrels = write("qrels.txt", "q1 0 a 2\nq1 0 b 0\nq2 0 c -1\n")
    assert read_judgements(qrels) == {"q1": {"a": 2, "b": 0}, "q2": {"c": -1}}
    assert len(list(ir_measures.read_trec_qrels(str(qrels)))) == 3


@pytest.mark.parametrize("header", ["query-id\tcorpus-id\tscore\n", ""])
def test_judgements_may_be_those_of_a_beir_data_set(write: Write, header: str) -> None:
    path = write("test.tsv", f"{header}q1\ta\t1\nq1\tb\t0\n")
    assert read_judgements(path) == {"q1": {"a": 1, "b": 0}}


def test_ids_are_read_as_they_are_behind_a_byte_order_mark_too(write: Write) -> None:
    """With white space that is not ASCII's in them."""
    run = read_run(write("run", "\ufeffq1 Q0 企\u3000鹅 1 2.5 x\n"))
    assert run == {"q1": {"企\u3000鹅": 2.5}}
    assert read_judgements(write("qrels", "\ufeffq1 0 企\u3000鹅 1\n")) == {"q1": {"企\u3000鹅": 1}}


def test_texts_are_the_fields_that_are_there_a_line_each(write: Write) -> None:
    path = write(
        "corpus.jsonl",
        '{"_id": "a", "title": "Penguins", "text": "They swim."}\n'
        '{"id": 7, "title": "", "text": "Cars\\ndrive.", "metadata": {}}\n',
    )
    assert read_texts(path) == {"a": "Penguins\nThey swim.", "7": "Cars\ndrive."}
    assert read_texts(path, fields=["text"]) == {"a": "They swim.", "7": "Cars\ndrive."}


def test_texts_may_be_tabbed(write: Write) -> None:
    path = write("queries.tsv", "\ufeffq1\tWhat do\tpenguins eat?\r\nq2\t企鹅\n")
    assert read_texts(path) == {"q1": "What do\tpenguins eat?", "q2": "企鹅"}


@pytest.mark.parametrize(
    ("read", "name", "text", "says"),
    [
        (read_run, "run", "q1 Q0 a 1 2.5 x\nq1 Q0 b 2 high x\n", "line 2: a result is"),
        (read_run, "run", "q1 Q0 a 1 nan x\n", "line 1: a result is"),
        (read_run, "run", "q1 a 1\n", "line 1: a result is"),
        (read_run, "run", "q1 Q0 a 1 2 x\nq1 Q0 a 2 1 x\n", "line 2: 'a' is there twice"),
        (read_run, "run", "q1 Q0 a 1 2 x\nq2 Q0 a 1 1 x\nq1 Q0 b 1 1 x\n", "line 3.*sort"),
        (read_judgements, "qrels", "q1 0 a 1\nq1 0 b\n", "line 2"),
        (read_judgements, "qrels", "q1 0 a 0.5\n", "line 1: a judgement is"),
        (read_judgements, "qrels", "q1 0 a 1\n" * 2 + "q1 0 a 0\n", "line 3: 'a' had another"),
        (read_texts, "c.jsonl", '{"_id": "a", "text": "x"}\n{"_id"', "line 2: it is no JSON"),
        (read_texts, "c.jsonl", "[]\n", "no JSON object"),
        (read_texts, "c.jsonl", '{"text": "x"}\n', "it has no _id or id"),
        (read_texts, "c.jsonl", '{"_id": "a", "body": "x"}\n', "it has no title or text"),
        (read_texts, "c.jsonl", '{"_id": "a", "text": 1}\n', "is no text"),
        (read_texts, "c.jsonl", '{"_id": "a", "text": "x"}\n' * 2, "line 2: the id 'a'"),
        (read_texts, "c.tsv", "a text\n", "line 1: it is not an id, a tab and a text"),
    ],
)
def test_what_is_broken_is_named_by_its_line(
    write: Write, read: Callable[[Path], Any], name: str, text: str, says: str
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        read(write(name, text))


@pytest.mark.parametrize(
    ("read", "first", "second"),
    [
        (read_texts, b"q1\tone\n", b"q2\t\xff\n"),
        (read_judgements, b"q1 0 a 1\n", b"q1 0 \xff 1\n"),
        (read_run, b"q1 Q0 a 1 1 x\n", b"q1 Q0 \xff 1 1 x\n"),
    ],
)
def test_bytes_that_are_no_utf8_are_named_by_their_line(
    tmp_path: Path, read: Callable[[Path], Any], first: bytes, second: bytes
) -> None:
    path = tmp_path / "file.tsv"
    path.write_bytes(first + second)
    with pytest.raises(InvalidInputError, match="line 2"):
        read(path)


@pytest.mark.parametrize(
    "data",
    [gzip.compress(RUN.encode())[:-12], gzip.compress(RUN.encode())[:20], RUN.encode()],
    ids=["without its end", "cut in the middle", "not packed"],
)
def test_a_packed_file_that_is_damaged_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "run.txt.gz"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"run\.txt\.gz is damaged, or is not packed"):
        read_run(path)

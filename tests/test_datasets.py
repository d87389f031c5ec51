"""Files of TREC, BEIR, MS MARCO and Anserini: what is read, and what is refused by name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import read_judgements, read_run, read_texts

Write = Callable[[str, str | bytes], Path]

TREC = "q1 Q0 a 1 2.5 bm25\nq1 Q0 b 2 2.5 bm25\nq2 Q0 c 1 -1e-3 bm25\nq2 Q0 a 2 7 bm25\n"
BY_QUERY = {"q1": {"a": 2.5, "b": 2.5}, "q2": {"a": 7.0, "c": -0.001}}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        if name.endswith(".gz") and isinstance(content, str):
            data = gzip.compress(data)
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return writer


def ordered(run: dict[str, dict[str, float]]) -> list[Any]:
    return [(query_id, list(ranking.items())) for query_id, ranking in run.items()]


class TestRuns:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("run.trec", TREC),
            ("tabs.run", TREC.replace(" ", "\t")),
            ("crlf.run", TREC.replace("\n", "\r\n")),
            ("bom.run", "\ufeff" + TREC),
            ("blank.run", "\n" + TREC.replace("\n", "\n \n")),
            ("run.gz", TREC),
            ("repeated.run", TREC.replace("q1 Q0 a", "q1 Q0 a 1 2.5 bm25\nq1 Q0 a")),
            ("floats.run", TREC.replace("2.5", "+25e-1").replace(" 7 ", " 7.0 ")),
        ],
    )
    def test_documents_are_in_the_order_of_their_scores_and_ties_in_that_of_the_file(
        self, write: Write, name: str, content: str
    ) -> None:
        assert ordered(read_run(write(name, content))) == ordered(BY_QUERY)

    def test_a_run_in_the_format_of_trec_is_what_ir_measures_reads(self, write: Write) -> None:
        path = write("run", TREC)
        rows = ir_measures.read_trec_run(str(path))
        assert {(row.query_id, row.doc_id, row.score) for row in rows} == {
            (query_id, *pair) for query_id, ranking in BY_QUERY.items() for pair in ranking.items()
        }

    @pytest.mark.parametrize(("separator", "first"), [("\t", 1), (" ", 0)])
    def test_a_run_in_the_format_of_ms_marco_is_in_the_order_of_its_ranks(
        self, write: Write, separator: str, first: int
    ) -> None:
        lines = [("1", "d7", first + 1), ("1", "d9", first), ("2", "d7", f"{first}.0")]
        text = "".join(separator.join(map(str, line)) + "\n" for line in lines)
        run = read_run(write("run.tsv", text))
        assert [(query_id, list(ranking)) for query_id, ranking in run.items()] == [
            ("1", ["d9", "d7"]),
            ("2", ["d7"]),
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("q1 Q0 a 1 2.5 x\nq1 Q0 b 2 high x\n", "line 2: column 5, the score, is 'high'"),
            ("q1 Q0 a 1 nan x\n", "line 1: column 5, the score, is 'nan'"),
            ("q1 Q0 a 1 1_0 x\n", "column 5, the score, is '1_0'"),
            ("q1 Q0 a 1 2.5\n", "line 1: expected 6 columns .* or .* 3 .*, got 5"),
            ("q1 Q0 a 1 2.5 my tag\n", "got 7"),
            ("q1 a 12.5\n", "line 1: column 3, the rank, is '12.5', not an integer"),
            ("q1 a -1\n", "column 3, the rank, is '-1'"),
            ("q1 a 1\nq1 b 1\n", "line 2: 'b' and 'a' both have rank 1"),
            ("q1 a 1\nq1 a 2\n", "line 2: 'a' is listed twice"),
            ("q1 Q0 a 1 2 x\nq1 b 2\n", "line 2: expected 6 columns as before, got 3"),
            ("q1 Q0 a 1 2 x\nq1 Q0 a 2 1 x\n", "line 2: 'a' is listed twice"),
            ("q1 Q0 a 1 2 x\nq2 Q0 a 1 1 x\nq1 Q0 b 1 1 x\n", "line 3: .* not together.*sort"),
            ('{"q1": {"a": 0.5}}\n', "this is JSON"),
            ('[{"id": "q1"}]\n', "got 2; this is JSON"),
        ],
    )
    def test_an_invalid_line_is_named_with_its_column_and_value(
        self, write: Write, text: str, message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_run(write("run", text))


class TestJudgements:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("qrels.trec", "q1 0 a 2\nq1 0 b 0\nq2 0 c -1\n"),
            ("qrels.msmarco.tsv", "q1\t0\ta\t2\nq1\t0\tb\t0\nq2\t0\tc\t-1\n"),
            ("floats.trec", "q1 Q0 a 2.0\nq1 Q0 b 0.0\nq2 Q0 c -1e0\n"),
            ("beir.tsv", "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq2\tc\t-1\n"),
            (
                "bom.tsv",
                "\ufeffquery-id\tcorpus-id\tscore\r\nq1\ta\t2\r\nq1\tb\t0\r\nq2\tc\t-1\r\n",
            ),
            ("blank.tsv", "\nQuery_ID\titer\tdoc_id\trelevance\nq1 0 a 2\nq1 0 b 0\nq2 0 c -1"),
            ("no-header.tsv", "q1\ta\t2\nq1\tb\t0\nq2\tc\t-1\n"),
            ("repeated.trec", "q1 0 a 2\nq1 0 a 2\nq1 0 b 0\nq2 0 c -1\n"),
            ("qrels.gz", "q1 0 a 2\nq1 0 b 0\nq2 0 c -1\n"),
        ],
    )
    def test_gains_are_read_by_query(self, write: Write, name: str, content: str) -> None:
        assert read_judgements(write(name, content)) == {"q1": {"a": 2, "b": 0}, "q2": {"c": -1}}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("q1 0 a 1\nq1 0 b\n", "line 2: column 3, the gain, is 'b'"),
            ("q1 0 a 0.5\n", "line 1: column 4, the gain, is '0.5', not an integer"),
            ("q1 a high\n", "line 1: column 3, the gain, is 'high'"),
            ("q1 0 a nan\n", "column 4, the gain, is 'nan'"),
            ("q1 Q0 a 1 2.5 x\n", "line 1: expected 4 columns .* or .* 3 .*, got 6"),
            ("q1 0 a 1\n" * 2 + "q1 0 a 0\n", "line 3: 'a' has the gain 0 .* but 1"),
        ],
    )
    def test_an_invalid_line_is_named_with_its_column_and_value(
        self, write: Write, text: str, message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_judgements(write("qrels", text))


class TestTexts:
    def test_json_entries_have_the_text_of_the_fields_they_have(self, write: Write) -> None:
        path = write(
            "corpus.jsonl",
            '{"_id": "a", "title": "Penguins", "text": "They swim."}\n'
            '{"id": 7, "title": "", "text": "Cars\\ndrive.", "metadata": {}}\n',
        )
        assert read_texts(path) == {"a": "Penguins\nThey swim.", "7": "Cars\ndrive."}
        assert read_texts(path, fields=["text"]) == {"a": "They swim.", "7": "Cars\ndrive."}
        assert read_texts(path, fields="text") == read_texts(path, fields=["text"])
        with pytest.raises(InvalidInputError, match="fields must be the names of fields"):
            read_texts(path, fields=[])
        filled = read_texts(path, fields=["{title}: {text}"])
        assert filled == {"a": "Penguins: They swim.", "7": ": Cars\ndrive."}
        with pytest.raises(InvalidInputError, match=r"line 1: no text in 'body'; the fields are"):
            read_texts(path, fields=["{body}"])

    @pytest.mark.parametrize(
        ("name", "line", "options"),
        [
            ("anserini.jsonl", '{"id": "d", "contents": "text"}', {}),
            ("queries.jsonl", '{"qid": "d", "text": "text"}', {}),
            ("v2.jsonl", '{"pid": "d", "passage": "text", "docid": "x"}', {"fields": ["passage"]}),
            ("own.ndjson", '{"key": "d", "id": "x", "text": "text"}', {"id_field": "key"}),
            ("collection.tsv", "d\ttext", {}),
            ("queries.txt", "\ufeffd\ttext\r", {}),
        ],
    )  # fmt: skip
    def test_the_formats_of_anserini_and_ms_marco_are_read(
        self, write: Write, name: str, line: str, options: dict[str, Any]
    ) -> None:
        assert read_texts(write(name, f"{line}\n{line}\n\n"), **options) == {"d": "text"}
        assert read_texts(write(f"{name}.gz", line), **options) == {"d": "text"}

    def test_a_text_may_contain_tabs(self, write: Write) -> None:
        path = write("queries.tsv", "q1\tWhat do\tpenguins eat?\nq2\t企鹅\n")
        assert read_texts(path) == {"q1": "What do\tpenguins eat?", "q2": "企鹅"}

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("c.jsonl", '{"_id": "a", "text": "x"}\n{"_id"', "line 2: invalid JSON"),
            ("c.jsonl", '{"_id": "a", "text": "x", "n": NaN}\n', "line 1: invalid JSON"),
            ("c.jsonl", "[]\n", "line 1: expected one JSON object per line, got an array"),
            ("c.jsonl", '[\n{"_id": "a"}]\n', "line 1: expected one JSON object .*, got an array"),
            ("c.jsonl", "7\n", "line 1: expected a JSON object, got 7"),
            ("c.jsonl", '{"key": 1, "text": "x"}\n', "no id in '_id', .* fields are 'key', 'text'"),
            ("c.jsonl", '{"_id": [1], "text": "x"}\n', r"the id is \[1\]"),
            ("c.jsonl", '{"_id": "a", "body": "x"}\n', "no text in .* fields are '_id', 'body'"),
            ("c.jsonl", '{"_id": "a", "text": 1}\n', "the field 'text' is 1, not a string"),
            ("c.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n', "line 2: .* 'a'"),
            ("c.tsv", "a text\n", "line 1: expected an id, a tab and a text, got 'a text'"),
            ("c.tsv", "\ttext\n", "line 1: there is no id"),
            ("c.json", '{"_id": "a", "text": "x"}\n', "must end in .jsonl"),
            ("topics.xml", "<top>\n<num> 301\n", "this is XML or SGML"),
            ("c.tsv", "a\0\t\0t\0\n", "line 1: null bytes; .*UTF-16"),
        ],
    )
    def test_an_invalid_line_is_named_with_what_is_wrong(
        self, write: Write, name: str, text: str, message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_texts(write(name, text))


READERS: list[tuple[Callable[[Path], Any], str]] = [
    (read_run, "q1 Q0 企\u3000鹅 1 2.5 x\n"),
    (read_judgements, "q1 0 企\u3000鹅 1\n"),
    (read_texts, "企\u3000鹅\ttext\n"),
]
each_reader = pytest.mark.parametrize(("read", "line"), READERS, ids=["run", "judgements", "texts"])


@each_reader
def test_an_id_keeps_white_space_that_is_not_ascii(write: Write, read: Any, line: str) -> None:
    assert repr("企\u3000鹅") in repr(read(write("file.tsv", line)))


@each_reader
def test_a_byte_that_is_not_utf8_is_named_with_its_line(write: Write, read: Any, line: str) -> None:
    path = write("file.tsv", b"q0 0 a 1\n" * (read is read_judgements) + b"\n\xffq\n")
    with pytest.raises(InvalidInputError, match="byte 1 is 0xff, which is not UTF-8"):
        read(path)


@each_reader
def test_utf16_as_powershell_writes_it_is_refused_by_name(
    write: Write, read: Any, line: str
) -> None:
    for data in (line.encode("utf-16"), f"\ufeff{line}".encode("utf-16-be")):
        with pytest.raises(InvalidInputError, match=r"file\.tsv is UTF-16.* Convert it to UTF-8"):
            read(write("file.tsv", data))


@each_reader
def test_a_line_with_only_a_byte_order_mark_is_blank(write: Write, read: Any, line: str) -> None:
    expected = read(write("file.tsv", line))
    assert read(write("file.tsv", f"\ufeff\r\n\ufeff{line}\ufeff")) == expected


@each_reader
def test_lines_that_end_in_cr_alone_are_refused_by_name(write: Write, read: Any, line: str) -> None:
    with pytest.raises(InvalidInputError, match=r"file\.tsv has lines that end in CR alone"):
        read(write("file.tsv", f"{line}{line}".replace("\n", "\r").encode()))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("run.gz", gzip.compress(TREC.encode())[:-12], "is not a valid gzip file"),
        ("run.gz", gzip.compress(TREC.encode())[:20], "is not a valid gzip file"),
        ("run.gz", TREC.encode(), "is not a valid gzip file"),
        ("run.trec", gzip.compress(TREC.encode()), "is compressed with gzip. Its name must end"),
        ("run.bz2", bz2.compress(TREC.encode()), "is compressed with bzip2"),
        ("run.xz", lzma.compress(TREC.encode()), "is compressed with xz"),
        ("run.zip", b"PK\x03\x04...", "is a zip archive"),
    ],
    ids=["no end", "cut off", "plain text", "no .gz", "bzip2", "xz", "zip"],
)
def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(
    write: Write, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"{re.escape(name)} {message}"):
        read_run(write(name, data))

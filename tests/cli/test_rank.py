"""`qwen-rerank rank`: lines of text or JSON in, best first out."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_rerank import EmbeddedScorer
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.cli.conftest import Cli

QUERY = "What do penguins eat?"
LINES = ["Cars drive.", "Penguins eat krill.", "Whales eat, and penguins eat too."]
OFFLINE = ("rank", QUERY, "--scorer", "embedded")


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in io.StringIO(out)]


@pytest.fixture
def scores() -> dict[str, float]:
    """The score of each line in the library."""
    return dict(zip(LINES, EmbeddedScorer().score(QUERY, LINES).values, strict=True))


def test_lines_are_printed_best_first_with_the_scores_of_the_library(
    cli: Cli, scores: dict[str, float]
) -> None:
    outcome = cli(*OFFLINE, "--jsonl", stdin="\n".join(LINES))
    best_first = sorted(LINES, key=scores.__getitem__, reverse=True)
    assert outcome.code == 0
    assert rows(outcome.out) == [
        {"rank": rank, "score": scores[text], "line": LINES.index(text) + 1, "document": text}
        for rank, text in enumerate(best_first, start=1)
    ]
    assert outcome.err == ""


def test_the_table_has_scores_bars_and_texts(cli: Cli, scores: dict[str, float]) -> None:
    outcome = cli(*OFFLINE, stdin="\n".join(LINES))
    header, _, first, *others = outcome.out.splitlines()
    assert header.split() == ["rank", "score", "line", "document"]
    best = max(LINES, key=scores.__getitem__)
    assert first.split()[:3] == ["1", f"{scores[best]:.4f}", "█" * 10]
    assert first.endswith(best)
    assert len(others) == 2
    assert "\x1b" not in outcome.out


def test_json_is_one_array(cli: Cli) -> None:
    outcome = cli(*OFFLINE, "--json", "-n", 2, stdin="\n".join(LINES))
    assert [row["rank"] for row in json.loads(outcome.out)] == [1, 2]


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ("a\x1b[2Jb\x07c\td\x9b31m", "a\ufffd[2Jb\ufffdc d\ufffd31m"),
        ("[bold]a[/bold] [/x] :smile:", "[bold]a[/bold] [/x] :smile:"),
        ("soft\xadhyphen, \U0001f468\u200d\U0001f469, می\u200cخواهم",) * 2,
    ],
)
def test_a_document_is_shown_on_one_line_without_control_characters(
    cli: Cli, document: str, shown: str
) -> None:
    assert cli(*OFFLINE, stdin=document).out.splitlines()[-1].endswith(shown)


def test_documents_come_from_several_files_and_standard_input(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(
        "Penguins eat krill.\r\n\r\nCars drive.", encoding="utf-8-sig"
    )
    outcome = cli(*OFFLINE, "--jsonl", tmp_path / "one.txt", "-", stdin="Penguins\n")
    assert {(row["file"], row["line"], row["document"]) for row in rows(outcome.out)} == {
        (str(tmp_path / "one.txt"), 1, "Penguins eat krill."),
        (str(tmp_path / "one.txt"), 3, "Cars drive."),
        ("-", 1, "Penguins"),
    }


def test_a_gzip_file_is_decompressed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"Cars\n\nPenguins\n"))
    outcome = cli(*OFFLINE, "--jsonl", tmp_path / "d.txt.gz")
    assert {row["line"]: row["document"] for row in rows(outcome.out)} == {1: "Cars", 3: "Penguins"}


def test_a_file_has_the_same_lines_as_standard_input(cli: Cli, tmp_path: Path) -> None:
    lines = "a\rb\r\n\u2028c\x0cd\n\ne"
    (tmp_path / "d.txt").write_bytes(lines.encode())
    outcome = cli(*OFFLINE, "--jsonl", tmp_path / "d.txt")
    assert sorted(row["line"] for row in rows(outcome.out)) == [1, 2, 4]
    assert outcome.out == cli(*OFFLINE, "--jsonl", stdin=lines).out


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 elsewhere")
def test_a_file_name_that_is_not_utf8_survives_json(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("Penguins")
    outcome = cli(*OFFLINE, "--jsonl", path, "-")
    assert [row["file"] for row in rows(outcome.out)] == [str(path)]


def test_json_lines_are_ranked_by_fields_and_printed_whole(cli: Cli) -> None:
    entries = [
        {"title": "Cars", "body": "They drive.", "n": 1},
        {"title": "Penguins", "body": "They eat krill.", "n": 2},
        {"title": " ", "n": 3},
    ]
    outcome = cli(
        *OFFLINE, "--jsonl", "-f", "title", "-f", "body",
        stdin="\n".join(map(json.dumps, entries)),
    )  # fmt: skip
    assert [row["document"] for row in rows(outcome.out)] == [entries[1], entries[0]]
    assert "1 of 3 documents have no text and were left out." in outcome.err
    assert cli("-q", *OFFLINE, "-f", "title", stdin=json.dumps(entries[2]) + "\n{}").code == 2


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ('[{"text": "Penguins"}, {"text": "Cars"}]', (), "is a JSON array"),
        ('["Penguins", "Cars"]\n', (), "is a JSON array"),
        ("[]", (), "is a JSON array"),
        ('[\n  {"text": "Penguins"},\n  {"text": "Cars"}\n]\n', (), "is a JSON array"),
        ('{"text": "Penguins"}\n{"text": "Cars"}\n', (), "--field text"),
        ('{\n  "text": "Penguins"\n}\n', (), "--field text"),
        ('[{"text": "Penguins"}]', ("-f", "text"), "one JSON object per line, got an array"),
        ('[\n{"text": "Penguins"}\n]', ("-f", "text"), "one JSON object per line, got an array"),
    ],
)
def test_json_is_not_ranked_as_plain_text(
    cli: Cli, tmp_path: Path, text: str, arguments: tuple[str, ...], message: str
) -> None:
    outcome = cli(*OFFLINE, *arguments, stdin=text)
    assert (outcome.code, outcome.out) == (2, "")
    assert "standard input" in outcome.err
    assert message in outcome.err
    (tmp_path / "documents.json").write_text(text)
    in_file = cli(*OFFLINE, *arguments, tmp_path / "documents.json")
    assert in_file.err == outcome.err.replace("standard input", str(tmp_path / "documents.json"))


def test_text_with_brackets_is_text(cli: Cli) -> None:
    lines = ["[1] Penguins eat krill.", "[2]", "{see below}"]
    assert len(rows(cli(*OFFLINE, "--jsonl", stdin="\n".join(lines)).out)) == 3
    assert len(rows(cli(*OFFLINE, "--jsonl", stdin=lines[1]).out)) == 1


CONTROLS = "\x1b]0;owned\x07\x9b2J\x9d\x7f\x90"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize("arguments", [("--jsonl",), ()])
def test_control_characters_never_reach_the_terminal_and_survive_json(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = tmp_path / f"{CONTROLS}.jsonl"
    entry = {"text": f"Penguins {CONTROLS}", CONTROLS: [CONTROLS]}
    path.write_text(json.dumps(entry), encoding="utf-8")
    outcome = cli(*OFFLINE, "-f", "text", *arguments, path, path)
    assert outcome.code == 0
    assert not CONTROL.search(outcome.out + outcome.err)
    if arguments:
        first, _ = rows(outcome.out)
        assert (first["file"], first["document"]) == (str(path), entry)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"{CONTROLS}.txt",),
        (f"--{CONTROLS}",),
        (f"{CONTROLS}\nqwen-rerank: done.txt",),
    ],
)
def test_control_characters_in_arguments_are_not_printed(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    outcome = cli(*OFFLINE, *arguments, stdin="text")
    assert outcome.code == 2
    assert "owned" in outcome.err
    assert not CONTROL.search(outcome.err)
    assert "\nqwen-rerank: done" not in outcome.err


def test_a_field_may_be_a_format_string(cli: Cli) -> None:
    entry = {"title": "Penguins", "price": 2}
    outcome = cli(*OFFLINE, "-f", "{title} for {price:.2f}", stdin=json.dumps(entry))
    assert outcome.out.splitlines()[-1].endswith("Penguins for 2.00")


def test_with_passages_long_texts_are_scored_by_their_passages(
    cli: Cli, dashscope: LoopbackDashScope
) -> None:
    long = " ".join(f"Sentence {number} says nothing." for number in range(400))
    assert cli("rank", QUERY, "--passages", "--jsonl", stdin=long).code == 0
    (request,) = dashscope.received
    assert len(request.documents) > 3
    assert long not in request.documents


def test_equal_documents_are_all_printed(cli: Cli) -> None:
    assert len(rows(cli(*OFFLINE, "--jsonl", stdin="same\nsame\nsame\n").out)) == 3


def test_no_documents_give_no_result(cli: Cli) -> None:
    outcome = cli(*OFFLINE, "--jsonl")
    assert (outcome.code, outcome.out) == (0, "")
    assert "no documents" in outcome.err


def test_json_is_printed_in_utf8(cli: Cli) -> None:
    outcome = cli(*OFFLINE, "--jsonl", stdin="企鹅吃磷虾 🐧\n")
    assert rows(outcome.out)[0]["document"] == "企鹅吃磷虾 🐧"
    assert "企鹅" in outcome.out


def test_options_reach_the_service_with_the_key_of_the_environment(
    cli: Cli, dashscope: LoopbackDashScope
) -> None:
    outcome = cli(
        "rank", QUERY, "--model", "qwen3-rerank", "--instruct", "Find food.",
        "--url", dashscope.base_url, "--jsonl", stdin="score=0.2\nscore=0.9\n",
    )  # fmt: skip
    assert [row["document"] for row in rows(outcome.out)] == ["score=0.9", "score=0.2"]
    (request,) = dashscope.received
    assert request.model == "qwen3-rerank"
    assert request.parameters["instruct"] == "Find food."
    assert request.headers["Authorization"] == f"Bearer {dashscope.key}"
    assert dashscope.key not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (refuses(401, "InvalidApiKey"), 3, "A key belongs to one region"),
        (refuses(400, "Arrearage"), 3, "Settle the balance"),
        (refuses(400, "InvalidParameter", "Bad."), 2, "Bad."),
        (refuses(404, "ModelNotExist"), 2, "Use a model that the region"),
        (refuses(400, "DataInspectionFailed"), 1, "Leave out the text"),
        (refuses(501, "InternalError"), 4, "Try again later."),
    ],
)
def test_an_error_of_the_service_is_an_exit_code_and_a_remedy(
    cli: Cli, dashscope: LoopbackDashScope, fault: Any, code: int, message: str
) -> None:
    dashscope.faults.append(fault)
    outcome = cli("rank", QUERY, stdin="text")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith("qwen-rerank: ")
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert dashscope.key not in outcome.err


def test_without_a_key_it_says_where_to_put_one_and_how_to_do_without(cli: Cli) -> None:
    outcome = cli("rank", QUERY, stdin="text")
    assert outcome.code == 3
    assert "DASHSCOPE_API_KEY" in outcome.err
    assert "--scorer embedded" in outcome.err
    assert "api_key" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rank", " ", "-s", "embedded"), "query"),
        (("rank", QUERY, "-s", "embedded", "--model", "x"), "--model"),
        (("rank", QUERY, "-s", "server"), "--url"),
        (("rank", QUERY, "-s", "server", "--url", "http://localhost:1"), "Pass --dialect"),
        (("rank", QUERY, "-m", "gte-rerank-v2", "--instruct", "x"), "Pass --model qwen3-rerank"),
        (("rank", QUERY, "--region", "eu-west-1"), "eu-west-1"),
        (("rank", QUERY, "-s", "gpt"), "gpt"),
        (("rank", QUERY, "-n", "0"), "--top-n"),
        (("rank", QUERY, "-s", "embedded", "nowhere.txt"), "nowhere.txt: No such file"),
        (("rank", QUERY, "-s", "embedded", "--json", "--jsonl"), "Choose one."),
        (("rank", QUERY, "--url", "http://user:secret@host"), "--url must be an http or https"),
        (("rank",), "Missing argument"),
        (("ranks",), "ranks"),
    ],
)
def test_a_bad_command_line_is_named_and_exits_with_2(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-none")
    outcome = cli(*arguments, stdin="text")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("d.txt", b"one\ntwo \xff\n", (), "line 2: byte 5 is 0xff, which is not UTF-8"),
        ("d.txt", "one\n".encode("utf-16"), (), "d.txt is UTF-16"),
        ("d.jsonl", b'{"text": "x"}\n', (), "--field text"),
        ("d.jsonl", b'{"text": "x"}\n{"text', ("-f", "text"), "line 2: invalid JSON"),
        ("d.jsonl", b'{"text": "x", "n": NaN}\n', ("-f", "text"), "line 1: invalid JSON"),
        (
            "d.jsonl",
            b'{"text": "x"}\n',
            ("-f", "body"),
            "None of the 1 records has the field 'body'",
        ),
    ],
)
def test_an_invalid_line_is_named(
    cli: Cli, tmp_path: Path, name: str, content: bytes, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = cli(*OFFLINE, *arguments, tmp_path / name)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err

"""What all commands have in common, and what needs a process: pipes, terminals, packages."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

import qwen_rerank
from qwen_rerank import InvalidInputError
from qwen_rerank.cli import exit_codes, main, rank
from qwen_rerank.cli.app import app
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.cli.conftest import Cli
from tests.cli.process import COMMAND, environment, start
from tests.cli.test_run import ANSWERS, Files, Hanging
from tests.support.interpreter import ROOT, python

OFFLINE = ("rank", "penguins", "--scorer", "embedded")
COLOUR = re.compile(r"\x1b\[[\d;]*(3[0-9]|4[0-9])m")


class TestAllCommands:
    def test_help_lists_the_commands_and_the_exit_codes(self, cli: Cli) -> None:
        outcome = cli("--help")
        assert outcome.code == 0
        for name in ("rank", "run", "eval", "check", "models"):
            assert re.search(rf"^  {name} ", outcome.out, re.MULTILINE)
            assert cli(name, "-h").code == 0
        assert "Exit codes" in outcome.out

    def test_a_misspelled_choice_is_refused_with_the_nearest(self, cli: Cli) -> None:
        outcome = cli("rank", "penguins", "--scorer", "embeded")
        assert outcome.code == 2
        assert outcome.err.endswith("Did you mean 'embedded'?\n")

    def test_version(self, cli: Cli) -> None:
        assert cli("--version").out == f"qwen-rerank {qwen_rerank.__version__}\n"

    def test_quiet_may_come_before_or_after_the_command(self, cli: Cli) -> None:
        assert cli("--quiet", *OFFLINE).err == cli(*OFFLINE, "--quiet").err == ""
        assert "no documents" in cli(*OFFLINE, "--", "-").err

    def test_a_bug_shows_its_traceback_only_with_debug(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("boom")

        monkeypatch.setattr(rank, "RerankEngine", broken)
        outcome = cli(*OFFLINE, stdin="x")
        assert outcome.code == 1
        assert outcome.err.splitlines() == [
            "qwen-rerank: RuntimeError: boom",
            "Run it again with --debug for the traceback.",
        ]
        for arguments in (("--debug", *OFFLINE), (*OFFLINE, "--debug")):
            with pytest.raises(RuntimeError, match="boom"):
                cli(*arguments, stdin="x")

    def test_shell_completion_is_available(self, monkeypatch: pytest.MonkeyPatch) -> None:
        env = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
        shown = subprocess.run(
            [*COMMAND, "--show-completion", "bash"],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.returncode == 0
        assert "_QWEN_RERANK_COMPLETE=complete_bash" in shown.stdout

    def test_the_command_is_installed_as_qwen_rerank(self) -> None:
        (line,) = re.findall(
            r'^qwen-rerank = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
        )
        assert EntryPoint("qwen-rerank", line, "console_scripts").load() is main

    def test_remedies_name_existing_options(self) -> None:
        commands = typer.main.get_group(app).commands.values()
        known = {name for command in commands for each in command.params for name in each.opts}
        assert known.issuperset(exit_codes._OPTIONS.values())

    @pytest.mark.parametrize(
        ("remedy", "message"),
        [
            ('Pass model="x".', "Pass --model x."),
            ("Pass dialect= beside it.", "Pass --dialect beside it."),
            ("Lower max_concurrency.", "Lower --concurrency."),
            ("Pass rerank_field a name.", "Pass --field a name."),
            ('Pass device="cpu".', 'Pass device="cpu".'),
        ],
    )
    def test_a_remedy_names_options_instead_of_arguments(self, remedy: str, message: str) -> None:
        assert exit_codes.error_text(InvalidInputError("No.", remedy=remedy)) == f"No.\n{message}"


class TestPackages:
    @pytest.mark.parametrize("missing", ["typer", "rich"])
    def test_without_the_extra_it_says_what_to_install(self, missing: str) -> None:
        out, err = python(
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from qwen_rerank.cli import main\n"
            "try:\n    main()\nexcept SystemExit as ended:\n    print(ended.code)"
        )
        assert out == "5\n"
        assert err.splitlines() == [
            f"qwen-rerank: the command line needs the package {missing}.",
            'Install it: pip install "qwen-rerank[cli]"',
        ]

    def test_only_eval_needs_ir_measures(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ir_measures", None)
        assert cli(*OFFLINE, stdin="x").code == 0
        for name, text in (("run", "q Q0 a 1 1 r\n"), ("qrels", "q 0 a 1\n")):
            (tmp_path / name).write_text(text)
        outcome = cli("eval", "--run", tmp_path / "run", "--qrels", tmp_path / "qrels")
        assert outcome.code == 5
        assert "pip install" in outcome.err


class TestPipes:
    def test_only_results_go_to_standard_output(self) -> None:
        with start(*OFFLINE, "-f", "t", "--jsonl") as process:
            out, err = process.communicate(b'{"t": "penguins"}\n{"t": ""}\n')
        assert process.returncode == 0
        assert out.count(b"\n") == 1
        assert b"1 of 2 documents have no text" in err

    def test_a_reader_that_stops_reading_is_not_an_error(self) -> None:
        with start(*OFFLINE, "--jsonl") as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stdin.write(b"penguin\n" * 10_000)
            process.stdin.close()
            err = process.stderr.read()
        assert b"Traceback" not in err
        assert b"Error" not in err

    @pytest.mark.skipif(sys.platform == "win32", reason="no shell closes streams there")
    @pytest.mark.parametrize(
        ("closed", "code", "message"),
        [
            ("<&-", 0, b"There are no documents."),
            (">&-", 1, b"qwen-rerank: Bad file descriptor."),
            (">/dev/full", 1, b"qwen-rerank: No space left on device."),
        ],
    )
    def test_a_closed_input_is_empty_and_an_unwritable_output_an_error(
        self, closed: str, code: int, message: bytes
    ) -> None:
        if "full" in closed and not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        command = ["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, *OFFLINE, "--jsonl"]
        ended = subprocess.run(
            command, input=b"x", env=environment(), capture_output=True, check=False
        )
        assert (ended.returncode, ended.stdout) == (code, b"")
        assert ended.stderr.splitlines() == [message]

    def test_a_long_document_is_not_cut(self) -> None:
        with start(*OFFLINE) as process:
            out, _ = process.communicate(b"penguin " * 1_000)
        assert out.count(b"penguin") == 1_000
        assert b"\x1b" not in out

    def test_a_warning_is_a_sentence_and_debug_shows_logs(
        self, dashscope: LoopbackDashScope
    ) -> None:
        with start("rank", "penguins", "--debug") as process:
            _, err = process.communicate(b"penguin " * 5_000)
        warning, plan = err.splitlines()[:2]
        assert warning.startswith(b"Warning: 1 of 2 items")
        assert plan.startswith(b"qwen_rerank.scorers.http.scorer: plan for qwen3-rerank")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
class TestTerminal:
    @pytest.fixture
    def terminal(self) -> Callable[..., Any]:
        pexpect = pytest.importorskip("pexpect")

        def spawn(*arguments: Any, columns: int = 60, **changed: str) -> Any:
            return pexpect.spawn(
                COMMAND[0], [*COMMAND[1:], *map(str, arguments)],
                env=environment(TERM="xterm-256color", **changed),
                dimensions=(24, columns), encoding="utf-8", timeout=60,
            )  # fmt: skip

        return spawn

    @pytest.fixture
    def document(self, tmp_path: Path) -> Path:
        path = tmp_path / "documents.txt"
        path.write_text("penguin " * 100)
        return path

    @pytest.mark.parametrize(("columns", "is_cut"), [(60, True), (20, False)])
    def test_documents_but_not_numbers_are_cut_to_the_width_of_the_terminal(
        self, terminal: Callable[..., Any], document: Path, columns: int, is_cut: bool
    ) -> None:
        out = terminal(*OFFLINE, document, columns=columns).read()
        *_, row = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in out.splitlines()]
        number, score, _, line, _ = row.split(maxsplit=4)
        assert (number, line) == ("1", "1")
        assert re.fullmatch(r"0\.\d{4}", score)
        assert ("…" in row) is is_cut
        assert (len(row) <= columns) is is_cut
        assert (row.count("penguin") == 100) is not is_cut

    def test_it_does_not_wait_for_documents_from_the_terminal(
        self, terminal: Callable[..., Any]
    ) -> None:
        process = terminal(*OFFLINE)
        assert "There are no documents." in process.read()
        process.close()
        assert process.exitstatus == 2

    @pytest.mark.parametrize(("changed", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_progress_and_cost_are_shown_in_colour_unless_no_color_is_set(
        self, terminal: Callable[..., Any], tmp_path: Path, dashscope: LoopbackDashScope,
        changed: dict[str, str], is_coloured: bool,
    ) -> None:  # fmt: skip
        process = terminal(*Files(tmp_path).arguments, columns=100, **changed)
        out = process.read()
        process.close()
        assert process.exitstatus == 0, out
        assert re.search(r"12/12", out)
        assert " tokens" in out
        assert bool(COLOUR.search(out)) is is_coloured

    def test_quiet_shows_nothing(
        self, terminal: Callable[..., Any], tmp_path: Path, dashscope: LoopbackDashScope
    ) -> None:
        assert terminal(*Files(tmp_path).arguments, "-q").read() == ""

    def test_ctrl_c_stops_it_and_restores_the_terminal(
        self, terminal: Callable[..., Any], tmp_path: Path, dashscope: LoopbackDashScope
    ) -> None:
        hanging = Hanging(2)
        dashscope.faults.extend([ANSWERS] * 3 + [hanging] * 2)
        process = terminal(*Files(tmp_path).arguments, "--concurrency", "2", columns=100)
        assert hanging.all_arrived.wait(100)
        process.sendintr()
        out = process.read()
        process.close()
        assert process.exitstatus == 128 + signal.SIGINT
        assert "3 of 12 queries are finished and saved" in out
        assert out.rfind("\x1b[?25h") > out.rfind("\x1b[?25l")  # the cursor is shown again
        assert "Traceback" not in out

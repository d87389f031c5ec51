"""The types work for users: mypy --strict accepts correct code and reports mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_ERROR = re.compile(r"^.*?(?P<file>\w+\.py):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$", re.M)
_MARK = re.compile(r"# reported: (?P<code>[\w-]+)$")


@pytest.fixture(scope="module")
def report() -> str:
    """The output of mypy for both files."""
    options = [
        f"--config-file={HERE / 'mypy.ini'}",
        "--cache-dir=.mypy_cache/typing",  # that of `make lint` has other options
        "--no-error-summary",
        "--no-pretty",
    ]
    files = [HERE / "user_code.py", HERE / "mistakes.py"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (1, ""), run.stdout + run.stderr
    return run.stdout


def errors_in(report: str, file: str) -> list[tuple[int, str]]:
    return [
        (int(error["line"]), error["code"])
        for error in _ERROR.finditer(report)
        if error["file"] == file
    ]


def test_user_code_has_no_errors(report: str) -> None:
    assert errors_in(report, "user_code.py") == [], report


def test_mistakes_are_reported_and_nothing_else_is(report: str) -> None:
    lines = (HERE / "mistakes.py").read_text(encoding="utf-8").splitlines()
    marks = [(number, _MARK.search(line)) for number, line in enumerate(lines, start=1)]
    expected = [(number, mark["code"]) for number, mark in marks if mark]
    assert len(expected) > 20
    assert errors_in(report, "mistakes.py") == expected, report

"""The page's example prints what the page says."""

from __future__ import annotations

import re

import pytest

from tests.support.interpreter import ROOT


def test_the_pages_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code, printed = re.findall(r"^```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(compile(code, "evaluation.md", "exec"), {})
    assert capsys.readouterr().out == printed

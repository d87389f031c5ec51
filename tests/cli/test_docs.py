"""The page's example prints what the page says."""

from __future__ import annotations

import re

from tests.cli.conftest import Cli
from tests.support.interpreter import ROOT


def test_the_pages_example_prints_what_it_says(cli: Cli) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    example = re.search(r"^\$ printf '(.*)' \| qwen-rerank rank \"(.*)\" (.*)\n([^`]*)", page, re.M)
    assert example is not None
    given, query, options, printed = example.groups()
    outcome = cli("rank", query, *options.split(), stdin=given.replace("\\n", "\n"))
    assert outcome.out == printed

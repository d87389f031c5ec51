"""The page on adding a scorer, followed step by step."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import ROOT, Fence, examples, fences, side

PAGE = ROOT / "docs" / "adding-a-scorer.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which Python finds our packages."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'core'}:{ROOT}")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take seconds to import
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_scorer_of_your_own_ranks_and_passes_the_tests(folder: Path) -> None:
    (scorer, _), (use, printed), (tests, _) = examples(PAGE)
    (folder / "ngrams.py").write_text(scorer.text, encoding="utf-8")
    (folder / "use.py").write_text(f"from ngrams import *\n{use.text}", encoding="utf-8")
    (folder / "test_ngrams.py").write_text(tests.text, encoding="utf-8")
    assert output("use.py") == printed
    assert " passed" in output("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_ngrams.py")


def test_a_scorer_can_be_added_to_the_project(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder / "qwen_rerank"
    shutil.copytree(
        ROOT / "core" / "qwen_rerank", package, ignore=shutil.ignore_patterns("__pycache__")
    )
    imports, *changes = [fence for fence in fences(PAGE) if fence.language == "diff"]
    scorer, _ = examples(PAGE)[0]
    (package / "scorers" / "ngrams.py").write_text(changed(scorer.text, imports), encoding="utf-8")
    names = (package / "__init__.py").read_text(encoding="utf-8")
    for change in changes:
        names = changed(names, change)
    (package / "__init__.py").write_text(names, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    code = "import qwen_rerank.scorers.ngrams; from qwen_rerank import *; print(NgramScorer())"
    assert output("-c", code) == "NgramScorer(model='3-grams')\n"


def changed(text: str, change: Fence) -> str:
    """Apply a diff."""
    old, new = side(change, "-"), side(change, "+")
    assert text.count(f"{old}\n") == 1, old
    return text.replace(f"{old}\n", f"{new}\n")

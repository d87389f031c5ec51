"""Does the wheel in dist/ work as a user gets it?

    python scripts/try_wheel.py [EXTRA …]

Installs it into empty environments: without extras, and with each one alone. There the example of
the extra's page runs, against a loopback DashScope, and prints what the page says; and what needs
another extra works or says which one is missing. Exits with 1 where something else happens. The
extra `local` is left out for its size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import Parser
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.loopback import LoopbackDashScope
from tests.support.pages import ROOT, fences, side

NONE = "none"
LEFT_OUT = {"local"}


@dataclass(frozen=True)
class Extra:
    """What an extra is for.

    Attributes:
        page: Its page, which begins with an example.
        need: Code that needs this extra and no other.
        scorer: What takes the place of the example's EmbeddedScorer, if it is not there.
    """

    page: str
    need: str = ""
    scorer: str = "EmbeddedScorer"

    @property
    def example(self) -> tuple[str, str]:
        """The code that the page begins with, the new one of a change, and what it prints."""
        block, printed, *_ = fences(ROOT / self.page)
        code = block.text if block.language == "python" else side(block, "+")
        return code.replace("EmbeddedScorer", self.scorer), printed.text


EXTRAS = {
    NONE: Extra("docs/guide/engine.md"),
    "langchain": Extra(
        "docs/migrating/langchain-dashscope.md", "from langchain_qwen_rerank import QwenRerank"
    ),
    "llamaindex": Extra(
        "docs/migrating/llamaindex-dashscope.md", "from llamaindex_qwen_rerank import QwenRerank"
    ),
    "embedded": Extra(
        "docs/guide/results.md", "from qwen_rerank import EmbeddedScorer; EmbeddedScorer()"
    ),
    "passages": Extra(
        "docs/guide/passages.md",
        "from qwen_rerank import KeepOrder, PassageScorer; PassageScorer(KeepOrder())",
        scorer="DashScopeScorer",
    ),
    "evaluation": Extra(
        "docs/guide/engine.md",
        "from qwen_rerank.evaluation import evaluate; "
        "evaluate({'q': ['d']}, None, {'q': 'q'}, {'q': {'d': 1}})",
    ),
    "cli": Extra(
        "docs/guide/engine.md",
        "import sys; sys.argv[1:] = ['models']; from qwen_rerank.cli import main; main()",
    ),
    "all": Extra("docs/guide/lists.md"),
}


def main() -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    offered = set(_extras_of(wheel)) - LEFT_OUT
    if unknown := offered - EXTRAS.keys():
        sys.exit(f"EXTRAS in {__file__} lacks {', '.join(sorted(unknown))}.")
    wanted = sys.argv[1:] or [NONE, *sorted(offered)]
    with LoopbackDashScope() as service, ThreadPoolExecutor(2) as pool:
        os.environ |= {"DASHSCOPE_BASE_URL": service.base_url, "DASHSCOPE_API_KEY": service.key}
        tried = list(map(_reported, wanted, pool.map(partial(_tried, wheel), wanted)))
    sys.exit(not all(tried))


def _extras_of(wheel: Path) -> list[str]:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(metadata).decode()).get_all("Provides-Extra") or []


def _reported(extra: str, complaints: list[str]) -> bool:
    print(f"{extra}: {'ok' if not complaints else ''}", *complaints, sep="\n  ", flush=True)
    return not complaints


def _tried(wheel: Path, extra: str) -> list[str]:
    """What is wrong with the wheel where it is installed with this extra alone."""
    with tempfile.TemporaryDirectory() as folder:
        python = _installed(f"{wheel}[{extra}]" if extra != NONE else str(wheel), Path(folder))
        complaints = [_of_example(python, extra)]
        complaints += [_of_need(python, other, extra) for other in EXTRAS if EXTRAS[other].need]
    return list(filter(None, complaints))


def _installed(requirement: str, folder: Path) -> Path:
    """The interpreter of a new environment with nothing in it but what is required."""
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "install", "--no-compile", requirement], check=True
    )
    return python


def _run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees its environment's packages only, and is told of every warning."""
    command = [python, "-I", "-X", "utf8", "-W", "error", "-c", code]
    return subprocess.run(
        command, cwd=python.parent, capture_output=True, encoding="utf-8", check=False
    )


def _of_example(python: Path, extra: str) -> str:
    code, printed = EXTRAS[extra].example
    run = _run(python, code)
    if (run.returncode, run.stdout) == (0, printed):
        return ""
    return f"{EXTRAS[extra].page} printed {run.stdout!r}, not {printed!r}. {run.stderr}"


def _of_need(python: Path, other: str, extra: str) -> str:
    run = _run(python, EXTRAS[other].need)
    is_there = run.returncode == 0
    is_named = run.stderr.rstrip().endswith(f'pip install "qwen-rerank[{other}]"')
    if is_there or (is_named and extra != other):
        return ""
    return f"{EXTRAS[other].need!r} exited with {run.returncode}. {run.stderr}"


if __name__ == "__main__":
    main()

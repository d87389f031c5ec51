"""Test the wheel in dist/ as a user would install it.

    python scripts/try_wheel.py [EXTRA …]

Installs the wheel into empty environments: without extras, and with each extra alone. In each one,
the example on the extra's page runs against a local DashScope server and must print what the page
says. Code that needs another extra must work, or name the missing extra. Exits with 1 on any
failure. The `local` extra is skipped because it is large.
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

from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.pages import ROOT, fences, side

NONE = "none"
SKIPPED = {"local"}


@dataclass(frozen=True)
class Extra:
    """How to test an extra.

    Attributes:
        page: The page whose first code block is the example.
        need: Code that needs this extra and no other.
        scorer: The scorer that replaces EmbeddedScorer in the example, if that is not installed.
    """

    page: str
    need: str = ""
    scorer: str = "EmbeddedScorer"

    @property
    def example(self) -> tuple[str, str]:
        """The page's first code block, or the new side of a diff, and its expected output."""
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
    "multilingual": Extra(
        "docs/guide/results.md", "from qwen_rerank import EmbeddedScorer; EmbeddedScorer('use')"
    ),
    "passages": Extra(
        "docs/guide/passages.md",
        "from qwen_rerank import KeepOrder, PassageScorer; PassageScorer(KeepOrder())",
        scorer="DashScopeScorer",
    ),
    "rates": Extra(
        "docs/guide/engine.md",
        "from qwen_rerank import DashScopeScorer; DashScopeScorer(api_key='sk-x', "
        "requests_per_minute=1, rates_store='redis://localhost')",
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
    "ray": Extra(
        "docs/guide/engine.md",
        "from qwen_rerank.batch.ray_data import imported_ray; imported_ray()",
    ),
    "all": Extra("docs/guide/lists.md"),
}


def main() -> None:
    (wheel,) = (ROOT / "dist").glob("*.whl")
    available = set(_extras_in(wheel)) - SKIPPED
    if unknown := available - EXTRAS.keys():
        sys.exit(f"EXTRAS in {__file__} lacks {', '.join(sorted(unknown))}.")
    wanted = sys.argv[1:] or [NONE, *sorted(available)]
    with LoopbackDashScope() as service, ThreadPoolExecutor(2) as pool:
        os.environ |= {"DASHSCOPE_BASE_URL": service.base_url, "DASHSCOPE_API_KEY": service.key}
        passed = list(map(_report, wanted, pool.map(partial(_failures, wheel), wanted)))
    sys.exit(not all(passed))


def _extras_in(wheel: Path) -> list[str]:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(metadata).decode()).get_all("Provides-Extra") or []


def _report(extra: str, failures: list[str]) -> bool:
    print(f"{extra}: {'ok' if not failures else ''}", *failures, sep="\n  ", flush=True)
    return not failures


def _failures(wheel: Path, extra: str) -> list[str]:
    """The failures of the wheel with only this extra installed."""
    with tempfile.TemporaryDirectory() as folder:
        python = _python_with(f"{wheel}[{extra}]" if extra != NONE else str(wheel), Path(folder))
        failures = [_example_failure(python, extra)]
        failures += [_need_failure(python, other, extra) for other in EXTRAS if EXTRAS[other].need]
    return list(filter(None, failures))


def _python_with(requirement: str, folder: Path) -> Path:
    """The Python of a new environment with only this requirement installed."""
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "install", "--no-compile", requirement], check=True
    )
    return python


def _run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees only its environment's packages. Warnings are errors."""
    command = [python, "-I", "-X", "utf8", "-W", "error", "-c", code]
    return subprocess.run(
        command, cwd=python.parent, capture_output=True, encoding="utf-8", check=False
    )


def _example_failure(python: Path, extra: str) -> str:
    code, printed = EXTRAS[extra].example
    run = _run(python, code)
    if (run.returncode, run.stdout) == (0, printed):
        return ""
    return f"{EXTRAS[extra].page} printed {run.stdout!r}, not {printed!r}. {run.stderr}"


def _need_failure(python: Path, other: str, extra: str) -> str:
    run = _run(python, EXTRAS[other].need)
    works = run.returncode == 0
    names_extra = run.stderr.rstrip().endswith(f'pip install "qwen-rerank[{other}]"')
    if works or (names_extra and extra != other):
        return ""
    return f"{EXTRAS[other].need!r} exited with {run.returncode}. {run.stderr}"


if __name__ == "__main__":
    main()

"""Other interpreters, for tests that need a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DEVELOPMENT_MODE", "ROOT", "python", "running_python"]

DEVELOPMENT_MODE = ("-X", "dev", "-W", "error")
"""Options that make Python report everything that was not closed or awaited, and all warnings."""

ROOT = Path(__file__).parents[2]


def python(code: str, *options: str) -> tuple[str, str]:
    """Run code at the root of the repository and return its standard output and error."""
    with running_python(code, *options) as process:
        return process.communicate()


@contextmanager
def running_python(code: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start code at the root of the repository. The process is killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # does nothing if it has ended

"""Other interpreters, for what only a process of its own can show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DEVELOPMENT_MODE", "ROOT", "python", "running_python"]

DEVELOPMENT_MODE = ("-X", "dev", "-W", "error")
"""Options with which Python complains of all that was not closed or awaited, and of warnings."""

ROOT = Path(__file__).parents[2]


def python(code: str, *options: str) -> tuple[str, str]:
    """What another interpreter, at the root of the repository, prints and complains of."""
    with running_python(code, *options) as process:
        return process.communicate(timeout=100)


@contextmanager
def running_python(code: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The same while it runs; it does not outlive the block."""
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
            process.kill()  # does nothing where it has ended

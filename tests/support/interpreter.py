"""Other interpreters, for what only a process of its own can show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["DEVELOPMENT_MODE", "python"]

DEVELOPMENT_MODE = ("-X", "dev", "-W", "error")
"""Options with which Python complains of all that was not closed or awaited, and of warnings."""

ROOT = Path(__file__).parents[2]


def python(code: str, *options: str) -> subprocess.Popen[str]:
    """Another interpreter, at the root of the repository."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )

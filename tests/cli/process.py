"""Run the command line as a process: in a pipe, in a terminal, or to kill it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support.interpreter import ROOT

COMMAND = [sys.executable, "-m", "qwen_rerank.cli"]


def environment(**changed: str) -> dict[str, str]:
    """Return the environment of this process, with the packages of the repository."""
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
    own = {"NO_COLOR", "COLUMNS", "LINES"}  # these describe a terminal
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **changed}


def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command with its streams in pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=options.pop("env", environment()),
        **options,
    )

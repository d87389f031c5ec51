"""The command line as a process: killed, in a pipe, in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.support.interpreter import ROOT

COMMAND = [sys.executable, "-m", "qwen_rerank.cli"]


def environment(**changed: str) -> dict[str, str]:
    """That of this process, in which the repository's packages are found."""
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
    own = {"NO_COLOR", "COLUMNS", "LINES"}  # which say what a terminal is like
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **changed}


def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
    """The command, running, with both streams in pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=options.pop("env", environment()),
        **options,
    )

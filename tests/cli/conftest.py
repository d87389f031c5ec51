"""Run the command line in this process; `process` runs it in a process of its own."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from qwen_rerank.cli.app import run


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Cli]:
    """Run a command with its arguments and its standard input."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored afterwards
    log = logging.getLogger("qwen_rerank")
    monkeypatch.setattr(log, "handlers", log.handlers.copy())

    def call(*arguments: Any, stdin: str | bytes = b"") -> Outcome:
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as ended:
            run(list(map(str, arguments)))
        out, err = capsysbinary.readouterr()
        return Outcome(int(ended.value.code or 0), out.decode(), err.decode())

    level = log.level
    yield call
    log.setLevel(level)

"""The command line, `qwen-rerank`. Needs the extra `cli`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the command line with the process's arguments, and exit."""
    signal.signal(signal.SIGTERM, _terminated)
    _replace_closed_streams()
    try:
        _imported()(sys.argv[1:])
    except KeyboardInterrupt:  # before there was a command
        sys.exit(130)
    finally:
        _drop_unwritable()


def _terminated(number: int, _: Any) -> None:
    """End as after Ctrl-C: what is shown is put in order, and it is said how to go on."""
    sys.exit(128 + number)


def _replace_closed_streams() -> None:
    """A closed input is empty, a closed output an error; no file gets the number of either."""
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),  # so that writing fails
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _drop_unwritable() -> None:
    """Results that could not be written have been an error: Python should not try them again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _imported() -> Callable[[Sequence[str]], None]:
    """The command line, which needs packages of its own."""
    try:
        from qwen_rerank.cli.app import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        print(
            f"qwen-rerank: the command line needs the package {package}.\n"
            'Install it: pip install "qwen-rerank[cli]"',
            file=sys.stderr,
        )
        sys.exit(5)  # as exit_codes.Exit.PACKAGE, which is not imported in case that needs it too
    return run

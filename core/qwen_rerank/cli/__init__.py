"""The command line, `qwen-rerank`. Needs the extra `cli`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the command line with the arguments of the process, and exit."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    _replace_closed_streams()
    try:
        _import_run()(sys.argv[1:])
    except KeyboardInterrupt:  # before a command has started
        sys.exit(130)
    finally:
        _discard_unwritable_output()


def _exit_on_signal(number: int, _: Any) -> None:
    """Exit as after Ctrl-C: restore the terminal, and say how to continue."""
    sys.exit(128 + number)


def _replace_closed_streams() -> None:
    """Make closed input empty and closed output fail, so that no file gets their descriptors."""
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),  # so that writing fails
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _discard_unwritable_output() -> None:
    """Discard output that could not be written, before Python tries to write it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _import_run() -> Callable[[Sequence[str]], None]:
    """Import the command line, which needs packages of its own."""
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
        sys.exit(5)  # exit_codes.Exit.PACKAGE; importing that may need the package too
    return run

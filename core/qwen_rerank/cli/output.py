"""What the command line prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from qwen_rerank.evaluation import Calibration, Plot, Report

__all__ = ["Output", "one_line", "print_error", "printable"]

_UNLIMITED_WIDTH = 100_000
"""The width of a file or a pipe, where nothing is cut."""

_MIN_LAST_COLUMN = 10
"""How many characters of the last column must fit a terminal."""


class Output:
    """Standard output and standard error, in colour on a terminal unless NO_COLOR is set.

    Args:
        quiet: Whether to print only results and errors.

    Attributes:
        repeated_warnings: How many of the library's warnings repeat an earlier one and were not
            shown.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.results = _console(sys.stdout)
        self.notes = _console(sys.stderr)
        self.repeated_warnings = 0
        self._shown_warnings: set[str] = set()

    @property
    def shows_progress(self) -> bool:
        """Whether standard error is a terminal that should show progress."""
        return self.notes.is_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Print something that is not a result, unless `quiet` is set."""
        if not self.quiet:
            self.notes.print(printable(text))

    def status(self, text: str) -> AbstractContextManager[object]:
        """Show what takes a while, if standard error is a terminal."""
        return self.notes.status(text) if self.shows_progress else nullcontext()

    def show_logs(self, *, debug: bool) -> None:
        """Show the library's warnings; with `debug`, everything it logs."""
        log = logging.getLogger("qwen_rerank")
        log.setLevel(logging.DEBUG if debug else logging.WARNING)
        log.addHandler(_Handler(self._show_log))
        warnings.showwarning = lambda message, *_, **__: self.note(
            f"Warning: {one_line(str(message))}"
        )

    def _show_log(self, record: logging.LogRecord) -> None:
        """Show a warning once: each of a thousand queries may have a long document."""
        message = one_line(record.getMessage())
        if record.levelno < logging.WARNING:
            self.note(f"{record.name}: {message}")
        elif record.msg in self._shown_warnings:
            self.repeated_warnings += 1
        else:
            self._shown_warnings.add(record.msg)
            self.note(f"Warning: {message}")

    def result(self, text: str) -> None:
        """Print a result that is text."""
        self.results.print(printable(text))

    def measured(self, result: Report | Calibration, *, as_json: bool) -> None:
        """Print what was measured, as text or as JSON."""
        if as_json:
            self.json(result.to_dict(), indent=2)
        else:
            self.result(str(result))

    def save_plot(self, plot: Plot, path: Path) -> None:
        """Save a plot, and say what it shows."""
        plot.save(path)
        self.note(one_line(f"{path}: {plot.alt}"))

    def table(self, table: Table) -> None:
        """Print a table, whose last column is cut if the terminal is too narrow.

        Nothing is cut if too little of the column would be left, or without a terminal.
        """
        if self.results.is_terminal and self._fit(table):
            self.results.print(table)
            return
        self.results.width = _UNLIMITED_WIDTH
        with self.results.capture() as captured:
            self.results.print(table)
        self.results.print("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def _fit(self, table: Table) -> bool:
        """Cut the last column to the width that is left, and return whether that is enough."""
        last = table.columns[-1]
        last.max_width = _MIN_LAST_COLUMN
        options = self.results.options.update(width=_UNLIMITED_WIDTH)
        left = self.results.width - self.results.measure(table, options=options).maximum
        last.max_width = _MIN_LAST_COLUMN + left if left >= 0 else None
        return left >= 0

    def json(self, value: Any, *, indent: int | None = None) -> None:
        """Print a value as JSON in UTF-8, whatever the encoding of the terminal."""
        text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
        text = _C1_CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)
        # File names may hold bytes that are not UTF-8, which JSON can escape.
        sys.stdout.buffer.write(f"{text}\n".encode(errors="backslashreplace"))
        sys.stdout.buffer.flush()


class _Handler(logging.Handler):
    """Passes log records to a function."""

    def __init__(self, show: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record)


def print_error(text: str) -> None:
    """Print what went wrong to standard error; standard output may be unusable."""
    _console(sys.stderr).print(printable(text))


def _console(stream: TextIO) -> Console:
    stream.reconfigure(errors="replace")  # type: ignore[attr-defined]  # the streams are text files
    return Console(
        file=stream,
        width=None if stream.isatty() else _UNLIMITED_WIDTH,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def one_line(text: str) -> str:
    """Return the text on one line, without control characters."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Replace control characters, which a terminal could take for commands.

    Tabs and line breaks stay.
    """
    return _CONTROLS.sub("\ufffd", text)


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_C1_CONTROLS = re.compile(r"[\x7f-\x9f]")
"""DEL and the control characters above ASCII, which the json module does not escape."""

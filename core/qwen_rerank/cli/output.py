"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from qwen_rerank.scorers.base import Usage

__all__ = ["Output", "one_line", "print_error", "spent"]

_WIDE = 100_000
"""The width of what is no terminal: nothing is cut in a file or a pipe."""

_READABLE = 10
"""How many characters of the last column a terminal must have room for."""


class Output:
    """Both streams. Colours are for terminals alone, and not where NO_COLOR is set.

    Args:
        quiet: Whether nothing goes to standard error but errors.

    Attributes:
        unsaid: How many warnings of the library's came from where one had come from before, and
            were not repeated.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.results = _console(sys.stdout)
        self.notes = _console(sys.stderr)
        self.unsaid = 0
        self._warned: set[str] = set()

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal to show progress on, and it is wanted."""
        return self.notes.is_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Say something that is no result, unless it should be quiet."""
        if not self.quiet:
            self.notes.print(_harmless(text))

    def listen(self, *, debug: bool) -> None:
        """Say what the library warns of, and with debug whatever it logs."""
        log = logging.getLogger("qwen_rerank")
        log.setLevel(logging.DEBUG if debug else logging.WARNING)
        log.addHandler(_Listener(self._heard))
        warnings.showwarning = lambda message, *_, **__: self.note(f"Warning: {message}")

    def _heard(self, record: logging.LogRecord) -> None:
        """Say a warning once: of a thousand queries, each may have a long document."""
        if record.levelno < logging.WARNING:
            self.note(f"{record.name}: {record.getMessage()}")
        elif record.msg in self._warned:
            self.unsaid += 1
        else:
            self._warned.add(record.msg)
            self.note(f"Warning: {record.getMessage()}")

    def result(self, text: str) -> None:
        """Print a result that is a text."""
        self.results.print(_harmless(text))

    def table(self, shown: Table) -> None:
        """Print a table, its last column cut where a terminal is too narrow.

        Where that would not leave enough of it, and where there is no terminal, nothing is cut.
        """
        if self.results.is_terminal and self._fitted(shown):
            self.results.print(shown)
            return
        self.results.width = _WIDE
        with self.results.capture() as captured:
            self.results.print(shown)
        self.results.print("\n".join(line.rstrip() for line in captured.get().splitlines()))

    def _fitted(self, shown: Table) -> bool:
        """Cut the last column to what the others leave, if that is enough to be read."""
        last = shown.columns[-1]
        last.max_width = _READABLE
        options = self.results.options.update(width=_WIDE)
        spare = self.results.width - self.results.measure(shown, options=options).maximum
        last.max_width = _READABLE + spare if spare >= 0 else None
        return spare >= 0

    def json(self, value: Any, *, indent: int | None = None) -> None:
        """Print a value as JSON in UTF-8, whatever the terminal's encoding."""
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        # File names may hold bytes that are not UTF-8: JSON has a way to write them.
        sys.stdout.buffer.write(f"{text}\n".encode(errors="backslashreplace"))
        sys.stdout.buffer.flush()


class _Listener(logging.Handler):
    """Hands what is logged to a function."""

    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record)


def print_error(text: str) -> None:
    """Say what went wrong, on standard error; of standard output nothing is asked."""
    _console(sys.stderr).print(f"qwen-rerank: {_harmless(text)}")


def _console(stream: TextIO) -> Console:
    stream.reconfigure(errors="replace")  # type: ignore[attr-defined]  # not another's bug
    return Console(
        file=stream,
        width=None if stream.isatty() else _WIDE,
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )


def spent(usage: Usage) -> str:
    """What was billed: tokens, and dollars where the price is known."""
    tokens = f"{usage.tokens:,} tokens"
    return tokens if usage.cost is None else f"{tokens}, ${usage.cost:.4f}"


def one_line(text: str) -> str:
    """The text on one line, without what a terminal would take for commands."""
    return _harmless(" ".join(text.split()))


def _harmless(text: str) -> str:
    return _COMMANDS.sub("\ufffd", text)


_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""The control characters but for tabs and line breaks."""

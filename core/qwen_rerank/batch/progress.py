"""The progress of a job: how far it is, how long it will take, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.usage import Usage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

__all__ = ["Progress", "ProgressBar", "ProgressCallback", "Stopwatch", "format_usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        finished: How many queries are finished, including those of earlier attempts and those that
            failed.
        earlier: How many of them were finished by earlier attempts.
        failed: How many of them failed.
        total: How many queries there are; None if that is not known.
        usage: What the job has cost, including earlier attempts.
        seconds: How long this attempt has taken, in seconds.
    """

    finished: int
    earlier: int
    failed: int
    total: int | None
    usage: Usage
    seconds: float

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest will take at the rate so far; None if that is not known."""
        now = self.finished - self.earlier
        if self.total is None or not now:
            return None
        return self.seconds / now * (self.total - self.finished)

    @property
    def total_cost(self) -> float | None:
        """What the whole job will cost in US dollars, if its other queries cost as much."""
        if self.total is None or self.usage.cost is None or not self.finished:
            return None
        return self.usage.cost / self.finished * self.total


ProgressCallback: TypeAlias = Callable[[Progress], object]
"""Called after each query."""


class Stopwatch:
    """Counts queries, and reports each.

    Args:
        report: Called after each query.
        total: How many queries there are; None if that is not known.
    """

    def __init__(self, report: ProgressCallback, total: int | None) -> None:
        self._report = report
        self._total = total
        self._started = time.monotonic()
        self._finished = self._earlier = self._failed = 0

    def count(self, usage: Usage, *, earlier: bool = False, failed: bool = False) -> None:
        """Count a query.

        Args:
            usage: What all queries have cost.
            earlier: Whether an earlier attempt has finished the query.
            failed: Whether the query failed.
        """
        self._finished += 1
        self._earlier += earlier
        self._failed += failed
        self._report(
            Progress(
                finished=self._finished,
                earlier=self._earlier,
                failed=self._failed,
                total=self._total,
                usage=usage,
                seconds=time.monotonic() - self._started,
            )
        )


class ProgressBar:
    """A bar on standard error with the rate, the time left and the cost.

    Args:
        total: How many queries there are; None if that is not known.
        console: Where to show it; None for standard error.

    Raises:
        MissingDependencyError: rich is not installed.
    """

    def __init__(self, total: int | None, console: Console | None = None) -> None:
        self._bar = _rich_bar(console)
        self._total = total
        self._task = self._bar.add_task("", total=total, usage="", rate="")

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def show(self, progress: Progress) -> None:
        """Show how far the job is."""
        now = progress.finished - progress.earlier
        rate = f"{now / progress.seconds:.1f}/s" if now and progress.seconds else ""
        usage = format_usage(progress.usage)
        if progress.total_cost is not None:
            usage += f" of about ${progress.total_cost:.4f}"
        self._bar.update(self._task, completed=progress.finished, usage=usage, rate=rate)

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


def _rich_bar(console: Console | None) -> Bar:
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError as error:
        raise MissingDependencyError(
            "The progress bar needs the package rich, which is not installed.",
            remedy='Install it with: pip install "qwen-rerank[cli]", or pass progress a function.',
        ) from error
    return Progress(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("queries"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[usage]}"),
        console=console or Console(stderr=True),
        expand=True,
    )


def format_usage(usage: Usage) -> str:
    """Return the billed tokens, and their price in dollars if it is known."""
    tokens = f"{usage.tokens:,} tokens"
    return tokens if usage.cost is None else f"{tokens}, ${usage.cost:.4f}"

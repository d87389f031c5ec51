"""Show the progress of a run, what it has cost, and how it ended."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from qwen_rerank.batch.progress import Progress, ProgressBar, format_usage
from qwen_rerank.batch.run import RunReranking
from qwen_rerank.cli.output import Output

__all__ = ["RunProgress"]


class RunProgress:
    """The progress bar and the notes of a run.

    Args:
        output: Where to show them.
        reranking: What is done.
    """

    def __init__(self, output: Output, reranking: RunReranking) -> None:
        self._output = output
        self._counts = reranking.counts
        self._journal = reranking.journal
        self._finished_before = len(self._journal.finished)
        self._started = time.monotonic()
        self._bar = ProgressBar(self._counts.queries, output.notes)

    def show(self, progress: Progress) -> None:
        """Show how far the run is; queries that were finished before are not in `progress`."""
        self._bar.show(
            replace(
                progress,
                finished=progress.finished + self._finished_before,
                earlier=self._finished_before,
                total=self._counts.queries,
            )
        )

    def __enter__(self) -> Self:
        if self._finished_before:
            self._output.note(
                f"{self._finished_before:,} of {self._counts.queries:,} queries were finished "
                "earlier."
            )
        if self._output.shows_progress:
            self._bar.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._output.shows_progress:
            self._bar.stop()
        if error is not None:
            self._output.note(
                f"Stopped. {len(self._journal.finished):,} of {self._counts.queries:,} queries are "
                "finished and saved. Run the command again to continue."
            )

    def summarize(self, out: Path) -> None:
        """Say what was done, and what it has cost."""
        counts, journal, note = self._counts, self._journal, self._output.note
        seconds = max(time.monotonic() - self._started, 0.001)
        now = counts.queries - self._finished_before
        note(
            f"Reranked {counts.queries:,} queries with {counts.documents:,} documents; {now:,} "
            f"queries now, in {seconds:.1f} s ({now / seconds:.1f} per second)."
        )
        usage = journal.usage
        requests = f"{usage.requests:,} requests, {usage.retries:,} retries"
        note(f"Cost: {requests}, {format_usage(usage)}.")
        if counts.beyond_depth:
            note(f"{counts.beyond_depth:,} documents beyond --depth were left out.")
        if counts.without_documents:
            note(
                f"{counts.without_documents:,} queries have no candidates and are not in the "
                "result."
            )
        if journal.without_text:
            note(f"{journal.without_text:,} documents have no text and come after the others.")
        if journal.unranked:
            note(f"{journal.unranked:,} queries were refused and keep their order.")
        if self._output.repeated_warnings:
            note(f"{self._output.repeated_warnings:,} repeated warnings are not shown.")
        note(f"Written to {out}.")

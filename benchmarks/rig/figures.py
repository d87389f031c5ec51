"""What was measured, and tables of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median

__all__ = ["Figures", "Target", "table"]


class Figures(dict[str, dict[str, list[float]]]):
    """The figures of all rounds, by what was measured and by client; NaN where there are none."""

    def add(self, what: str, client: str, value: float) -> None:
        """Add a client's figure of one round."""
        self.setdefault(what, {}).setdefault(client, []).append(value)

    def median(self, what: str, client: str) -> float:
        """The median of the rounds."""
        return median(self._rounds(what, client))

    def worst(self, what: str, clients: Iterable[str]) -> float:
        """The largest median among these clients."""
        return max(self.median(what, client) for client in clients)

    def ratio(self, what: str, client: str, other: str) -> float:
        """The median of the rounds' ratios: one client's figure / the other's of the same round."""
        return median(map(truediv, self._rounds(what, client), self._rounds(what, other)))

    def _rounds(self, what: str, client: str) -> list[float]:
        return self.get(what, {}).get(client, [math.nan])

    def table(self, clients: Iterable[str], whats: Sequence[str], beside: str | None = None) -> str:
        """One row per client: its medians, and their ratios to those of the client `beside`."""
        clients = [
            client for client in clients if any(client in self.get(what, {}) for what in whats)
        ]
        head = ["", *(f"{what} | ×" if beside else what for what in whats)]
        return table(head, ([client, *self._row(client, whats, beside)] for client in clients))

    def _row(self, client: str, whats: Sequence[str], beside: str | None) -> Iterable[float]:
        for what in whats:
            yield self.median(what, client)
            if beside:
                yield self.ratio(what, client, beside)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound, and the figure that should keep it; NaN where it could not be measured."""

    what: str
    sign: str
    bound: float
    measured: float

    @property
    def met(self) -> str:
        """Whether the figure keeps the bound."""
        if math.isnan(self.measured):
            return "not measured"
        comparisons = {
            "≤": self.measured <= self.bound,
            "≥": self.measured >= self.bound,
            "=": self.measured == self.bound,
        }
        return "yes" if comparisons[self.sign] else "no"

    @property
    def row(self) -> tuple[str, str, float, str]:
        """The cells of the table of targets."""
        return self.what, f"{self.sign} {self.bound:g}", self.measured, self.met


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(head), *(" | ".join(map(_cell, row)) for row in rows)]
    rule = "|---" * (lines[0].count("|") + 1) + "|"
    return "\n".join([f"| {lines[0]} |", rule, *(f"| {line} |" for line in lines[1:])])


def _cell(value: object) -> str:
    """A number with three significant digits, which is all that it is good for; text unchanged."""
    if not isinstance(value, float | int):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

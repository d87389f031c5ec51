"""What was measured, and how it is told."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

__all__ = ["Figures", "Target", "table"]


class Figures(dict[str, dict[str, list[float]]]):
    """The figures of all rounds, by what was measured and by client. NaN where there is none."""

    def add(self, what: str, client: str, value: float) -> None:
        """Append the client's figure of one round."""
        self.setdefault(what, {}).setdefault(client, []).append(value)

    def rounds(self, what: str, client: str) -> list[float]:
        """All figures of a client."""
        return self.get(what, {}).get(client, [math.nan])

    def median(self, what: str, client: str) -> float:
        """Of all rounds."""
        return median(self.rounds(what, client))

    def ratio(self, what: str, client: str, other: str) -> float:
        """The median of one client's figure over another's of the same round."""
        pairs = zip(self.rounds(what, client), self.rounds(what, other), strict=False)
        return median(mine / other for mine, other in pairs)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and what was."""

    what: str
    sign: str
    bound: float
    measured: float

    @property
    def met(self) -> str:
        """Whether it is reached: yes, no, or that it was not measured."""
        if math.isnan(self.measured):
            return "not measured"
        reached = {
            "≤": self.measured <= self.bound,
            "≥": self.measured >= self.bound,
            "=": self.measured == self.bound,
        }
        return "yes" if reached[self.sign] else "no"

    @property
    def row(self) -> tuple[str, str, str, str]:
        """For the table."""
        return self.what, f"{self.sign} {self.bound:g}", number(self.measured), self.met


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """In Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *([number(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: object) -> str:
    """Three digits, which is more than a benchmark knows; text as it is."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

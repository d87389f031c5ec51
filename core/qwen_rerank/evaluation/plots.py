"""Plots of a report, each with an alternative text that says in words what it shows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    Plot,
    cell_width,
    fit_text,
    new_axes,
    new_panels,
)
from qwen_rerank.evaluation.significance import Comparison
from qwen_rerank.evaluation.tables import format_p
from qwen_rerank.validation import check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axes._secondary_axes import SecondaryAxis

    from qwen_rerank.evaluation.calibrating import Calibration

__all__ = ["RankChanges", "plot_calibration", "plot_gains", "plot_scores"]

_MAX_LABELLED = 60
"""Up to this many queries, each bar has room for the id of its query."""

_MIN_SLOTS = 10
"""With fewer queries than this, the bars are as wide as with this many."""

_MIN_EXTENT = 0.05
"""How far the axis of gains reaches at least, so that rounding does not look like a gain."""

_ID_WIDTH, _NAME_WIDTH, _LABEL_WIDTH = 32, 30, 60
"""The widths, in letters, to which query ids, run names and document labels are cut."""

_LETTER, _TITLE_LETTER = 0.07, 0.09
"""The width of a letter of a label and of a title, in inches: the figure grows with its labels."""

_COLUMN = 2.5
"""The width of a further run, in inches."""


def plot_gains(compared: Sequence[tuple[Comparison, Mapping[str, float]]]) -> Plot:
    """Draw one panel per run, with one bar per query.

    Args:
        compared: For each run, the comparison to describe, and how much each query gains, highest
            first.
    """
    ids = list(compared[0][1])
    is_labelled = len(ids) <= _MAX_LABELLED
    longest = max(cell_width(fit_text(id_, _ID_WIDTH)) for id_ in ids) if is_labelled else 0
    width = max(8.0, 1.2 + 0.16 * len(ids) * is_labelled)
    height = len(compared) * (3.2 + _LETTER * longest)
    with new_panels(len(compared), width, height) as (figure, panels):
        for axes, (comparison, gains) in zip(panels, compared, strict=True):
            _draw_bars(axes, list(gains), list(gains.values()))
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.set_ylabel(f"gain in {comparison.measure}")
            axes.set_title(_title_of_gains(comparison))
        panels[-1].set_xlabel("queries, by gain")
        handles, labels = panels[-1].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return Plot(figure, " ".join(_describe_gains(*each) for each in compared))


def _title_of_gains(comparison: Comparison) -> str:
    run, baseline = (fit_text(name, _NAME_WIDTH) for name in (comparison.run, comparison.baseline))
    return (
        f"{run} compared with {baseline}: mean {comparison.before:.3f} → {comparison.after:.3f}, "
        f"{_equation('p', comparison.p_value)}\n{comparison.better} better, {comparison.same} the "
        f"same, {comparison.worse} worse"
    )


def _equation(name: str, p: float) -> str:
    text = format_p(p)
    return f"{name} < {text[1:]}" if text.startswith("<") else f"{name} = {text}"


def _draw_bars(axes: Axes, query_ids: Sequence[str], values: Sequence[float]) -> None:
    """Draw bars with query ids; with many queries, one area above the axis and one below."""
    is_labelled = len(values) <= _MAX_LABELLED
    positions = range(len(values))
    edges = [position - 0.5 for position in range(len(values) + 1)]
    for label, colour, hatch, heights in (
        ("better", BLUE, "", [max(value, 0.0) for value in values]),
        ("worse", ORANGE, "//", [min(value, 0.0) for value in values]),
    ):
        look: dict[str, Any] = {
            "facecolor": colour,
            "edgecolor": "white",
            "hatch": hatch,
            "label": label,
        }
        if is_labelled:
            axes.bar(positions, heights, width=0.85, **look)
        else:
            axes.stairs(heights, edges, fill=True, linewidth=0, **look)
    labels = [fit_text(query_id, _ID_WIDTH) for query_id in query_ids] if is_labelled else []
    axes.set_xticks(positions[: len(labels)], labels, rotation=90, fontsize=8)
    axes.set_xlim(-0.7, max(len(values), _MIN_SLOTS) - 0.3)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(min(lowest, -_MIN_EXTENT), max(highest, _MIN_EXTENT))


def _describe_gains(comparison: Comparison, gains: Mapping[str, float]) -> str:
    (best_id, most), (worst_id, least) = next(iter(gains.items())), list(gains.items())[-1]
    text = (
        f"One bar per query, {len(gains)} in all, highest first: the gain in {comparison.measure} "
        f"from {comparison.baseline} to {comparison.run}. Queries: {comparison.better} better, "
        f"{comparison.same} the same, {comparison.worse} worse. Mean: {comparison.before:.3f} "
        f"before, {comparison.after:.3f} after, a gain of {comparison.gain:+.3f} with "
        f"{_equation('p', comparison.p_value)}."
    )
    if most > 0:
        text += f" {best_id} gains the most: {most:+.3f}."
    if least < 0:
        text += f" {worst_id} loses the most: {least:+.3f}."
    return text


@dataclass(frozen=True, slots=True)
class _Move:
    """One document: its rank in each run, from 1, or None, and its gain."""

    document_id: str
    ranks: tuple[int | None, ...]
    gain: int

    @property
    def is_relevant(self) -> bool:
        return self.gain > 0


@dataclass(frozen=True, slots=True)
class RankChanges:
    """How the ranks of one query's documents differ between runs.

    Attributes:
        query_id: The id of the query.
        query: Its text, or "".
        rankings: The documents in each run, best first, by the names of the runs; at least two.
        gains: The gains of judged documents.
        labels: What to call documents, by id.
        top: How many of the first documents of each run to show, at least 1.
    """

    query_id: str
    query: str
    rankings: Mapping[str, Collection[str]]
    gains: Mapping[str, int]
    labels: Mapping[str, str]
    top: int

    def plot(self) -> Plot:
        """Draw one line per document, from its rank in the first run to its rank in the last.

        Raises:
            InvalidInputError: No run has a document, or `top` is not an integer of at least 1.
        """
        check_whole("top", self.top, at_least=1)
        moves = self._moves()
        if not moves:
            names = list(self.rankings)
            raise InvalidInputError(
                f"Neither {', '.join(names[:-1])} nor {names[-1]} has a document for "
                f"{self.query_id!r}."
            )
        top = min(self.top, max(map(len, self.rankings.values())))
        lowest = max(max(_line_ends(move, top)) for move in moves)
        longest = max(cell_width(self._label(move)) for move in moves)
        columns = range(len(self.rankings))
        width = max(9.0, 4 + 2 * _LETTER * longest) + _COLUMN * (len(columns) - 2)
        with new_axes(width, 1.4 + 0.3 * lowest) as (figure, axes):
            for move in moves:
                _draw_line(axes, move, top)
            axes.set_ylim(lowest + 0.5, 0.5)
            axes.set_xlim(0, columns[-1])
            axes.set_xticks(columns, [fit_text(name, _NAME_WIDTH) for name in self.rankings])
            axes.tick_params(length=0, labeltop=True, labelbottom=False)
            axes.spines[["left", "bottom"]].set_visible(False)
            # Tick labels rather than texts, so that the layout makes room for them.
            self._label_ranks(axes, {m.ranks[0]: m for m in moves}, top, "{label}  {rank}")
            right = axes.secondary_yaxis("right")
            self._label_ranks(right, {m.ranks[-1]: m for m in moves}, top, "{rank}  {label}")
            title = f"{self.query_id}: {self.query}" if self.query else self.query_id
            title = fit_text(title, int(width / _TITLE_LETTER), self.query_id)
            figure.suptitle(title, x=0.015, ha="left", fontsize=11)
            _draw_legend(axes, top, lowest)
        return Plot(figure, self._describe(moves, top))

    def _moves(self) -> list[_Move]:
        ranks = [
            {id_: rank for rank, id_ in enumerate(ranking, start=1)}
            for ranking in self.rankings.values()
        ]
        shown = dict.fromkeys(id_ for each in reversed(ranks) for id_ in islice(each, self.top))
        return [
            _Move(id_, tuple(each.get(id_) for each in ranks), self.gains.get(id_, 0))
            for id_ in shown
        ]

    def _label_ranks(
        self,
        axes: Axes | SecondaryAxis,
        moves: Mapping[int | None, _Move],
        top: int,
        template: str,
    ) -> None:
        """Label each of the top ranks with its document, in bold if it is relevant."""
        shown = {rank: move for rank, move in moves.items() if rank is not None and rank <= top}
        texts = [template.format(rank=r, label=self._label(m)) for r, m in shown.items()]
        axes.set_yticks(list(shown), texts, fontsize=8)
        axes.tick_params(axis="y", length=0, pad=8)
        axes.spines[["left", "right"]].set_visible(False)
        for tick, move in zip(axes.get_yticklabels(), shown.values(), strict=True):
            tick.set_fontweight("bold" if move.is_relevant else "normal")

    def _label(self, move: _Move) -> str:
        id_ = move.document_id
        label = fit_text(self.labels.get(id_, id_), _LABEL_WIDTH, id_)
        return f"{label} (gain {move.gain})" if move.is_relevant else label

    def _describe(self, moves: Sequence[_Move], top: int) -> str:
        query = f"{self.query_id} ({self.query!r})" if self.query else self.query_id
        relevant = list(self._describe_relevant(moves))
        first, *others = self.rankings
        return (
            f"Lines from the ranks of documents in {first} to their ranks in "
            f"{' and then in '.join(others)}, for query {query} and the documents among the top "
            f"{top} of {'either' if len(others) == 1 else 'any'}. "
            f"Judged relevant: {'; '.join(relevant) or 'none'}. "
            f"{len(moves) - len(relevant)} others are not judged relevant."
        )

    def _describe_relevant(self, moves: Sequence[_Move]) -> Iterator[str]:
        for move in moves:
            if move.is_relevant:
                id_ = move.document_id
                name = f"{id_} ({self.labels[id_]})" if id_ in self.labels else id_
                ranks = " to ".join(str(rank or "unranked") for rank in move.ranks)
                yield f"{name}, gain {move.gain}: from {ranks}"


def _line_ends(move: _Move, top: int) -> list[int]:
    """Return the ranks that the line goes through; one below the top is drawn just below it."""
    return [min(rank or top + 1, top + 1) for rank in move.ranks]


def _draw_line(axes: Axes, move: _Move, top: int) -> None:
    ends = _line_ends(move, top)
    axes.plot(
        range(len(ends)),
        ends,
        color=GREEN if move.is_relevant else GREY,
        linewidth=2.2 if move.is_relevant else 1.0,
        linestyle="solid" if move.is_relevant else "dotted",
        marker="o",
        clip_on=False,
    )
    for column, rank in list(enumerate(ends))[1:-1]:
        if rank <= top:
            axes.annotate(str(rank), (column, rank), (0, 5), textcoords="offset points", fontsize=8)


def _draw_legend(axes: Axes, top: int, lowest: int) -> None:
    text = "solid green: judged relevant, with the gain; dotted grey: not relevant, or not judged"
    if lowest > top:
        text += f"\nat the bottom: below rank {top}, or not in the run"
    axes.text(0.5, -0.01, text, transform=axes.transAxes, ha="center", va="top", fontsize=8)


def plot_calibration(calibration: Calibration) -> Plot:
    """Draw precision and recall by min_score."""
    scores, precision, recall = zip(*calibration.curve, strict=True)
    with new_axes(8, 3.6) as (figure, axes):
        axes.plot(scores, precision, color=GREEN, label="precision: how many kept are relevant")
        axes.plot(
            scores, recall, color=PURPLE, linestyle="--", label="recall: how many relevant are kept"
        )
        axes.axvspan(
            *calibration.min_score_interval,
            color=GREY,
            alpha=0.2,
            linewidth=0,
            label="95% interval",
        )
        chosen = f"min_score={calibration.min_score!r}"
        axes.axvline(calibration.min_score, color=INK, linewidth=1, label=chosen)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("min_score")
        axes.set_title(
            f"{chosen}: precision {calibration.precision:.2f}, recall {calibration.recall:.2f} "
            f"over {calibration.queries} queries"
        )
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return Plot(figure, _describe_calibration(calibration))


def _describe_calibration(calibration: Calibration) -> str:
    low, high = calibration.min_score_interval
    lowest, highest = calibration.curve[-1][0], calibration.curve[0][0]
    return (
        f"Precision and recall by min_score, from {lowest:.3f} to {highest:.3f}. "
        f"min_score={calibration.min_score!r}, chosen for {calibration.criterion}, has a "
        f"precision of {calibration.precision:.3f} and a recall of {calibration.recall:.3f}. "
        f"Its 95% interval is from {low:.3f} to {high:.3f}."
    )


def plot_scores(run: str, relevant: Sequence[float], others: Sequence[float]) -> Plot:
    """Draw two histograms.

    Args:
        run: The name of the run.
        relevant: The scores of documents that are judged relevant.
        others: The scores of all others.

    Raises:
        InvalidInputError: Either has no scores.
    """
    if not relevant or not others:
        raise InvalidInputError(
            f"{run} has {len(relevant)} scores of relevant documents and {len(others)} of others, "
            "so there is nothing to compare.",
            remedy="Choose a run with scores.",
        )
    lowest, highest = min(*relevant, *others), max(*relevant, *others)
    with new_axes(8, 3.6) as (figure, axes):
        for scores, sign, group, colour, hatch in (
            (relevant, 1, "judged relevant", GREEN, ""),
            (others, -1, "not relevant, or not judged", GREY, "//"),
        ):
            axes.hist(
                scores,
                _bin_edges(lowest, highest),
                weights=[sign / len(scores)] * len(scores),
                label=f"{group} ({len(scores)})",
                color=colour,
                edgecolor="white",
                hatch=hatch,
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda share, _: f"{abs(share) * 100:g}%")
        name = fit_text(run, _NAME_WIDTH)
        axes.set_xlabel(f"score in {name}")
        axes.set_ylabel("share of each group")
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
        axes.set_title(
            f"{name}: mean score {fmean(relevant):.3f} of relevant documents, "
            f"{fmean(others):.3f} of others"
        )
    return Plot(figure, _describe_scores(run, relevant, others))


def _bin_edges(lowest: float, highest: float, count: int = 20) -> list[float]:
    step = (highest - lowest) / count or 1.0
    return [lowest + step * index for index in range(count + 1)]


def _describe_scores(run: str, relevant: Sequence[float], others: Sequence[float]) -> str:
    return (
        f"Two histograms of the scores in {run}. {len(relevant)} documents judged relevant score "
        f"between {min(relevant):.3f} and {max(relevant):.3f}, with a median of "
        f"{median(relevant):.3f}. {len(others)} others score between {min(others):.3f} and "
        f"{max(others):.3f}, with a median of {median(others):.3f}. In "
        f"{_share_ranked_right(relevant, others):.0%} of all pairs of a relevant document and "
        "another, the relevant one has the higher score."
    )


def _share_ranked_right(relevant: Sequence[float], others: Sequence[float]) -> float:
    """Return the share of pairs in which the relevant document scores higher (the AUC).

    A pair with equal scores counts half.
    """
    ordered = sorted(others)
    below = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in relevant)
    return below / 2 / (len(relevant) * len(ordered))

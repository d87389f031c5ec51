"""A report in pictures, each of which can say in words what it shows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.drawing import BLUE, GREY, INK, ORANGE, Plot, axes_of, drawable
from qwen_rerank.evaluation.tables import p_value
from qwen_rerank.validation import check_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axes._secondary_axes import SecondaryAxis

    from qwen_rerank.evaluation.report import Comparison, Report

__all__ = ["gains", "ranks", "scores"]

_NAMED = 40
"""With more queries than these, a bar has no room for its query's id."""

_FEWEST = 10
"""With fewer queries than these, bars are no wider than with so many."""

_LEAST = 0.05
"""What the axis of gains reaches at least, so that rounding does not look like a gain."""

_ID, _NAME, _LABEL, _TITLE = 14, 22, 36, 100
"""The widths in letters of a query's id, a run's name, a document and a title, of which what is
wider is cut; a Chinese character is two."""


def gains(report: Report, found: Comparison) -> Plot:
    """See `Report.plot_gains`."""
    by_query = report.gains(found.measure, found.run, found.baseline)
    values = list(by_query.values())
    with axes_of(8, 3.6) as (figure, axes):
        _bars(axes, list(by_query), values)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_ylabel(f"gain in {found.measure}")
        axes.set_xlabel("queries, by gain")
        run, baseline = (drawable(name, _NAME) for name in (found.run, found.baseline))
        axes.set_title(
            f"{run} beside {baseline}: {found.better} better, {found.same} the same, "
            f"{found.worse} worse"
        )
    return Plot(figure, _words_of_gains(found, by_query))


def _bars(axes: Axes, query_ids: Sequence[str], values: Sequence[float]) -> None:
    """Bars with names; of many queries, one area above the line and one below."""
    are_named = len(values) <= _NAMED
    places = range(len(values))
    edges = [place - 0.5 for place in range(len(values) + 1)]
    for colour, hatch, shown in (
        (BLUE, "", [max(value, 0.0) for value in values]),
        (ORANGE, "//", [min(value, 0.0) for value in values]),
    ):
        look: dict[str, Any] = {"facecolor": colour, "edgecolor": "white", "hatch": hatch}
        if are_named:
            axes.bar(places, shown, width=0.85, **look)
        else:
            axes.stairs(shown, edges, fill=True, linewidth=0, **look)
    names = [drawable(query_id, _ID) for query_id in query_ids] if are_named else []
    axes.set_xticks(places[: len(names)], names, rotation=90, fontsize=8)
    axes.set_xlim(-0.7, max(len(values), _FEWEST) - 0.3)
    lowest, highest = axes.get_ylim()
    axes.set_ylim(min(lowest, -_LEAST), max(highest, _LEAST))


def _words_of_gains(found: Comparison, by_query: Mapping[str, float]) -> str:
    best, worst = next(iter(by_query.items())), list(by_query.items())[-1]
    words = (
        f"A bar a query, {len(by_query)} in all: how much {found.measure} gains from "
        f"{found.baseline} to {found.run}, highest first. Better {found.better}, "
        f"the same {found.same}, worse {found.worse}. The mean goes from {found.before:.3f} to "
        f"{found.after:.3f}, {found.gain:+.3f}, p {_equals(found.p_value)}."
    )
    if best[1] > 0:
        words += f" The most is gained by {best[0]}: {best[1]:+.3f}."
    if worst[1] < 0:
        words += f" The most is lost by {worst[0]}: {worst[1]:+.3f}."
    return words


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


@dataclass(frozen=True, slots=True)
class _Move:
    """One document: its places before and after, from 1, or None, and its gain."""

    id: str
    before: int | None
    after: int | None
    gain: int


def ranks(
    report: Report,
    query_id: str,
    baseline: str,
    run: str,
    labels: Mapping[str, str],
    top: int,
) -> Plot:
    """See `Report.plot_ranks`."""
    check_whole("top", top, at_least=1)
    moves = _moves(report, query_id, baseline, run, top)
    if not moves:
        raise InvalidInputError(f"Neither {baseline} nor {run} found anything for {query_id!r}.")
    top = min(top, max(len(report.runs[name].get(query_id, ())) for name in (baseline, run)))
    lowest = max(max(_ends(move, top)) for move in moves)
    with axes_of(9, 1.4 + 0.3 * lowest) as (figure, axes):
        for move in moves:
            _line(axes, move, top)
        axes.set_ylim(lowest + 0.5, 0.5)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 1], [drawable(name, _NAME) for name in (baseline, run)])
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        # Ticks, not texts, so that the layout makes room for them.
        _name(axes, {m.before: m for m in moves}, top, labels, "{called}  {place}")
        right = axes.secondary_yaxis("right")
        _name(right, {m.after: m for m in moves}, top, labels, "{place}  {called}")
        title = f"{query_id}: {report.queries[query_id]}" if report.queries[query_id] else query_id
        figure.suptitle(drawable(title, _TITLE, query_id), x=0.015, ha="left", fontsize=11)
        _legend(axes, top, lowest)
    return Plot(figure, _words_of_moves(report, query_id, baseline, run, moves, labels, top))


def _moves(report: Report, query_id: str, baseline: str, run: str, top: int) -> list[_Move]:
    before, after = (
        {id_: place for place, id_ in enumerate(report.runs[name].get(query_id, {}), start=1)}
        for name in (baseline, run)
    )
    shown = dict.fromkeys((*islice(after, top), *islice(before, top)))
    gained = report.judgements[query_id]
    return [_Move(id_, before.get(id_), after.get(id_), gained.get(id_, 0)) for id_ in shown]


def _ends(move: _Move, top: int) -> list[int]:
    """Where its line begins and ends: below the first ones where it is not among them."""
    return [min(place or top + 1, top + 1) for place in (move.before, move.after)]


def _line(axes: Axes, move: _Move, top: int) -> None:
    is_relevant = move.gain > 0
    colour, width = (BLUE, 2.2) if is_relevant else (GREY, 1.0)
    style = "solid" if is_relevant else "dotted"
    axes.plot(
        [0, 1],
        _ends(move, top),
        color=colour,
        linewidth=width,
        linestyle=style,
        marker="o",
        clip_on=False,
    )


def _legend(axes: Axes, top: int, lowest: int) -> None:
    text = "solid and blue: judged relevant, with the gain; dotted: not"
    if lowest > top:
        text += f"\nat the bottom: below place {top}, or not there"
    axes.text(0.5, -0.01, text, transform=axes.transAxes, ha="center", va="top", fontsize=8)


def _name(
    axes: Axes | SecondaryAxis,
    at: Mapping[int | None, _Move],
    top: int,
    labels: Mapping[str, str],
    form: str,
) -> None:
    """Write at each of the first places which document is there; in bold if it is relevant."""
    here = {place: move for place, move in at.items() if place is not None and place <= top}
    texts = [form.format(place=p, called=_called(m, labels)) for p, m in here.items()]
    axes.set_yticks(list(here), texts, fontsize=8)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines[["left", "right"]].set_visible(False)
    for tick, move in zip(axes.get_yticklabels(), here.values(), strict=True):
        tick.set_fontweight("bold" if move.gain > 0 else "normal")


def _called(move: _Move, labels: Mapping[str, str]) -> str:
    label = drawable(labels.get(move.id, move.id), _LABEL, move.id)
    return f"{label} (gain {move.gain})" if move.gain > 0 else label


def _words_of_moves(
    report: Report,
    query_id: str,
    baseline: str,
    run: str,
    moves: Sequence[_Move],
    labels: Mapping[str, str],
    top: int,
) -> str:
    def name(move: _Move) -> str:
        return f"{move.id} ({labels[move.id]})" if move.id in labels else move.id

    def went(move: _Move) -> str:
        before, after = (place or "nowhere" for place in (move.before, move.after))
        return f"{name(move)}, gain {move.gain}: from {before} to {after}"

    text = report.queries[query_id]
    relevant = [went(move) for move in moves if move.gain > 0]
    others = len(moves) - len(relevant)
    return (
        f"Lines from the places of documents in {baseline} to those in {run} for the query "
        f"{query_id}{f', {text!r}' if text else ''}, for those among the first {top} of either. "
        + (
            f"Judged relevant: {'; '.join(relevant)}."
            if relevant
            else "None of them was judged relevant."
        )
        + f" {others} others are not judged relevant."
    )


def scores(report: Report, run: str) -> Plot:
    """See `Report.plot_scores`."""
    relevant, others = _by_relevance(report, run)
    if not relevant or not others:
        raise InvalidInputError(
            f"{run} has {len(relevant)} scores of relevant documents and {len(others)} of others: "
            "there is nothing to compare.",
            remedy="Choose a run with scores.",
        )
    lowest, highest = min(*relevant, *others), max(*relevant, *others)
    with axes_of(8, 3.6) as (figure, axes):
        for values, up, name, colour, hatch in (
            (relevant, 1, "judged relevant", BLUE, ""),
            (others, -1, "not relevant, or not judged", ORANGE, "//"),
        ):
            axes.hist(
                values,
                _bins(lowest, highest),
                weights=[up / len(values)] * len(values),
                label=f"{name} ({len(values)})",
                color=colour,
                edgecolor="white",
                hatch=hatch,
            )
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda share, _: f"{abs(share) * 100:g}%")
        name = drawable(run, _NAME)
        axes.set_xlabel(f"score of {name}")
        axes.set_ylabel("share of each kind")
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
        axes.set_title(f"{name}: scores of relevant documents and of others")
    return Plot(figure, _words_of_scores(run, relevant, others))


def _by_relevance(report: Report, run: str) -> tuple[list[float], list[float]]:
    parted: tuple[list[float], list[float]] = ([], [])
    for query_id, ranking in report.runs[run].items():
        gained = report.judgements[query_id]
        for document_id, score in ranking.items():
            if score is not None:
                parted[gained.get(document_id, 0) <= 0].append(score)
    return parted


def _bins(lowest: float, highest: float, count: int = 20) -> list[float]:
    step = (highest - lowest) / count or 1.0
    return [lowest + step * place for place in range(count + 1)]


def _words_of_scores(run: str, relevant: Sequence[float], others: Sequence[float]) -> str:
    return (
        f"Two histograms of the scores of {run}: of {len(relevant)} documents that were judged "
        f"relevant, between {min(relevant):.3f} and {max(relevant):.3f}, half of them above "
        f"{median(relevant):.3f}; and of {len(others)} others, between {min(others):.3f} and "
        f"{max(others):.3f}, half of them above {median(others):.3f}. Of two documents, one of "
        f"each, the relevant one has the higher score in {_share_above(relevant, others):.0%} of "
        "the cases."
    )


def _share_above(relevant: Sequence[float], others: Sequence[float]) -> float:
    """The share of pairs whose relevant document scores higher, equal ones by half: the AUC."""
    ordered = sorted(others)
    below = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in relevant)
    return below / 2 / (len(relevant) * len(ordered))

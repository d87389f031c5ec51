"""A report as a table: text for a terminal, HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Literal

from qwen_rerank.evaluation.packages import needed

if TYPE_CHECKING:
    from rich.table import Table

    from qwen_rerank.evaluation.report import Comparison, Report

__all__ = ["COLUMNS", "as_html", "as_text", "caption", "p_value", "rows", "table"]

COLUMNS = ("measure", "run", "mean", "gain", "p", "better", "same", "worse")

_WORDS = 2
"""How many of the columns hold words, to the left; numbers stand to the right."""

Row = tuple[str, ...]


def rows(report: Report) -> Iterator[Sequence[Row]]:
    """For each measure the rows of all runs, the first run's first."""
    baseline, *others = report.runs
    for measure in report.measures:
        first = (measure, baseline, f"{report.mean(measure, baseline):.3f}", "", "", "", "", "")
        yield [first, *(_row(report.comparison(measure, run, baseline)) for run in others)]


def _row(found: Comparison) -> Row:
    counts = map(str, (found.better, found.same, found.worse))
    gain = f"{found.gain:+.3f}"
    return ("", found.run, f"{found.after:.3f}", gain, p_value(found.p_value), *counts)


def _side(place: int) -> Literal["left", "right"]:
    return "left" if place < _WORDS else "right"


def p_value(p: float) -> str:
    """The p-value as it is printed: what is below 0.001 says little more exactly."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def caption(report: Report) -> Iterator[str]:
    """What stands below the table, a sentence each."""
    count = len(report.queries)
    yield f"Means over {count} {'query' if count == 1 else 'queries'}."
    if len(report.runs) > 1:
        baseline, *others = report.runs
        yield (
            f"gain, better, same, worse: beside {baseline}, by query. p: two-sided paired "
            "randomisation test."
        )
        if len(others) * len(report.measures) > 1:
            yield "p is not corrected for the number of comparisons."
    yield from report.notes


def table(*columns: tuple[str, Literal["left", "right"]]) -> Table:
    """An empty table with these heads, whose columns are to the left or to the right."""
    rich_table, box = (needed(module, "A table") for module in ("rich.table", "rich.box"))
    shown: Table = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head, side in columns:
        shown.add_column(head, justify=side, no_wrap=True)
    return shown


def as_text(report: Report) -> str:
    """The table in plain text, without colours."""
    console_module = needed("rich.console", "A table")
    shown = table(*((column, _side(place)) for place, column in enumerate(COLUMNS)))
    for of_measure in rows(report):
        for row in of_measure:
            shown.add_row(*row, end_section=row is of_measure[-1])
    console = console_module.Console(
        width=200,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
    )
    with console.capture() as captured:
        console.print(shown)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, *caption(report)])


def as_html(report: Report) -> str:
    """The table in HTML without colours, so that it has those of the page."""
    head = _cells("th", COLUMNS)
    body = "".join(_cells("td", row) for of_measure in rows(report) for row in of_measure)
    notes = "".join(f"<p>{escape(sentence)}</p>" for sentence in caption(report))
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{notes}"


def _cells(tag: str, row: Row) -> str:
    cells = (
        f'<{tag} style="text-align: {_side(place)}">{escape(cell)}</{tag}>'
        for place, cell in enumerate(row)
    )
    return f"<tr>{''.join(cells)}</tr>"

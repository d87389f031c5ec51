"""Tables of a report, as plain text and as HTML, and empty ones for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

from qwen_rerank.evaluation.packages import import_optional
from qwen_rerank.evaluation.significance import Comparison

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "COLUMNS",
    "Row",
    "as_html",
    "as_text",
    "baseline_row",
    "caption",
    "comparison_row",
    "empty_table",
    "format_p",
]

COLUMNS = ("measure", "run", "mean", "gain", "p", "better", "same", "worse")
"""The columns of a report."""

_TEXT_COLUMNS = 2
"""How many of the columns, from the left, hold text, which is aligned left; numbers, right."""

Row: TypeAlias = tuple[str, ...]
"""The cells of one row."""


def baseline_row(measure: str, run: str, mean: float) -> Row:
    """Return the first row of a measure: the run that the others are compared with."""
    return (measure, run, f"{mean:.3f}", "", "", "", "", "")


def comparison_row(comparison: Comparison) -> Row:
    """Return the row of another run, below the first row of its measure."""
    return (
        "",
        comparison.run,
        f"{comparison.after:.3f}",
        f"{comparison.gain:+.3f}",
        format_p(comparison.p_value),
        str(comparison.better),
        str(comparison.same),
        str(comparison.worse),
    )


def format_p(p: float) -> str:
    """Format a p-value to three decimals: more digits would say little."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def caption(
    runs: Sequence[str], *, queries: int, measures: int, notes: Sequence[str]
) -> Iterator[str]:
    """Yield the sentences below a report's table.

    Args:
        runs: The names of the runs; the others are compared with the first.
        queries: How many queries were measured.
        measures: How many measures there are.
        notes: The report's notes.
    """
    baseline, *others = runs
    yield f"Means over {queries} {'query' if queries == 1 else 'queries'}."
    if others:
        yield f"gain, better, same, worse: compared with {baseline}, per query."
        is_multiple = len(others) * measures > 1
        correction = ", not corrected for multiple comparisons" if is_multiple else ""
        yield f"p: two-sided paired randomisation test{correction}."
    yield from notes


def _alignment(column: int) -> Literal["left", "right"]:
    return "left" if column < _TEXT_COLUMNS else "right"


def empty_table(*columns: tuple[str, Literal["left", "right"]]) -> Table:
    """Return a table without rows.

    Args:
        columns: The heading and the alignment of each column.
    """
    rich_table, box = (import_optional(module, "A table") for module in ("rich.table", "rich.box"))
    table: Table = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading, alignment in columns:
        table.add_column(heading, justify=alignment, no_wrap=True)
    return table


def as_text(sections: Sequence[Sequence[Row]], sentences: Sequence[str]) -> str:
    """Return a report's table as plain text, without colours.

    Args:
        sections: The rows of each measure.
        sentences: The caption.
    """
    table = empty_table(*((heading, _alignment(column)) for column, heading in enumerate(COLUMNS)))
    for rows in sections:
        for row in rows:
            table.add_row(*row, end_section=row is rows[-1])
    console = import_optional("rich.console", "A table").Console(
        width=200,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
    )
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, *sentences])


def as_html(sections: Sequence[Sequence[Row]], sentences: Sequence[str]) -> str:
    """Return a report's table as HTML without colours, so that it has the page's colours.

    Args:
        sections: The rows of each measure.
        sentences: The caption.
    """
    head = _html_row("th", COLUMNS)
    body = "".join(_html_row("td", row) for rows in sections for row in rows)
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>{paragraphs}"


def _html_row(tag: str, row: Row) -> str:
    cells = (
        f'<{tag} style="text-align: {_alignment(column)}">{escape(cell)}</{tag}>'
        for column, cell in enumerate(row)
    )
    return f"<tr>{''.join(cells)}</tr>"

"""Print what the examples do: times, rankings before and after, nDCG, and cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qwen_rerank.evaluation import Report, compare, perfect

if TYPE_CHECKING:
    from qwen_rerank import Usage
    from qwen_rerank.testing import HelpCentre

ScoresById: TypeAlias = dict[str, float]
"""Scores by passage id, best first."""

Rankings: TypeAlias = Mapping[str, ScoresById]
"""The ranking of each query, by query id."""


class Comparison(NamedTuple):
    """The rankings without and with reranking."""

    before: Rankings
    after: Rankings


console = Console(
    width=None if sys.stdout.isatty() else 100,
    force_terminal=sys.stdout.isatty(),
    force_jupyter=False,
    highlight=False,
    markup=False,
    emoji=False,
)

MEASURE = "nDCG@10"
SHOWN = 3
WIDEST = 46
LANGUAGES = {"en": "English", "zh": "Chinese"}

EXPLANATION = """
nDCG@10 is 1 for the ideal order of the whole corpus; "at best" is the ideal order of the retrieved
passages. p is the probability of such a difference by chance (randomisation test). Nearly half of
the relevant passages are in the other language. Each framework has its own keyword search."""

OFFLINE = """{usage}, offline.
That is not a Qwen model. To see one:
  DASHSCOPE_API_KEY=sk-... make quickstart
  .venv/bin/pip install --editable ".[local]"
  make quickstart ARGS="--local Qwen/Qwen3-Reranker-0.6B"
What it gives can't be measured without a key or weights. Its authors report, on other data: over
the top 100 of Qwen3-Embedding-0.6B, Qwen3-Reranker-0.6B raises MTEB-R, which is English retrieval,
from 61.82 to 65.80, and Qwen3-Reranker-4B to 69.76 (arXiv 2506.05176, table 4)."""

MODEL = """{usage}.
To use another model: make quickstart ARGS="--model NAME\""""


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Print how long the step took; on a terminal, also name it when it starts."""
    if console.is_terminal:
        console.print(f"{'…':>10}  {step}", end="\r")
    start = time.perf_counter()
    yield
    console.print(f"{time.perf_counter() - start:8.2f} s  {step}")


def show_heading(text: str) -> None:
    """Print a heading."""
    console.print()
    console.rule(text)


def show_sides(
    centre: HelpCentre,
    question: str,
    before: Iterable[str],
    after: Iterable[str],
    answers: Container[str],
) -> None:
    """Print the first passages without and with reranking, and mark those that answer."""

    def title(passage_id: str) -> Text:
        mark = "✓" if passage_id in answers else " "
        shown = f"{mark} {centre.passages[passage_id].title}"
        return Text(shown, no_wrap=True, overflow="ellipsis")

    table = _table(["", "BM25 and vectors", "reranked"])
    for rank, (old, new) in enumerate(islice(zip(before, after, strict=True), SHOWN), 1):
        table.add_row(str(rank), title(old), title(new))
    console.print(f"{question}\n", style="bold")
    console.print(table)
    console.print("✓ answers the question")


def show_ndcg(centre: HelpCentre, comparisons: Mapping[str, Comparison], language: str) -> None:
    """Print the mean nDCG@10 of each framework without and with reranking, by query language."""
    languages = sorted(LANGUAGES, key=language.__ne__)
    table = _table(["framework", "language"], ["queries", "retrieved", "reranked", "p", "at best"])
    for framework, comparison in comparisons.items():
        report = measured(centre, comparison)
        for shown in (*languages, "all"):
            wanted = [q.id for q in centre.queries.values() if shown in (q.language, "all")]
            part = report.only(wanted)
            before, after, best = (f"{part.mean(MEASURE, run):.3f}" for run in part.runs)
            p = f"{part.comparison(MEASURE, 'reranked').p_value:.3f}"
            table.add_row(
                framework,
                shown,
                str(len(wanted)),
                before,
                after,
                p,
                best,
                end_section=shown == "all",
            )
    console.print(f"Mean {MEASURE}", table, EXPLANATION, sep="\n")


def show_worst(centre: HelpCentre, comparison: Comparison, language: str) -> None:
    """Print the query in this language that loses most."""
    values = measured(centre, comparison).values
    old, new = (values[run][MEASURE] for run in ("retrieved", "reranked"))
    own = [query for query in centre.queries.values() if query.language == language]
    worst = min(own, key=lambda query: new[query.id] - old[query.id])
    before, after = old[worst.id], new[worst.id]
    console.print(
        f"Of {len(own)} queries in {LANGUAGES[language]}, this one loses most: "
        f"{worst.id}, {MEASURE} {before:.3f} → {after:.3f}\n"
        if after < before
        else f"None of {len(own)} queries in {LANGUAGES[language]} loses. This one gains least:\n"
    )
    answers = {id_ for id_, gain in centre.gains[worst.id].items() if gain == 3}
    first, second = (list(rankings[worst.id]) for rankings in comparison)
    show_sides(centre, worst.text, first, second, answers)


def show_scorer(model: str, usage: Usage) -> None:
    """Print the model, what scoring cost, and how to choose another."""
    words = f"{usage.texts_sent} texts scored in {usage.seconds:.2f} s by {model}"
    if usage.requests:
        words += f": {usage.requests} requests, {usage.tokens:,} tokens billed"
    text = OFFLINE if model.startswith("embedded") else MODEL
    console.print(text.format(usage=words))


def measured(centre: HelpCentre, comparison: Comparison) -> Report:
    """Measure both rankings, and the order that a perfect reranker would give."""
    best = perfect(comparison.before, centre.gains)
    runs = {"retrieved": comparison.before, "reranked": comparison.after, "at best": best}
    return compare(runs, centre.gains, measures=[MEASURE])


def _table(left: Iterable[str], right: Iterable[str] = ()) -> Table:
    """A table with these columns, aligned to the left or to the right."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in left:
        table.add_column(column, no_wrap=True, max_width=WIDEST)
    for column in right:
        table.add_column(column, no_wrap=True, justify="right")
    return table

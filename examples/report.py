"""Print what the examples do: times, rankings before and after, nDCG, and cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from qwen_rerank.evaluation import Report, compare, perfect

if TYPE_CHECKING:
    from helpcentre import HelpCentre
    from qwen_rerank import Usage

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

OFFLINE = """
Scorer: {model}, offline, not a Qwen model. To see these queries with one:
  DASHSCOPE_API_KEY=sk-... make quickstart
  .venv/bin/pip install --editable ".[local]"
  make quickstart ARGS="--local Qwen/Qwen3-Reranker-0.6B"
What it gives can't be measured without a key or weights. Its authors report, on other data: over
the top 100 of Qwen3-Embedding-0.6B, Qwen3-Reranker-0.6B raises MTEB-R, which is English retrieval,
from 61.82 to 65.80, and Qwen3-Reranker-4B to 69.76 (arXiv 2506.05176, table 4)."""

MODEL = """
Scorer: {model}. To use another: make quickstart ARGS="--model NAME\""""

ORDERS = """
Two queries that gain, chosen by hand; one that loses is at the end.
now, was    the rank with and without reranking; the first stage is BM25 and vectors, fused by rank
relevance   the reranker's score
gain        the judgement: 3 answers the query, 2 answers a part of it, 1 is related"""

MEASURE = "nDCG@10"

EXPLANATION = """
nDCG@10 is 1 for the ideal order of the whole corpus. "at best" is the ideal order of the retrieved
passages, the most that reranking can reach. p is the probability of such a difference by chance
(randomisation test). Nearly half of the relevant passages are in the other language. The frameworks
differ because each has its own keyword search."""


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


def show_scorer(model: str) -> None:
    """Print the scorer, how to choose another, and how to read the rankings."""
    text = OFFLINE if model.startswith("embedded") else MODEL
    console.print(text.format(model=model), ORDERS, sep="\n")


def show_orders(centre: HelpCentre, query_id: str, comparison: Comparison) -> None:
    """Print the passages that are in the top three with or without reranking."""
    before, after = (rankings[query_id] for rankings in comparison)
    was, now = ranks(before), ranks(after)
    table = _table("now", "was", "relevance", "gain", "passage")
    for passage_id, relevance in after.items():
        if now[passage_id] <= 3 or was[passage_id] <= 3:
            title = f"{passage_id}  {centre.passages[passage_id].title}"
            table.add_row(
                str(now[passage_id]),
                str(was[passage_id]),
                f"{relevance:.3f}",
                str(centre.gains[query_id].get(passage_id, "")),
                Text(title, justify="left", no_wrap=True, overflow="ellipsis"),
            )
    values = measured(centre, comparison).values
    old, new = (values[run][MEASURE][query_id] for run in ("retrieved", "reranked"))
    console.print(f"\n{centre.queries[query_id].text}", style="bold")
    console.print(f"{query_id}, {MEASURE} {old:.3f} → {new:.3f}", table, sep="\n")


def show_ndcg(centre: HelpCentre, comparisons: Mapping[str, Comparison], language: str) -> None:
    """Print the mean nDCG@10 of each framework without and with reranking, by query language."""
    others = sorted({query.language for query in centre.queries.values()} - {language})
    table = _table("framework", "language", "queries", "retrieved", "reranked", "p", "at best")
    for framework, comparison in comparisons.items():
        report = measured(centre, comparison)
        for shown in (language, *others, "all"):
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
    console.print(f"\n{MEASURE}", table, EXPLANATION, sep="\n")


def show_cost(usage: Usage) -> None:
    """Print what scoring cost."""
    sent = f"{usage.requests} requests, {usage.tokens:,} tokens billed"
    console.print(
        f"\nScored {usage.texts_sent} texts in {usage.seconds:.2f} s: "
        f"{sent if usage.requests else 'nothing sent'}."
    )


def measured(centre: HelpCentre, comparison: Comparison) -> Report:
    """Measure both rankings, and the order that a perfect reranker would give."""
    best = perfect(comparison.before, centre.gains)
    runs = {"retrieved": comparison.before, "reranked": comparison.after, "at best": best}
    return compare(runs, centre.gains, measures=[MEASURE])


def ranks(ranking: ScoresById) -> dict[str, int]:
    """Return the rank of each passage, from 1."""
    return {passage_id: rank for rank, passage_id in enumerate(ranking, start=1)}


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify: JustifyMethod = (
            "left" if column in ("passage", "framework", "language") else "right"
        )
        table.add_column(column, justify=justify, no_wrap=column != "passage")
    return table

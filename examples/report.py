"""How the examples show what they did: times, orders before and after, nDCG, cost."""

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
"""Passage ids and their scores, best first."""

Rankings: TypeAlias = Mapping[str, ScoresById]
"""The ranking for each query, by the query's id."""


class Comparison(NamedTuple):
    """The rankings of the first stage alone, and with the reranker behind it."""

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
Scorer: embedded, offline and no Qwen model. With one: DASHSCOPE_API_KEY=sk-... make quickstart
It goes mostly by the words that query and passage share: a help to some queries, not to others."""

ONLINE = """
Scorer: {model}, by DashScope. By another: make quickstart ARGS="--model qwen3-rerank\""""

ORDERS = """
now, was               the place with the reranker, and that without it
relevance, retrieval   the reranker's score, and the cosine of the word vectors
gain                   how it was judged: 3 answers the query, 2 a part of it, 1 is related"""

MEASURE = "nDCG@10"

EXPLANATION = """
nDCG@10 is 1 for the ideal order of the whole corpus; "at best" is that of the passages retrieved,
the most that reranking can reach. Nearly half of the relevant passages are in the other language
than their query, where word vectors find next to nothing."""


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Say how long the step took, once it is done; on a terminal, name it when it starts."""
    if console.is_terminal:
        console.print(f"{'…':>10}  {step}", end="\r")
    start = time.perf_counter()
    yield
    console.print(f"{time.perf_counter() - start:8.2f} s  {step}")


def show_heading(text: str) -> None:
    """Print a line with a text in it."""
    console.print()
    console.rule(text)


def show_scorer(model: str) -> None:
    """Print which scorer it is, how to have another, and how to read the orders."""
    console.print(OFFLINE if model == "embedded" else ONLINE.format(model=model), ORDERS, sep="\n")


def show_orders(centre: HelpCentre, query_id: str, comparison: Comparison) -> None:
    """Print which passages are the first three now, and which were before reranking."""
    before, after = (rankings[query_id] for rankings in comparison)
    was, now = places(before), places(after)
    table = _table("now", "was", "relevance", "retrieval", "gain", "passage")
    for passage_id, relevance in after.items():
        if now[passage_id] <= 3 or was[passage_id] <= 3:
            title = f"{passage_id}  {centre.passages[passage_id].title}"
            table.add_row(
                str(now[passage_id]),
                str(was[passage_id]),
                f"{relevance:.3f}",
                f"{before[passage_id]:.3f}",
                str(centre.gains[query_id].get(passage_id, "")),
                Text(title, justify="left", no_wrap=True, overflow="ellipsis"),
            )
    values = measured(centre, comparison).values
    old, new = (values[run][MEASURE][query_id] for run in ("retrieved", "reranked"))
    console.print(f"\n{centre.queries[query_id].text}", style="bold")
    console.print(f"{query_id}, {MEASURE} {old:.3f} → {new:.3f}", table, sep="\n")


def show_ndcg(centre: HelpCentre, comparisons: Mapping[str, Comparison]) -> None:
    """Print each framework's mean nDCG@10 without and with reranking, by the query's language."""
    table = _table("framework", "language", "queries", "retrieved", "reranked", "at best")
    for framework, comparison in comparisons.items():
        report = measured(centre, comparison)
        for language in ("en", "zh", "all"):
            wanted = [q.id for q in centre.queries.values() if language in (q.language, "all")]
            part = report.only(wanted)
            table.add_row(
                framework,
                language,
                str(len(wanted)),
                *(f"{part.mean(MEASURE, run):.3f}" for run in part.runs),
                end_section=language == "all",
            )
    console.print(f"\n{MEASURE}", table, EXPLANATION, sep="\n")


def show_cost(usage: Usage) -> None:
    """Print what the scoring cost."""
    sent = f"{usage.requests} requests, {usage.tokens:,} tokens billed"
    console.print(
        f"\nScored {usage.texts_sent} texts in {usage.seconds:.2f} s: "
        f"{sent if usage.requests else 'nothing sent'}."
    )


def measured(centre: HelpCentre, comparison: Comparison) -> Report:
    """Both stages, and the passages retrieved as a perfect reranker would order them."""
    best = perfect(comparison.before, centre.gains)
    runs = {"retrieved": comparison.before, "reranked": comparison.after, "at best": best}
    return compare(runs, centre.gains, measures=[MEASURE])


def places(ranking: ScoresById) -> dict[str, int]:
    """The place of each passage, from 1."""
    return {passage_id: place for place, passage_id in enumerate(ranking, start=1)}


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify: JustifyMethod = (
            "left" if column in ("passage", "framework", "language") else "right"
        )
        table.add_column(column, justify=justify, no_wrap=column != "passage")
    return table

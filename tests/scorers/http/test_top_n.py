"""Asking the service for the best results only, and what counts as a complete response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from qwen_rerank import BadResponseError, DashScopeScorer, Limits, Scores, ServerScorer
from qwen_rerank.testing.faults import edits
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.servers import MODEL, SERVERS

TEXTS = [f"score=0.{digit}" for digit in (2, 9, 5, 7)]

ScoreTop = Callable[[Any, str, list[str], int], Scores]


@pytest.fixture(params=["score_top", "ascore_top"])
def score_top(request: pytest.FixtureRequest) -> ScoreTop:
    """Both ways to score the best texts."""
    if request.param == "score_top":
        return DashScopeScorer.score_top
    return lambda scorer, *arguments: asyncio.run(scorer.ascore_top(*arguments))


def test_the_service_is_asked_for_the_best_only(
    dashscope: LoopbackDashScope, score_top: ScoreTop
) -> None:
    scores = score_top(DashScopeScorer(), "q", TEXTS, 2)
    assert (scores.values, scores.indices) == ([0.9, 0.7], [1, 3])
    assert dashscope.received[0].parameters["top_n"] == 2
    assert (scores.usage.requests, scores.usage.texts_sent) == (1, 4)


@pytest.mark.parametrize("top_n", [4, 5])
def test_as_many_as_there_are_texts_are_all_of_them(
    dashscope: LoopbackDashScope, score_top: ScoreTop, top_n: int
) -> None:
    scores = score_top(DashScopeScorer(), "q", TEXTS, top_n)
    assert (scores.values, scores.indices) == ([0.2, 0.9, 0.5, 0.7], None)
    assert "top_n" not in dashscope.received[0].parameters


def test_several_requests_return_every_score(
    dashscope: LoopbackDashScope, score_top: ScoreTop
) -> None:
    scores = score_top(DashScopeScorer(limits=Limits(documents=2)), "q", TEXTS, 1)
    assert (scores.values, scores.indices) == ([0.2, 0.9, 0.5, 0.7], None)
    assert not any("top_n" in request.parameters for request in dashscope.received)


def test_score_never_asks_for_fewer(dashscope: LoopbackDashScope) -> None:
    DashScopeScorer().score("q", TEXTS)
    assert "top_n" not in dashscope.received[0].parameters


@pytest.mark.parametrize(
    ("edit", "naming"),
    [
        (list.pop, "1 scores for 4 documents"),
        (lambda results: results.append({"index": 0, "relevance_score": 0.1}), "3 scores for 4"),
        (lambda results: results[1].update(index=1), "1 repeated"),
        (lambda results: results[1].update(index=4), "1 of documents that were not sent"),
        (lambda results: results[1].update(index=-1), "1 of documents that were not sent"),
        (list.reverse, "2 scores for 4 documents"),
    ],
    ids=["too few", "too many", "repeated", "index 4", "index -1", "worst first"],
)
def test_what_is_not_exactly_the_best_is_refused(
    dashscope: LoopbackDashScope, edit: Callable[[list[Any]], object], naming: str
) -> None:
    def edits_the_best(results: list[Any]) -> None:
        del results[2:]
        edit(results)

    dashscope.faults.append(edits(edits_the_best))
    with pytest.raises(BadResponseError, match=naming):
        DashScopeScorer().score_top("q", TEXTS, 2)


def test_a_full_ranking_is_accepted_too(dashscope: LoopbackDashScope, score_top: ScoreTop) -> None:
    def adds_the_rest(results: list[Any]) -> None:
        results += [{"index": 2, "relevance_score": 0.5}, {"index": 0, "relevance_score": 0.2}]

    dashscope.faults.append(edits(adds_the_rest))
    scores = score_top(DashScopeScorer(), "q", TEXTS, 2)
    assert (scores.values, scores.indices) == ([0.2, 0.9, 0.5, 0.7], None)


def test_equal_scores_at_the_cut_are_accepted(dashscope: LoopbackDashScope) -> None:
    scores = DashScopeScorer().score_top("q", ["score=0.5 a", "score=0.5 b", "score=0.5 c"], 2)
    assert (scores.values, scores.indices) == ([0.5, 0.5], [0, 1])


@pytest.mark.parametrize("dialect", SERVERS)
def test_servers_are_asked_where_their_api_can_return_fewer(dialect: Any) -> None:
    with SERVERS[dialect]() as server:
        scorer = ServerScorer(server.root, dialect=dialect, model=MODEL)
        scores = scorer.score_top("q", TEXTS, 2)
        (request,) = server.received
    if dialect == "tei":  # has no such field
        assert (scores.values, scores.indices) == ([0.2, 0.9, 0.5, 0.7], None)
        assert "top_n" not in request.body
    else:
        assert (scores.values, scores.indices) == ([0.9, 0.7], [1, 3])
        assert request.body["top_n"] == 2


def test_an_unknown_server_is_asked_for_all() -> None:
    with SERVERS["vllm"]() as server:
        ServerScorer(f"{server.root}/v1/rerank").score_top("q", TEXTS, 2)
    assert "top_n" not in server.received[0].body

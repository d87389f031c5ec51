"""DashScope's two forms of the request body: the one that the service expects is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from qwen_rerank import (
    DashScopeScorer,
    InvalidInputError,
    Limits,
    RateLimitError,
    ServiceError,
)
from qwen_rerank.testing.faults import refuses, says
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.clients import CLIENTS, arank, rank
from tests.support.servers import FlatDashScope

TEXTS = [f"score={at / 10}" for at in range(5)]
REFUSALS = [
    "Required input parameter missing from request.",
    "Required body invalid, please check the request body format.",
    "query: Field required; input: Extra inputs are not permitted",
]


def scorer_of(server: LoopbackDashScope, **options: Any) -> DashScopeScorer:
    options = {"api_key": KEY, "base_url": server.base_url, "backoff": 0, **options}
    return DashScopeScorer("qwen3-rerank", **options)


def is_flat(server: LoopbackDashScope) -> list[bool]:
    """The form of each request that the server received."""
    return ["input" not in request.body for request in server.received]


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_service_with_flat_bodies_is_understood_and_remembered(make: Callable[..., Any]) -> None:
    with FlatDashScope() as server:
        client = make(
            model="qwen3-rerank", api_key=KEY, base_url=server.base_url, instruct="Be strict."
        )
        first, second = rank(client, TEXTS), asyncio.run(arank(client, TEXTS))
    assert first == second == [(text, float(text[6:])) for text in reversed(TEXTS)]
    assert is_flat(server) == [False, True, True]


@pytest.mark.parametrize("message", REFUSALS)
def test_requests_that_are_refused_together_wait_for_one_trial(message: str) -> None:
    with FlatDashScope(refused=message, limits=Limits(documents=1)) as server:
        server.answer_only_when(5)
        scorer = scorer_of(server, limits=Limits(1, item_tokens=4_000, request_tokens=30_000))
        scores = scorer.score("q", TEXTS)
    assert scores.values == [float(text[6:]) for text in TEXTS]
    assert scores.usage.retries == 5
    assert sorted(is_flat(server)) == [False] * 5 + [True] * 5


def test_the_best_few_can_be_asked_for_in_the_flat_form() -> None:
    with FlatDashScope() as server:
        assert scorer_of(server).score_top("q", TEXTS, 2).indices == [4, 3]
    assert server.received[-1].body["top_n"] == 2


def test_an_invalid_parameter_is_tried_in_both_forms_once_and_its_own_error_is_raised(
    dashscope: LoopbackDashScope,
) -> None:
    dashscope.faults.extend(
        refuses(400, "InvalidParameter", message)
        for message in ("Required parameter top_k missing.", "input is required", "top_k missing")
    )
    scorer = scorer_of(dashscope)
    with pytest.raises(InvalidInputError, match="Required parameter top_k missing"):
        scorer.score("q", TEXTS)
    with pytest.raises(InvalidInputError, match="top_k missing"):
        scorer.score("q", TEXTS)
    assert scorer.score("q", TEXTS).usage.requests == 1
    assert is_flat(dashscope) == [False, True, False, False]


def test_a_service_that_changes_its_form_is_followed() -> None:
    with LoopbackDashScope() as before:
        scorer_of(before).score("q", TEXTS)
    with FlatDashScope(port=before.port) as after:
        for _ in range(2):
            scorer_of(after).score("q", TEXTS)
    assert is_flat(after) == [False, True, True]


def test_a_refused_text_is_no_reason_to_try_the_other_form(dashscope: LoopbackDashScope) -> None:
    refused = "Range of input length should be [1, 30000]"
    dashscope.faults.append(refuses(400, "InvalidParameter", refused))
    with pytest.raises(InvalidInputError, match="Range of input length"):
        scorer_of(dashscope).score("q", TEXTS)
    assert is_flat(dashscope) == [False]


@pytest.mark.parametrize(
    ("fault", "error"),
    [(refuses(429, "Throttling"), RateLimitError), (says("<html>", 503), ServiceError)],
)
def test_a_passing_failure_of_the_trial_leaves_the_form_open(fault: Any, error: Any) -> None:
    with FlatDashScope() as server:
        server.faults.extend([refuses(400, "InvalidParameter", "input is required"), fault])
        scorer = scorer_of(server, max_retries=0)
        with pytest.raises(error):
            scorer.score("q", TEXTS)
        assert scorer.score("q", TEXTS).values == [float(text[6:]) for text in TEXTS]
    assert is_flat(server) == [False, True, False, True]

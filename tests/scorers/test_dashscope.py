"""DashScopeScorer against the loopback service: real HTTP, real limits, real faults."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    DashScopeScorer,
    InvalidInputError,
    Limits,
    MissingKeyError,
    RateLimitError,
    RequestTimeoutError,
    Scores,
    ServiceError,
    Usage,
)
from qwen_rerank.scorers.http.dialects.dashscope import PATH
from qwen_rerank.testing.faults import drops, edits, refuses, rewrites, says
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope, token_count
from tests.support.interpreter import python
from tests.support.transport import responds_with_any_key

GATEWAY = "https://dashscope.aliyuncs.com/api/v1"
ONE_PER_REQUEST = Limits(documents=1)


def scored(values: list[float]) -> list[str]:
    """Texts that the loopback service gives these scores."""
    return [f"text {index} score={value}" for index, value in enumerate(values)]


Score = Callable[[DashScopeScorer, str, list[str]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Score, or await a score."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


# --- Requests and responses


def test_scores_are_in_the_order_of_the_texts(dashscope: LoopbackDashScope, score: Score) -> None:
    assert score(DashScopeScorer(), "q", scored([0.2, 0.9, 0.5])).values == [0.2, 0.9, 0.5]


def test_requests_follow_the_native_api(dashscope: LoopbackDashScope, score: Score) -> None:
    scorer = DashScopeScorer("qwen3-rerank", instruct="Find the answer.", workspace="ws-1")
    score(scorer, "query", ["one", "two"])
    (request,) = dashscope.received
    assert request.body == {
        "model": "qwen3-rerank",
        "input": {"query": "query", "documents": ["one", "two"]},
        "parameters": {"return_documents": False, "instruct": "Find the answer."},
    }
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["X-DashScope-WorkSpace"] == "ws-1"
    assert "qwen-rerank/" in request.headers["User-Agent"]


def test_texts_are_objects_for_the_vision_model(dashscope: LoopbackDashScope, score: Score) -> None:
    scores = score(DashScopeScorer("qwen3-vl-rerank"), "q", scored([0.1, 0.2]))
    assert scores.values == [0.1, 0.2]
    assert dashscope.received[0].query == {"text": "q"}
    assert dashscope.received[0].documents[1] == {"text": "text 1 score=0.2"}


def test_the_usage_counts_requests_tokens_texts_and_retries(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(refuses(503, "ServiceUnavailable"))
    usage = score(DashScopeScorer(limits=ONE_PER_REQUEST), "q", ["one", "two"]).usage
    tokens = token_count("q") * 2 + token_count("one") + token_count("two")
    assert usage == Usage(2, tokens, 2, 0, 1, usage.seconds)
    assert 0 < usage.seconds < 10


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda answer: {"code": 200, "message": "success", "data": answer},
        lambda answer: {"code": "0", "msg": "OK", "data": answer["output"]},
        lambda answer: {**answer, "request_id": 7, "usage": [{"total_tokens": 1.5}]},
    ],
    ids=["in data", "its output in data", "with an odd id and usage"],
)
def test_a_ranking_in_a_gateways_wrapper_is_read_and_not_requested_again(
    dashscope: LoopbackDashScope, score: Score, wrapped: Callable[[Any], Any]
) -> None:
    dashscope.faults.append(rewrites(lambda body: json.dumps(wrapped(json.loads(body))).encode()))
    scores = score(DashScopeScorer(), "q", scored([0.2, 0.9]))
    assert (scores.values, scores.usage.retries) == ([0.2, 0.9], 0)


def test_success_without_a_ranking_is_an_error_and_not_requested_again(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(says('{"code": 200, "message": "success", "data": null}'))
    with pytest.raises(BadResponseError, match=r"output\.results: expected a list"):
        score(DashScopeScorer(), "q", ["a"])
    assert len(dashscope.received) == 1


# --- Batching


def test_two_thousand_documents_are_all_scored_in_order(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    values = [index / 2000 for index in range(2000)]
    texts = [f"{text} {'word ' * 90}" for text in scored(values)]
    scores = score(DashScopeScorer(), "which word?", texts)
    assert scores.values == values
    sent = [text for request in dashscope.received for text in request.documents]
    assert sorted(sent) == sorted(texts)
    tokens = sum(map(token_count, texts)) + 2000 * token_count("which word?")
    assert len(dashscope.received) == scores.usage.requests == math.ceil(tokens / 30_000)
    assert scores.usage.tokens == tokens


@pytest.mark.parametrize(
    ("model", "region", "requests"),
    [
        ("qwen3-rerank", None, 4),
        ("qwen3-rerank", "ap-southeast-1", 1),
        ("qwen3.7-text-rerank", "cn-beijing", 1),
    ],
)
def test_the_limits_are_those_of_the_model_and_the_region(
    dashscope: LoopbackDashScope, model: str, region: str | None, requests: int
) -> None:
    dashscope.region = region
    scorer = DashScopeScorer(model, region=region, max_concurrency=4)
    scorer.score("q", ["word " * 1_000 + str(i) for i in range(100)])
    assert len(dashscope.received) == requests


@pytest.mark.parametrize("cuts_before_counting", [True, False])
def test_texts_over_the_item_limit_fit_even_if_the_service_counts_before_it_cuts(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture, cuts_before_counting: bool
) -> None:
    dashscope.cuts_before_counting = cuts_before_counting
    texts = [f"score=0.{index} " + "word " * 6_000 for index in range(1, 8)]
    scores = DashScopeScorer().score("q", texts)
    assert scores.values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert scores.usage.truncated == 7
    (warning,) = caplog.messages
    assert re.search("7 of 8 items .* 4000 tokens .*: text 0, .* text 6. .*PassageScorer", warning)


def test_a_request_that_was_estimated_too_small_is_counted_and_split(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    values = [index / 400 for index in range(400)]
    words, digits = "word " * 60, "0123456789" * 30  # 60 tokens and 300
    texts = [
        f"{text} {words if index % 25 == 0 else digits}"  # the sample sees only the words
        for index, text in enumerate(scored(values))
    ]
    scores = score(DashScopeScorer(max_concurrency=2), "q", texts)
    assert scores.values == values
    assert scores.usage.tokens == sum(map(token_count, texts)) + 400  # each was billed once
    assert len(dashscope.received) == scores.usage.requests + 1  # which held all, and was refused


def test_what_the_service_billed_for_is_learned_for_the_next_call(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    digits = [
        f"{text} {'0123456789' * 20}" for text in scored([index / 400 for index in range(400)])
    ]
    scorer = DashScopeScorer()
    score(scorer, "q", [f"{text} {'word ' * 40}" for text in scored([0.5] * 400)])
    dashscope.received.clear()
    first = score(scorer, "q", digits).usage.requests
    assert len(dashscope.received) > first  # the words were no guide to the digits
    dashscope.received.clear()
    second = score(scorer, "q", digits).usage.requests
    assert len(dashscope.received) == second


def test_an_error_says_what_the_other_requests_of_the_call_cost(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    scorer = DashScopeScorer(limits=Limits(documents=1), max_concurrency=1)
    dashscope.faults.extend([responds_with_any_key] * 2 + [refuses(401, "InvalidApiKey")])
    with pytest.raises(AuthenticationError) as failure:
        score(scorer, "q", ["one", "two", "three"])
    usage = failure.value.usage
    assert usage is not None
    assert (usage.requests, usage.texts_sent) == (2, 2)
    assert usage.tokens == 2 * token_count("q") + token_count("one") + token_count("two")


def test_an_error_says_what_a_response_that_cannot_be_used_cost(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    billed = token_count("q") + token_count("one")
    for edit in (list.clear, lambda results: results[0].update(relevance_score="0.5")):
        dashscope.faults.extend([responds_with_any_key, edits(edit)])
        scorer = DashScopeScorer(limits=ONE_PER_REQUEST, max_concurrency=1)
        with pytest.raises(BadResponseError) as failure:
            score(scorer, "q", ["one", "one"])
        usage = failure.value.usage
        assert usage is not None
        assert (usage.requests, usage.texts_sent, usage.tokens) == (1, 1, 2 * billed)


def test_a_refusal_for_another_reason_than_size_is_raised(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(refuses(400, "InvalidParameter", "Because of the moon."))
    with pytest.raises(InvalidInputError, match=r"Because of the moon\."):
        score(DashScopeScorer(), "q", ["你好世界" * 200 + str(index) for index in range(20)])
    assert len(dashscope.received) == 1


def test_control_tokens_in_a_text_count_as_plain_text(dashscope: LoopbackDashScope) -> None:
    texts = [f"{'<|im_start|>' * 50} {index}" for index in range(200)]
    assert len(DashScopeScorer().score("q", texts).values) == 200  # the service enforces its limit


def test_what_are_not_texts_is_refused_before_sending(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    wrong: list[Any] = ["abc", b"abc", {"a": "b"}, 7, None, ["a", b"b"], ["a", None], ["a", ["b"]]]
    for texts in wrong:
        with pytest.raises(InvalidInputError, match=r"must be a (list|string)"):
            score(DashScopeScorer(), "q", texts)
    assert dashscope.received == []
    assert len(score(DashScopeScorer(), "q", dict.fromkeys("ab").keys()).values) == 2  # type: ignore[arg-type]


def test_without_texts_nothing_is_sent(dashscope: LoopbackDashScope, score: Score) -> None:
    assert score(DashScopeScorer(), "q", []).values == []
    assert dashscope.received == []


def test_the_deadline_also_limits_the_counting_of_tokens(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    texts = ["中文字 " * 300 + str(index) for index in range(200)]
    with pytest.raises(RequestTimeoutError, match="deadline"):
        score(DashScopeScorer(deadline=1e-6), "q", texts)
    assert dashscope.received == []


def test_up_to_max_concurrency_requests_run_concurrently(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.answer_only_when(in_flight=3)  # fewer would hang, and fail by the deadline
    scorer = DashScopeScorer(limits=ONE_PER_REQUEST, max_concurrency=3, deadline=20)
    score(scorer, "q", ["a"] * 10)
    assert dashscope.most_in_flight == 3


# --- Failures


@pytest.mark.parametrize("deadline", [60, None])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_after_past_the_deadline_or_over_a_minute_is_raised_immediately(
    dashscope: LoopbackDashScope, score: Score, form: str, deadline: float | None
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    retry_after = later if form == "date" else "3600"
    dashscope.faults.append(refuses(429, "Throttling", retry_after=retry_after))
    with pytest.raises(RateLimitError) as failure:
        score(DashScopeScorer(deadline=deadline), "q", ["a"])
    assert failure.value.retry_after == pytest.approx(3600, abs=30)
    assert len(dashscope.received) == 1


@pytest.mark.parametrize(
    "value",
    ["soon", "nan", "inf", "Wed, 99 Foo", "", "Wed, 21 Oct 2015 07:28:00 +99999999999999"],
)
def test_an_invalid_retry_after_is_ignored(dashscope: LoopbackDashScope, value: str) -> None:
    dashscope.faults.append(refuses(429, "Throttling", retry_after=value))
    assert DashScopeScorer(deadline=20).score("q", scored([0.4])).usage.retries == 1


def test_a_lost_connection_is_chained_to_its_cause(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(drops)
    with pytest.raises(ServiceError) as failure:
        DashScopeScorer(max_retries=0).score("q", ["a"])
    assert type(failure.value.__cause__).__name__ == "ConnectionLostError"


# --- Keys


def test_the_key_is_not_shown(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scorer = DashScopeScorer()
    dashscope.faults.append(refuses(401, "InvalidApiKey", f"Wrong key: {KEY}!"))
    with pytest.raises(AuthenticationError, match=r"Wrong key: \*\*\*!") as failure:
        scorer.score("the query", ["the document"])
    assert KEY not in repr(scorer) + str(failure.value) + repr(failure.value) + caplog.text
    assert KEY.encode() not in pickle.dumps(scorer) + pickle.dumps(failure.value)


def test_retries_are_not_logged_as_errors(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    dashscope.faults.extend([drops, refuses(503, "ServiceUnavailable")])
    DashScopeScorer().score("the query", ["the document"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": "gte-rerank-v2", "instruct": "Find."}, "gte-rerank-v2 does not take instruct"),
        ({"model": "qwen3-rerank", "instruct": "\ud800"}, "instruct must be a non-blank string"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"deadline": -1}, "deadline"),
        ({"deadline": "5"}, "deadline"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"base_url": "dashscope.aliyuncs.com"}, "base_url"),
        ({"base_url": "ftp://dashscope.aliyuncs.com/api/v1"}, "base_url"),
        ({"base_url": "http://[::1/api/v1"}, "base_url"),
        ({"base_url": "http://localhost:99999/api/v1"}, "base_url"),
        ({"base_url": "https://user:word@dashscope.aliyuncs.com/api/v1"}, "base_url"),
        ({"base_url": "https://:word@dashscope.aliyuncs.com/api/v1"}, "base_url"),
        ({"base_url": "https://dashscope.aliyuncs.com/api/v1?api_key=word"}, "base_url"),
        ({"base_url": "https://{workspace_id}.cn-beijing.maas.aliyuncs.com/api/v1"}, "base_url"),
        ({"base_url": "https://proxy.example/compatible-mode/v1"}, "OpenAI-compatible"),
        ({"model": "Qwen/Qwen3-Reranker-0.6B"}, "open model"),
        ({"model": "gte-rerank-v2", "region": "ap-southeast-1"}, "not served in the region"),
        ({"region": "eu-central-1"}, "region 'eu-central-1'"),
        ({"region": "evil.example/"}, "region"),
        ({"workspace": "ws.evil.example"}, "workspace"),
        ({"workspace": ""}, "workspace"),
    ],
)
def test_an_invalid_option_is_refused_and_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named) as failure:
        DashScopeScorer(api_key=KEY, **options)
    assert "word" not in str(failure.value)


@pytest.mark.parametrize(
    ("options", "base_url", "request_tokens"),
    [
        ({}, "https://dashscope.aliyuncs.com/api/v1", 30_000),
        ({"region": "cn-beijing"}, "https://dashscope.aliyuncs.com/api/v1", 30_000),
        (
            {"base_url": "https://dashscope-intl.aliyuncs.com/api/v1", "region": "ap-southeast-1"},
            "https://dashscope-intl.aliyuncs.com/api/v1",
            120_000,
        ),
        ({"region": "ap-southeast-1"}, "https://dashscope-intl.aliyuncs.com/api/v1", 120_000),
        ({"workspace": "ws"}, "https://dashscope.aliyuncs.com/api/v1", 30_000),
        (
            {"workspace": "ws", "region": "eu-central-1"},
            "https://ws.eu-central-1.maas.aliyuncs.com/api/v1",
            30_000,
        ),
        (
            {"workspace": "ws", "region": "ap-southeast-1"},
            "https://ws.ap-southeast-1.maas.aliyuncs.com/api/v1",
            120_000,
        ),
        ({"base_url": "https://proxy:8080/api/v1/"}, "https://proxy:8080/api/v1", 30_000),
        (
            {"base_url": "https://dashscope-intl.aliyuncs.com/api/v1"},
            "https://dashscope-intl.aliyuncs.com/api/v1",
            120_000,
        ),
    ],
)
def test_the_options_select_the_address_and_the_limits(
    options: dict[str, str], base_url: str, request_tokens: int
) -> None:
    scorer = DashScopeScorer("qwen3-rerank", KEY, **options)  # type: ignore[arg-type]
    assert (scorer.base_url, scorer.limits.request_tokens) == (base_url, request_tokens)


@pytest.mark.parametrize(
    ("given", "base_url"),
    [
        ("https://dashscope.aliyuncs.com/api", GATEWAY),
        ("https://dashscope.aliyuncs.com/v1", GATEWAY),
        (f"https://proxy.example/api/v1{PATH}", "https://proxy.example/api/v1"),
        (f"https://proxy.example/dashscope{PATH}/", "https://proxy.example/dashscope"),
        ("https://proxy.example/api/v1/services/rerank", "https://proxy.example/api/v1"),
        ("https://proxy.example/services/api/v1", "https://proxy.example/services/api/v1"),
        (f"https://dashscope.aliyuncs.com/api/v1{PATH}", GATEWAY),
        ("https://dashscope.aliyuncs.com/api/v1/services/aigc/any", GATEWAY),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", GATEWAY),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions", GATEWAY),
        ("https://DashScope.aliyuncs.com/compatible-api/v1/reranks", GATEWAY),
        ("https://dashscope.aliyuncs.com", GATEWAY),
        (
            "https://ws.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
            "https://ws.cn-beijing.maas.aliyuncs.com/api/v1",
        ),
    ],
)
def test_the_address_of_an_endpoint_or_of_the_chat_api_is_turned_into_the_native_one(
    monkeypatch: pytest.MonkeyPatch, given: str, base_url: str
) -> None:
    assert DashScopeScorer("qwen3-rerank", KEY, base_url=given).base_url.lower() == base_url
    monkeypatch.setenv("DASHSCOPE_BASE_URL", given)
    assert DashScopeScorer("qwen3-rerank", KEY).base_url.lower() == base_url


@pytest.mark.parametrize("empty", ["", SecretStr("")], ids=["str", "SecretStr"])
def test_an_empty_key_or_address_is_never_replaced_by_another(
    dashscope: LoopbackDashScope, empty: Any
) -> None:
    with pytest.raises(MissingKeyError, match="is empty"):
        DashScopeScorer(api_key=empty)
    with pytest.raises(InvalidInputError, match="base_url"):
        DashScopeScorer(base_url="")


def test_empty_environment_variables_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "")
    assert DashScopeScorer(api_key=KEY).base_url == GATEWAY
    monkeypatch.setenv("DASHSCOPE_API_KEY", "")
    with pytest.raises(MissingKeyError, match="No DashScope API key"):
        DashScopeScorer()


def test_base_url_takes_precedence_over_the_environment_and_that_over_the_region(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = partial(DashScopeScorer, "qwen3-rerank", KEY, region="ap-southeast-1")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", "https://second/api/v1")
    assert make().base_url == "https://second/api/v1"
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://first/api/v1")
    assert make().base_url == "https://first/api/v1"
    assert make(base_url="https://given/api/v1").base_url == "https://given/api/v1"


def test_a_region_that_contradicts_the_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://dashscope.aliyuncs.com/api/v1")
    with pytest.raises(InvalidInputError, match=r"'ap-southeast-1', but .* is in 'cn-beijing'"):
        DashScopeScorer(api_key=KEY, region="ap-southeast-1")
    at_workspace = "https://ws.eu-central-1.maas.aliyuncs.com/api/v1"
    with pytest.raises(InvalidInputError, match="is in 'eu-central-1'"):
        DashScopeScorer(api_key=KEY, base_url=at_workspace, region="cn-beijing")
    assert DashScopeScorer("qwen3-rerank", KEY, base_url=at_workspace, region="eu-central-1")


def test_importing_the_package_does_not_import_the_client() -> None:
    code = (
        "import sys, qwen_rerank\n"
        "print(sorted({'dashscope', 'aiohttp', 'numpy', 'tiktoken'} & set(sys.modules)))\n"
    )
    out, err = python(code)
    assert (out, err) == ("[]\n", "")


@pytest.mark.parametrize("run", ["score", "ascore"])
def test_no_request_is_sent_once_one_has_failed_for_good(
    dashscope: LoopbackDashScope, run: str
) -> None:
    dashscope.faults.append(refuses(403, "AccessDenied"))
    scorer = DashScopeScorer(limits=Limits(documents=1), max_concurrency=1)
    call = scorer.score if run == "score" else lambda *each: asyncio.run(scorer.ascore(*each))
    with pytest.raises(AuthenticationError):
        call("q", ["a", "b", "c"])
    DashScopeScorer().score("q", ["the requests before have arrived"])
    assert len(dashscope.received) == 2

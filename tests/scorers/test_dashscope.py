"""DashScopeScorer against the loopback service: real HTTP, real limits, real faults."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    DashScopeScorer,
    InvalidInputError,
    Limits,
    RateLimitError,
    RequestTimeoutError,
    Scores,
    ServiceError,
    Usage,
)
from qwen_rerank.scorers.http import scorer as service
from qwen_rerank.scorers.http.batching import Plan
from tests.support.interpreter import python
from tests.support.loopback import (
    KEY,
    LoopbackDashScope,
    drops,
    refuses,
    rewrites,
    says,
    token_count,
)

ONE_A_REQUEST = Limits(documents=1)


def scored(values: list[float]) -> list[str]:
    return [f"text {place} score={value}" for place, value in enumerate(values)]


Score = Callable[[DashScopeScorer, str, list[str]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Either way of scoring."""
    if request.param == "score":
        return DashScopeScorer.score
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


# --- What is sent, and what comes back


def test_each_text_gets_its_score_in_the_texts_order(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    assert score(DashScopeScorer(), "q", scored([0.2, 0.9, 0.5])).values == [0.2, 0.9, 0.5]


def test_the_request_is_that_of_the_native_api(dashscope: LoopbackDashScope, score: Score) -> None:
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


def test_the_vision_model_gets_texts_as_objects(dashscope: LoopbackDashScope, score: Score) -> None:
    scores = score(DashScopeScorer("qwen3-vl-rerank"), "q", scored([0.1, 0.2]))
    assert scores.values == [0.1, 0.2]
    assert dashscope.received[0].query == {"text": "q"}
    assert dashscope.received[0].documents[1] == {"text": "text 1 score=0.2"}


def test_the_usage_says_what_it_cost(dashscope: LoopbackDashScope, score: Score) -> None:
    dashscope.faults.append(refuses(503, "ServiceUnavailable"))
    usage = score(DashScopeScorer(limits=ONE_A_REQUEST), "q", ["one", "two"]).usage
    tokens = token_count("q") * 2 + token_count("one") + token_count("two")
    assert usage == Usage(2, tokens, 2, 0, 1, usage.seconds)
    assert 0 < usage.seconds < 10


def test_what_the_answer_has_besides_the_scores_does_not_matter(
    dashscope: LoopbackDashScope,
) -> None:
    answer = {
        "output": {
            "results": [{"index": 0, "relevance_score": 1, "document": {"text": "x"}}],
            "a": 1,
        },
        "code": "",
        "message": "",
        "extra": None,
    }
    dashscope.faults.append(says(json.dumps(answer)))
    scores = DashScopeScorer().score("q", ["x"])
    assert (scores.values, scores.usage.tokens) == ([1.0], 0)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda answer: {"code": 200, "message": "success", "data": answer},
        lambda answer: {"code": "0", "msg": "OK", "data": answer["output"]},
        lambda answer: {**answer, "request_id": 7, "usage": [{"total_tokens": 1.5}]},
    ],
    ids=["in data", "its output in data", "with an odd id and usage"],
)
def test_a_ranking_that_a_gateway_wraps_is_read_and_not_paid_for_again(
    dashscope: LoopbackDashScope, score: Score, wrapped: Callable[[Any], Any]
) -> None:
    dashscope.faults.append(rewrites(lambda body: json.dumps(wrapped(json.loads(body))).encode()))
    scores = score(DashScopeScorer(), "q", scored([0.2, 0.9]))
    assert (scores.values, scores.usage.retries) == ([0.2, 0.9], 0)


def test_a_gateway_that_reports_success_without_a_ranking_is_not_asked_again(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(says('{"code": 200, "message": "success", "data": null}'))
    with pytest.raises(BadResponseError, match=r"output\.results: expected a list"):
        score(DashScopeScorer(), "q", ["a"])
    assert len(dashscope.received) == 1


# --- Packing


def test_two_thousand_documents_come_back_whole_and_in_order(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    values = [place / 2000 for place in range(2000)]
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
def test_the_model_and_the_region_set_the_limits(
    dashscope: LoopbackDashScope, model: str, region: str | None, requests: int
) -> None:
    dashscope.request_tokens = 120_000 if requests == 1 else 30_000
    scorer = DashScopeScorer(model, region=region, max_concurrency=4)
    scorer.score("q", ["word " * 1_000 + str(i) for i in range(100)])
    assert len(dashscope.received) == requests


@pytest.mark.parametrize("cuts_before_counting", [True, False])
def test_texts_over_the_item_limit_fit_whether_the_service_cuts_or_counts_first(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture, cuts_before_counting: bool
) -> None:
    dashscope.cuts_before_counting = cuts_before_counting
    texts = [f"score=0.{place} " + "word " * 6_000 for place in range(1, 8)]
    scores = DashScopeScorer().score("q", texts)
    assert scores.values == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    (warning,) = caplog.messages
    assert re.search("7 of 8 items .* 4000 tokens .* PassageScorer", warning)


def test_what_an_estimate_made_too_large_is_counted_and_sent_in_smaller_requests(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    values = [place / 400 for place in range(400)]
    words, digits = "word " * 60, "0123456789" * 30  # 60 tokens and 300
    texts = [
        f"{text} {words if place % 25 == 0 else digits}"  # the words are what the sample sees
        for place, text in enumerate(scored(values))
    ]
    scores = score(DashScopeScorer(max_concurrency=2), "q", texts)
    assert scores.values == values
    assert scores.usage.tokens == sum(map(token_count, texts)) + 400  # each was billed once
    assert len(dashscope.received) == scores.usage.requests + 1  # which held all, and was refused


def test_a_refusal_of_what_is_not_too_large_is_raised_as_it_is(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.faults.append(refuses(400, "InvalidParameter", "Because of the moon."))
    with pytest.raises(InvalidInputError, match=r"Because of the moon\."):
        score(DashScopeScorer(), "q", ["你好世界" * 200 + str(place) for place in range(20)])
    assert len(dashscope.received) == 1


def test_control_tokens_in_a_text_count_as_plain_text(dashscope: LoopbackDashScope) -> None:
    texts = [f"{'<|im_start|>' * 50} {place}" for place in range(200)]
    assert len(DashScopeScorer().score("q", texts).values) == 200  # or the service refuses


@pytest.mark.parametrize("run", ["score", "ascore"])
async def test_tokens_are_not_counted_on_the_event_loop(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    threads = []

    def spy(text: str) -> int:
        threads.append(threading.current_thread())
        return count_tokens(text)

    count_tokens = service.count_tokens
    monkeypatch.setattr(service, "count_tokens", spy)
    texts = ["你好世界" * 200 + str(place) for place in range(40)]
    if run == "ascore":
        await DashScopeScorer().ascore("q", texts)
        assert threading.current_thread() not in threads
    else:
        DashScopeScorer().score("q", texts)
    assert threads
    assert not [thread for thread in threads if thread.name == "qwen-rerank-io"]


async def test_long_texts_are_not_planned_on_the_event_loop(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def spy(*arguments: Any, **options: Any) -> Plan:
        threads.append(threading.current_thread())
        return plan(*arguments, **options)

    plan = service.plan
    monkeypatch.setattr(service, "plan", spy)
    texts = ["长" * 300_000 + str(place) for place in range(4)]
    with pytest.raises(RequestTimeoutError):  # so that they are not counted
        await DashScopeScorer(deadline=1e-6).ascore("q", texts)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_no_texts_are_no_request(dashscope: LoopbackDashScope, score: Score) -> None:
    assert score(DashScopeScorer(), "q", []).values == []
    assert dashscope.received == []


def test_the_deadline_bounds_the_counting_of_tokens_too(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    texts = ["中文字 " * 300 + str(place) for place in range(200)]
    with pytest.raises(RequestTimeoutError, match="deadline"):
        score(DashScopeScorer(deadline=1e-6), "q", texts)
    assert dashscope.received == []


def test_requests_run_at_the_same_time_up_to_max_concurrency(
    dashscope: LoopbackDashScope, score: Score
) -> None:
    dashscope.answer_only_when(in_flight=3)  # fewer would hang, and fail by the deadline
    scorer = DashScopeScorer(limits=ONE_A_REQUEST, max_concurrency=3, deadline=20)
    score(scorer, "q", ["a"] * 10)
    assert dashscope.most_in_flight == 3


# --- Failures


def test_retry_after_is_honoured_in_full(dashscope: LoopbackDashScope, score: Score) -> None:
    dashscope.faults.append(refuses(429, "Throttling", retry_after="1.5"))
    started = time.monotonic()
    score(DashScopeScorer(), "q", ["a"])
    assert time.monotonic() - started >= 1.5


@pytest.mark.parametrize("deadline", [60, None])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_after_past_the_deadline_or_of_more_than_a_minute_raises_at_once(
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
def test_a_retry_after_that_says_nothing_is_a_usual_retry(
    dashscope: LoopbackDashScope, value: str
) -> None:
    dashscope.faults.append(refuses(429, "Throttling", retry_after=value))
    assert DashScopeScorer(deadline=20).score("q", scored([0.4])).usage.retries == 1


def test_a_failure_on_the_way_is_chained_to_its_cause(dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(drops)
    with pytest.raises(ServiceError) as failure:
        DashScopeScorer(max_retries=0).score("q", ["a"])
    assert type(failure.value.__cause__).__name__ == "ServerDisconnectedError"


# --- Keys


def test_the_key_shows_nowhere(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scorer = DashScopeScorer()
    dashscope.faults.append(refuses(401, "InvalidApiKey", f"Wrong key: {KEY}!"))
    with pytest.raises(AuthenticationError, match=r"Wrong key: \*\*\*!") as failure:
        scorer.score("the query", ["the document"])
    assert KEY not in repr(scorer) + str(failure.value) + repr(failure.value) + caplog.text
    assert KEY.encode() not in pickle.dumps(scorer) + pickle.dumps(failure.value)


def test_retried_failures_are_no_errors_in_the_log(
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
        ({"instruct": "Find."}, "gte-rerank-v2 takes no instruct"),
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
        ({"base_url": ""}, "base_url"),
        ({"model": "Qwen/Qwen3-Reranker-0.6B"}, "open model"),
        ({"model": "gte-rerank-v2", "region": "ap-southeast-1"}, "not served in the region"),
        ({"region": "eu-central-1"}, "region 'eu-central-1'"),
        ({"region": "evil.example/"}, "region"),
        ({"workspace": "ws.evil.example"}, "workspace"),
        ({"workspace": ""}, "workspace"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_and_named(
    options: dict[str, Any], named: str
) -> None:
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
def test_the_address_follows_the_options(
    options: dict[str, str], base_url: str, request_tokens: int
) -> None:
    scorer = DashScopeScorer("qwen3-rerank", KEY, **options)  # type: ignore[arg-type]
    assert (scorer.base_url, scorer.limits.request_tokens) == (base_url, request_tokens)


def test_the_argument_goes_before_the_environment_and_that_before_the_region(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = partial(DashScopeScorer, "qwen3-rerank", KEY, region="ap-southeast-1")
    monkeypatch.setenv("DASHSCOPE_HTTP_BASE_URL", "https://second/api/v1")
    assert make().base_url == "https://second/api/v1"
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://first/api/v1")
    assert make().base_url == "https://first/api/v1"
    assert make(base_url="https://given/api/v1").base_url == "https://given/api/v1"


def test_a_region_that_is_not_that_of_the_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://dashscope.aliyuncs.com/api/v1")
    with pytest.raises(InvalidInputError, match=r"'ap-southeast-1', but .* is in 'cn-beijing'"):
        DashScopeScorer(api_key=KEY, region="ap-southeast-1")
    at_workspace = "https://ws.eu-central-1.maas.aliyuncs.com/api/v1"
    with pytest.raises(InvalidInputError, match="is in 'eu-central-1'"):
        DashScopeScorer(api_key=KEY, base_url=at_workspace, region="cn-beijing")
    assert DashScopeScorer("qwen3-rerank", KEY, base_url=at_workspace, region="eu-central-1")


def test_the_service_is_looked_up_only_when_a_scorer_is_built() -> None:
    code = (
        "import sys, qwen_rerank\n"
        "print(sorted({'dashscope', 'aiohttp', 'numpy', 'tiktoken'} & set(sys.modules)))\n"
    )
    out, err = python(code)
    assert (out, err) == ("[]\n", "")

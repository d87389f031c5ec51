"""What a call cost: by the list price, or not known."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from qwen_rerank import (
    Content,
    DashScopeScorer,
    EmbeddedScorer,
    Limits,
    ServerScorer,
    Usage,
    published_prices,
)
from qwen_rerank.scorers.catalog import published_price
from tests.support.loopback import LoopbackDashScope, ranking, says
from tests.support.media import PNG
from tests.support.servers import VLLM

GATEWAY = "https://dashscope.aliyuncs.com/api/v1"


@pytest.mark.parametrize(
    ("model", "region", "text", "image"),
    [
        ("gte-rerank-v2", "cn-beijing", 0.115, None),
        ("qwen3-rerank", "cn-beijing", 0.069, None),
        ("qwen3-rerank", "ap-southeast-1", 0.1, None),
        ("qwen3-vl-rerank", "cn-beijing", 0.1, 0.258),
    ],
)
def test_a_published_price_is_known_with_its_date_and_source(
    model: str, region: str, text: float, image: float | None
) -> None:
    price = published_price(model, region)
    assert price in published_prices()
    assert (price.text, price.image) == (text, image)
    assert re.fullmatch(r"20\d\d-[01]\d", price.date)
    assert "Alibaba Cloud" in price.source


@pytest.mark.parametrize(
    ("model", "region"),
    [
        ("gte-rerank-v2", "ap-southeast-1"),
        ("qwen3-vl-rerank", "ap-southeast-1"),
        ("qwen3-rerank", "eu-central-1"),
        ("qwen3-rerank", None),
        ("qwen3-rerank-new", "cn-beijing"),
    ],
)
def test_a_price_that_is_not_published_is_not_known(model: str, region: str | None) -> None:
    assert published_price(model, region) is None


@pytest.mark.parametrize(
    ("model", "options", "per_million"),
    [
        ("gte-rerank-v2", {}, 0.115),
        ("qwen3-rerank", {}, 0.069),
        ("qwen3-rerank", {"region": "cn-beijing"}, 0.069),
        ("qwen3-rerank", {"region": "ap-southeast-1"}, 0.1),
        ("qwen3-rerank", {"region": "ap-southeast-1", "workspace": "ws"}, 0.1),
        ("qwen3-rerank", {"region": "cn-hongkong", "workspace": "ws"}, None),
        ("qwen3-rerank", {"base_url": GATEWAY, "region": "cn-beijing"}, 0.069),
        ("qwen3-rerank", {"base_url": "https://ws.cn-beijing.maas.aliyuncs.com/api/v1"}, 0.069),
        ("qwen3-rerank", {"base_url": "https://dashscope-us.aliyuncs.com/api/v1"}, None),
        ("qwen3-rerank", {"base_url": "https://proxy.example/api/v1"}, None),
        (
            "qwen3-rerank",
            {"base_url": "https://proxy.example/api/v1", "region": "ap-southeast-1"},
            0.1,
        ),
        ("gte-rerank-v2", {"region": "ap-southeast-1"}, None),
        ("qwen3.7-text-rerank", {}, None),
    ],
)
def test_the_model_and_the_address_or_else_the_region_set_the_price(
    model: str, options: dict[str, Any], per_million: float | None
) -> None:
    price = DashScopeScorer(model, "sk-any", **options).price
    assert (None if price is None else price.text) == per_million


def test_the_tokens_billed_are_paid_at_the_list_price(dashscope: LoopbackDashScope) -> None:
    scorer = DashScopeScorer("qwen3-rerank", region="ap-southeast-1", limits=Limits(documents=1))
    usage = scorer.score("which?", ["one", "two words"]).usage
    assert usage.requests == 2
    assert usage.cost == pytest.approx(0.1 * usage.tokens / 1e6)


def test_at_an_address_of_nobody_knows_which_region_the_cost_is_not_known(
    dashscope: LoopbackDashScope,
) -> None:
    assert DashScopeScorer("qwen3-rerank").score("q", ["a"]).usage.cost is None


def test_images_make_the_cost_unknown_as_their_tokens_are_not_told_apart(
    dashscope: LoopbackDashScope,
) -> None:
    scorer = DashScopeScorer("qwen3-vl-rerank", region="cn-beijing")
    assert scorer.score("q", ["a"]).usage.cost == pytest.approx(0.1e-6 * 2)
    assert scorer.score("q", ["a", Content(image=PNG)]).usage.cost is None
    assert scorer.score(Content(image=PNG), ["a"]).usage.cost is None


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": None}, {"total_tokens": 0}])
def test_where_one_answer_of_a_call_does_not_say_its_tokens_the_cost_is_not_known(
    dashscope: LoopbackDashScope, usage: dict[str, Any] | None
) -> None:
    body = {"input": {"query": "q", "documents": ["a"]}, "parameters": {}}
    dashscope.faults.append(says(json.dumps({**ranking(body), "usage": usage})))
    scorer = DashScopeScorer(region="cn-beijing", limits=Limits(documents=1))
    assert scorer.score("q", ["a", "a"]).usage.cost is None
    assert scorer.score("q", ["a", "a"]).usage.cost is not None


def test_one_call_whose_cost_is_not_known_makes_a_sum_unknown(
    dashscope: LoopbackDashScope,
) -> None:
    known = DashScopeScorer(region="cn-beijing").score("q", ["a"]).usage
    unknown = DashScopeScorer().score("q", ["a"]).usage
    assert known.cost is not None
    assert sum([known, known], Usage()).cost == pytest.approx(2 * known.cost)
    assert sum([known, unknown], Usage()).cost is None


def test_a_server_of_ones_own_has_no_list_price_and_this_process_is_free() -> None:
    with VLLM() as server:
        assert ServerScorer(server.root, dialect="vllm").score("q", ["a"]).usage.cost is None
    assert EmbeddedScorer().score("q", ["a"]).usage.cost == 0.0

"""The catalog of models: what is published, what a model's name may be, and what a call costs."""

from __future__ import annotations

import json
import logging
import re
import warnings
from typing import Any

import pytest

from qwen_rerank import (
    Content,
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    Limits,
    ServerScorer,
    Usage,
    published_prices,
)
from qwen_rerank.scorers import catalog
from qwen_rerank.scorers.catalog import CATALOG, published_limits, published_price
from qwen_rerank.testing.faults import says
from qwen_rerank.testing.loopback import LoopbackDashScope, ranking
from tests.support.media import PNG
from tests.support.servers import VLLM

GATEWAY = "https://dashscope.aliyuncs.com/api/v1"
PROXY = "https://proxy.example/api/v1"


# --- What is published


def test_every_entry_is_for_one_model_and_region_and_names_its_sources() -> None:
    assert len({(entry.model, entry.region) for entry in CATALOG}) == len(CATALOG)
    for entry in CATALOG:
        for page, month in filter(None, (entry.source, entry.price_source)):
            assert page.startswith("Alibaba Cloud Model Studio")
            assert re.fullmatch(r"2026-[01]\d", month)


@pytest.mark.parametrize(
    ("model", "region", "limits", "usd", "cny", "requests_per_minute"),
    [
        ("qwen3.7-text-rerank", "cn-beijing", (500, 30_000, 120_000), None, 0.5, 3_000),
        ("qwen3-rerank", "cn-beijing", (500, 4_000, 30_000), 0.069, 0.5, 5_400),
        ("qwen3-rerank", "ap-southeast-1", (500, 4_000, 120_000), 0.1, None, 5_400),
        ("qwen3-vl-rerank", "cn-beijing", (100, 8_000, 120_000, 40, 4), 0.1, 0.7, 600),
        ("gte-rerank-v2", "cn-beijing", (500, 4_000, 30_000), 0.115, None, None),
    ],
)
def test_the_catalog_has_the_published_figures(
    model: str,
    region: str,
    limits: tuple[int, ...],
    usd: float | None,
    cny: float | None,
    requests_per_minute: int | None,
) -> None:
    (entry,) = [each for each in CATALOG if (each.model, each.region) == (model, region)]
    assert entry.requests_per_minute == requests_per_minute
    assert published_limits(model, region) == Limits(*limits)
    price = published_price(model, region)
    assert price in published_prices()
    assert price is not None
    assert (price.text, price.text_cny) == (usd, cny)


def test_only_the_vision_model_has_a_price_for_images() -> None:
    prices = {(price.model, price.image, price.image_cny) for price in published_prices()}
    of_images = {price for price in prices if price[1:] != (None, None)}
    assert of_images == {("qwen3-vl-rerank", 0.258, 1.8)}


@pytest.mark.parametrize(
    ("model", "region", "limits"),
    [
        ("qwen4-rerank", "cn-beijing", (500, 4_000, 30_000)),
        ("qwen4-rerank", "ap-southeast-1", (500, 4_000, 120_000)),
        ("qwen3-rerank", "eu-central-1", (500, 4_000, 30_000)),
        ("qwen3-rerank", None, (500, 4_000, 30_000)),
        ("qwen3-vl-rerank-2026-12-01", None, (100, 8_000, 120_000, 40, 4)),
        ("gte-rerank", None, (500, 4_000, 30_000)),
    ],
)
def test_limits_that_are_not_published_are_those_of_the_nearest_entry(
    model: str, region: str | None, limits: tuple[int, ...]
) -> None:
    assert published_limits(model, region) == Limits(*limits)


@pytest.mark.parametrize(
    ("model", "region"),
    [
        ("gte-rerank", "cn-beijing"),
        ("qwen3-vl-rerank", "ap-southeast-1"),
        ("qwen3-rerank", "eu-central-1"),
        ("qwen3-rerank", None),
        ("qwen3-rerank-new", "cn-beijing"),
    ],
)
def test_a_price_that_is_not_published_is_none(model: str, region: str | None) -> None:
    assert published_price(model, region) is None


# --- The names of models


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qwen3-reranker", "qwen3-rerank"),
        ("Qwen3-Rerank", "qwen3-rerank"),
        ("qwen3_rerank", "qwen3-rerank"),
        ("qwen-rerank", "qwen3-rerank"),
        ("qwen-reranker", "qwen3-rerank"),
        ("qwen3-rerrank", "qwen3-rerank"),
        ("qwen3-rank", "qwen3-rerank"),
        ("qwen3.7-text-reranker", "qwen3.7-text-rerank"),
        ("qwen-vl-rerank", "qwen3-vl-rerank"),
        ("qwen3-vl-reranker", "qwen3-vl-rerank"),
        ("gte-reranker-v2", "gte-rerank-v2"),
        ("gte-rerank_v2", "gte-rerank-v2"),
        ("qwen3-rerankr", "qwen3-rerank"),
        ("qwne3-rerank", "qwen3-rerank"),
        ("qwen3-vl-rerankk", "qwen3-vl-rerank"),
        ("qwen3.7-test-rerank", "qwen3.7-text-rerank"),
        ("gte-rerank-v22", "gte-rerank-v2"),
    ],
)
def test_a_misspelled_model_is_refused_with_the_nearest_name(name: str, meant: str) -> None:
    with pytest.raises(InvalidInputError, match=f"Did you mean '{re.escape(meant)}'"):
        DashScopeScorer(name, "sk-any")


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Reranker-0.6B",
        "qwen/qwen3-vl-reranker-2b",
        "Qwen3-Reranker-8B",
        "someone/Qwen3-Reranker-4B-GGUF",
        "./models/Qwen3-Reranker-0.6B",
    ],
)
def test_an_open_model_is_refused_with_the_scorers_that_run_it(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"open model.*LocalScorer.*ServerScorer"):
        DashScopeScorer(name, "sk-any")


@pytest.mark.parametrize(
    "name",
    [
        "qwen4-rerank",
        "qwen3-rerank-plus",
        "qwen3-rerank-2026-12-01",
        "qwen3.7-vl-rerank",
        "qwen3.3-rerank",
        "qwen3.8-text-rerank",
        "qwen3-xl-rerank",
        "gte-rerank-v11",
        "gte-rerank-v3",
        "my-deployment",
    ],
)
def test_a_model_that_is_not_in_the_catalog_is_taken_and_logged(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert DashScopeScorer(name, "sk-any").model == name
    assert [record.getMessage() for record in caplog.records if name in record.getMessage()] == [
        f"{name} is not in the catalog: assuming the limits of {catalog.catalog_entry(name).model}"
    ]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("gte-rerank-v2", {"region": "ap-southeast-1"}),
        ("qwen3.7-text-rerank", {"region": "ap-southeast-1"}),
        ("qwen3.7-text-rerank", {"base_url": PROXY, "region": "ap-southeast-1"}),
        ("gte-rerank-v2", {"base_url": "https://dashscope-intl.aliyuncs.com/api/v1"}),
        ("gte-rerank-v2", {"base_url": "https://ws.ap-southeast-1.maas.aliyuncs.com/api/v1"}),
    ],
)
def test_a_model_that_the_region_does_not_serve_is_refused_with_those_that_it_serves(
    model: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError, match=r"'ap-southeast-1'.*Pass model=\"qwen3-rerank\""):
        DashScopeScorer(model, "sk-any", **options)


def test_a_region_of_which_nothing_is_published_refuses_only_models_of_one_region() -> None:
    elsewhere: dict[str, Any] = {"api_key": "sk-any", "workspace": "ws", "region": "eu-central-1"}
    with pytest.raises(InvalidInputError, match=r"'eu-central-1'.*Pass region=\"cn-beijing\""):
        DashScopeScorer("gte-rerank-v2", **elsewhere)
    assert DashScopeScorer("qwen3-rerank", **elsewhere)
    assert DashScopeScorer("qwen3-vl-rerank", **elsewhere)


def test_a_discontinued_model_warns_once_and_names_its_successor() -> None:
    catalog._warn_discontinued.cache_clear()
    says = r"discontinued gte-rerank on 2026-05-30\. Use qwen3-rerank"
    with pytest.warns(UserWarning, match=says) as warned:
        DashScopeScorer("gte-rerank", "sk-any")
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DashScopeScorer("gte-rerank", "sk-any")


# --- What a call costs


@pytest.mark.parametrize(
    ("model", "options", "per_million"),
    [
        ("gte-rerank-v2", {}, 0.115),
        ("qwen3-rerank", {}, 0.069),
        ("qwen3-rerank", {"region": "ap-southeast-1"}, 0.1),
        ("qwen3-rerank", {"region": "ap-southeast-1", "workspace": "ws"}, 0.1),
        ("qwen3-rerank", {"region": "cn-hongkong", "workspace": "ws"}, None),
        ("qwen3-rerank", {"base_url": GATEWAY, "region": "cn-beijing"}, 0.069),
        ("qwen3-rerank", {"base_url": "https://ws.cn-beijing.maas.aliyuncs.com/api/v1"}, 0.069),
        ("qwen3-rerank", {"base_url": "https://dashscope-us.aliyuncs.com/api/v1"}, None),
        ("qwen3-rerank", {"base_url": PROXY}, None),
        ("qwen3-rerank", {"base_url": PROXY, "region": "ap-southeast-1"}, 0.1),
        ("qwen3-vl-rerank", {"region": "ap-southeast-1"}, None),
        ("qwen4-rerank", {}, None),
    ],
)
def test_the_price_is_that_of_the_model_in_the_region_of_the_address(
    model: str, options: dict[str, Any], per_million: float | None
) -> None:
    price = DashScopeScorer(model, "sk-any", **options).price
    assert (None if price is None else price.text) == per_million


def test_the_cost_is_the_billed_tokens_at_the_list_price(dashscope: LoopbackDashScope) -> None:
    scorer = DashScopeScorer("qwen3-rerank", region="ap-southeast-1", limits=Limits(documents=1))
    usage = scorer.score("which?", ["one", "two words"]).usage
    assert usage.requests == 2
    assert usage.cost == pytest.approx(0.1 * usage.tokens / 1e6)


@pytest.mark.parametrize(
    ("model", "region"),
    [("qwen3-rerank", None), ("qwen3.7-text-rerank", "cn-beijing")],
    ids=["an unknown region", "a price in yuan only"],
)
def test_without_a_price_in_dollars_the_cost_is_unknown(
    dashscope: LoopbackDashScope, model: str, region: str | None
) -> None:
    assert DashScopeScorer(model, region=region).score("q", ["a"]).usage.cost is None


def test_with_images_the_cost_is_unknown_as_their_tokens_are_not_reported_apart(
    dashscope: LoopbackDashScope,
) -> None:
    scorer = DashScopeScorer("qwen3-vl-rerank", region="cn-beijing")
    assert scorer.score("q", ["a"]).usage.cost == pytest.approx(0.1e-6 * 2)
    assert scorer.score("q", ["a", Content(image=PNG)]).usage.cost is None
    assert scorer.score(Content(image=PNG), ["a"]).usage.cost is None


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": None}, {"total_tokens": 0}])
def test_if_one_response_of_a_call_has_no_tokens_the_cost_is_unknown(
    dashscope: LoopbackDashScope, usage: dict[str, Any] | None
) -> None:
    body = {"input": {"query": "q", "documents": ["a"]}, "parameters": {}}
    dashscope.faults.append(says(json.dumps({**ranking(body), "usage": usage})))
    scorer = DashScopeScorer("qwen3-rerank", region="cn-beijing", limits=Limits(documents=1))
    assert scorer.score("q", ["a", "a"]).usage.cost is None
    assert scorer.score("q", ["a", "a"]).usage.cost is not None


def test_one_unknown_cost_makes_a_sum_unknown(dashscope: LoopbackDashScope) -> None:
    known = DashScopeScorer("qwen3-rerank", region="cn-beijing").score("q", ["a"]).usage
    unknown = DashScopeScorer("qwen3-rerank").score("q", ["a"]).usage
    assert known.cost is not None
    assert sum([known, known], Usage()).cost == pytest.approx(2 * known.cost)
    assert sum([known, unknown], Usage()).cost is None


def test_your_own_server_has_no_list_price_and_this_process_is_free() -> None:
    with VLLM() as server:
        assert ServerScorer(server.root, dialect="vllm").score("q", ["a"]).usage.cost is None
    assert EmbeddedScorer().score("q", ["a"]).usage.cost == 0.0

"""OpenTelemetry spans, as its SDK exports them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    Limits,
    Ranking,
    RateLimitError,
    Record,
    RequestTimeoutError,
    RerankEngine,
    ServerScorer,
)
from qwen_rerank.testing.faults import drops, hangs, refuses
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.clients import PLUGINS, arank, rank
from tests.support.interpreter import python
from tests.support.servers import VLLM

Spans = Callable[[], list[Any]]
Rerank = Callable[..., Ranking]

TEXT = "confidential"
RECORDS = [
    Record("a", {"text": f"{TEXT} score=0.2"}),
    Record("b", {"text": f"{TEXT} score=0.9"}),
    Record("c", {"text": f"{TEXT} score=0.9"}),
    Record("d", {"text": ""}),
    Record("a", {"text": f"{TEXT} score=0.2"}),
]
ONE_A_REQUEST = Limits(documents=1)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """The spans exported so far, in the order in which they ended."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # a process can set it only once
    return lambda: list(exporter.get_finished_spans())


@pytest.fixture(params=["sync", "async"])
def rerank(request: pytest.FixtureRequest) -> Rerank:
    """Ranks the records, sync or async."""

    def call(scorer: Any, query: str = f"{TEXT} question", **options: Any) -> Ranking:
        top_n = options.pop("top_n", None)
        engine = RerankEngine(scorer, rerank_field="text", **options)
        if request.param == "sync":
            return engine.rerank(query, RECORDS, top_n)
        return asyncio.run(engine.arerank(query, RECORDS, top_n))

    return call


def named(spans: Sequence[Any], name: str) -> list[Any]:
    return [span for span in spans if span.name == name]


def test_a_ranking_is_a_span_with_its_input_and_its_result_in_figures(
    dashscope: LoopbackDashScope, spans: Spans, rerank: Rerank
) -> None:
    scorer = DashScopeScorer("qwen3-rerank", region="cn-beijing")
    ranking = rerank(scorer, max_candidates=2, top_n=1)
    (span,) = named(spans(), "rerank qwen3-rerank")
    assert (span.kind.name, span.status.status_code.name, span.parent) == (
        "INTERNAL",
        "UNSET",
        None,
    )
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "rerank",
        "gen_ai.request.model": "qwen3-rerank",
        "gen_ai.response.model": "qwen3-rerank",
        "gen_ai.usage.input_tokens": ranking.usage.tokens,
        "qwen_rerank.documents": 5,
        "qwen_rerank.top_n": 1,
        "qwen_rerank.returned": 1,
        "qwen_rerank.skipped": 1,
        "qwen_rerank.duplicates": 1,
        "qwen_rerank.over_budget": 1,
        "qwen_rerank.unranked": False,
        "qwen_rerank.requests": 1,
        "qwen_rerank.texts_sent": 2,
        "qwen_rerank.duplicate_texts": 0,
        "qwen_rerank.skipped_by_cascade": 0,
        "qwen_rerank.truncated": 0,
        "qwen_rerank.cache_hits": 0,
        "qwen_rerank.retries": 0,
        "qwen_rerank.seconds": ranking.usage.seconds,
        "qwen_rerank.cost": ranking.usage.cost,
    }


def test_a_request_is_a_child_span(
    dashscope: LoopbackDashScope, spans: Spans, rerank: Rerank
) -> None:
    ranking = rerank(DashScopeScorer())
    request, whole = spans()
    assert (request.name, request.kind.name) == ("POST", "CLIENT")
    assert request.parent.span_id == whole.context.span_id
    assert dict(request.attributes) == {
        "gen_ai.operation.name": "rerank",
        "gen_ai.provider.name": "dashscope",
        "gen_ai.request.model": "qwen3-rerank",
        "gen_ai.usage.input_tokens": ranking.usage.tokens,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": dashscope.port,
        "url.full": f"{dashscope.base_url}/services/rerank/text-rerank/text-rerank",
        "qwen_rerank.documents": 2,
    }


def test_each_request_and_each_attempt_has_its_own_span(
    dashscope: LoopbackDashScope, spans: Spans, rerank: Rerank
) -> None:
    dashscope.faults.extend([refuses(503, "ServiceUnavailable"), drops])
    rerank(DashScopeScorer(limits=ONE_A_REQUEST, max_concurrency=1, backoff=0))
    *requests, whole = spans()
    facts = ("http.response.status_code", "http.request.resend_count", "error.type")
    assert [tuple(map(each.attributes.get, facts)) for each in requests] == [
        (503, None, "qwen_rerank.errors.ServiceError"),
        (None, 1, "qwen_rerank.errors.ServiceError"),
        (200, 2, None),
        (200, None, None),
    ]
    assert {each.parent.span_id for each in requests} == {whole.context.span_id}
    assert (whole.attributes["qwen_rerank.requests"], whole.attributes["qwen_rerank.retries"]) == (
        2,
        2,
    )


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (refuses(429, "Throttling"), RateLimitError, 429),
        (refuses(400, "InvalidParameter", f"{TEXT} {KEY}"), InvalidInputError, 400),
        (hangs, RequestTimeoutError, None),
    ],
)
def test_both_spans_of_a_failure_have_its_type_and_no_text(
    dashscope: LoopbackDashScope,
    spans: Spans,
    rerank: Rerank,
    fault: Any,
    kind: type[Exception],
    status: int | None,
) -> None:
    dashscope.faults.append(fault)
    with pytest.raises(kind):
        rerank(DashScopeScorer(max_retries=0, timeout=0.5 if fault is hangs else 30))
    for span in spans():
        assert (span.status.status_code.name, span.status.description) == ("ERROR", None)
        assert span.attributes["error.type"] == f"qwen_rerank.errors.{kind.__name__}"
        assert span.attributes.get("http.response.status_code") == status
        assert span.events == ()
    assert len(spans()) == 2


def test_refused_input_is_a_span_without_requests(spans: Spans, rerank: Rerank) -> None:
    with pytest.raises(InvalidInputError):
        rerank(EmbeddedScorer(), query=" ")
    (span,) = spans()
    assert span.attributes["error.type"] == "qwen_rerank.errors.InvalidInputError"


def test_no_text_and_no_key_is_in_a_span(
    dashscope: LoopbackDashScope, spans: Spans, rerank: Rerank
) -> None:
    dashscope.faults.append(refuses(500, "InternalError", f"{TEXT} {KEY}"))
    rerank(DashScopeScorer(backoff=0))
    written = "".join(span.to_json() for span in spans())
    assert "rerank qwen3-rerank" in written
    assert TEXT not in written
    assert KEY not in written


def test_a_scorer_without_requests_has_one_span_without_tokens(
    spans: Spans, rerank: Rerank
) -> None:
    rerank(EmbeddedScorer())
    (span,) = spans()
    assert span.name == "rerank embedded"
    assert "gen_ai.usage.input_tokens" not in span.attributes
    assert span.attributes["qwen_rerank.cost"] == 0.0


@pytest.mark.parametrize(("dialect", "provider"), [("vllm", "vllm"), (None, None)])
def test_the_provider_is_the_server_where_it_is_known(
    spans: Spans, rerank: Rerank, dialect: Any, provider: str | None
) -> None:
    with VLLM() as server:
        rerank(ServerScorer(f"{server.root}/v1/rerank", dialect=dialect))
    request, _ = spans()
    assert request.attributes.get("gen_ai.provider.name") == provider


@pytest.mark.parametrize("make", PLUGINS.values(), ids=PLUGINS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_at_every_face_a_ranking_is_a_child_of_the_current_span(
    dashscope: LoopbackDashScope, spans: Spans, make: Callable[..., Any], is_async: bool
) -> None:
    from opentelemetry import trace

    with trace.get_tracer("the user's").start_as_current_span("answer"):
        if is_async:
            await arank(make(model="qwen3-rerank"), ["score=0.5"])
        else:
            rank(make(model="qwen3-rerank"), ["score=0.5"])
    request, ranking, answer = spans()
    assert (request.name, ranking.name, answer.name) == ("POST", "rerank qwen3-rerank", "answer")
    assert request.parent.span_id == ranking.context.span_id
    assert ranking.parent.span_id == answer.context.span_id
    assert answer.parent is None


async def test_concurrent_rankings_have_their_own_requests(
    dashscope: LoopbackDashScope, spans: Spans
) -> None:
    dashscope.answer_only_when(in_flight=8)
    engine = RerankEngine(DashScopeScorer("qwen3-rerank"), rerank_field="text")
    other = RerankEngine(DashScopeScorer(), rerank_field="text")
    with ThreadPoolExecutor(4) as threads:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            *(loop.run_in_executor(threads, engine.rerank, "q", RECORDS) for _ in range(4)),
            *(other.arerank("q", RECORDS) for _ in range(4)),
        )
    rankings = {each.context.span_id: each for each in spans() if each.kind.name == "INTERNAL"}
    requests = named(spans(), "POST")
    assert {each.parent.span_id for each in requests} == set(rankings)
    assert len(requests) == len(rankings) == 8
    for request in requests:
        parent = rankings[request.parent.span_id]
        assert request.context.trace_id == parent.context.trace_id
        model = "gen_ai.request.model"
        assert request.attributes[model] == parent.attributes[model]


async def test_a_cancelled_ranking_ends_its_spans(
    dashscope: LoopbackDashScope, spans: Spans
) -> None:
    dashscope.faults.append(hangs)
    engine = RerankEngine(DashScopeScorer(), rerank_field="text")
    call = asyncio.create_task(engine.arerank("q", RECORDS))
    await asyncio.to_thread(dashscope.arrived.wait, 100)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(dashscope.disconnected.wait, 25)
    (ranking,) = named(spans(), "rerank qwen3-rerank")
    assert ranking.attributes["error.type"] == "asyncio.exceptions.CancelledError"
    assert ranking.status.status_code.name == "ERROR"
    assert len(named(spans(), "POST")) == 1


@pytest.mark.parametrize(
    "before",
    ["sys.modules['opentelemetry'] = None", "import opentelemetry.trace"],
    ids=["not installed", "not set up"],
)
def test_without_opentelemetry_every_face_works(dashscope: LoopbackDashScope, before: str) -> None:
    code = (
        f"import asyncio, sys\n{before}\n"
        "from tests.support.clients import PLUGINS, arank, rank\n"
        "for make in PLUGINS.values():\n"
        "    assert rank(make(), ['score=0.5']) == [('score=0.5', 0.5)]\n"
        "    assert asyncio.run(arank(make(), ['score=0.5'])) == [('score=0.5', 0.5)]\n"
    )
    assert python(code) == ("", "")


def test_ranking_does_not_import_opentelemetry(dashscope: LoopbackDashScope) -> None:
    code = (
        "import sys, qwen_rerank\n"
        "reranker = qwen_rerank.QwenReRanker('q')\n"
        "assert reranker.rerank([[qwen_rerank.Record('a', {'content': 'score=0.5'})]])\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    assert python(code) == ("[]\n", "")

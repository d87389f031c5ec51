"""The postprocessor's step as LlamaIndex's two ways of watching see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core.callbacks import (
    CallbackManager,
    CBEventType,
    EventPayload,
    LlamaDebugHandler,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import Field

from llamaindex_qwen_rerank import QwenRerank
from qwen_rerank import EmbeddedScorer, InvalidInputError, Scorer, Scores, ServiceError
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope

Postprocess = Callable[..., list[NodeWithScore]]

QUERY = "What do penguins eat?"
NODES = [
    NodeWithScore(node=TextNode(text=text)) for text in ("score=0.2 ", "score=0.9 ", "score=0.9 ")
]


class Events(BaseEventHandler):
    """Keeps what is told of rerankings."""

    seen: list[ReRankStartEvent | ReRankEndEvent] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self.seen.append(event)

    def pair(self) -> tuple[ReRankStartEvent, ReRankEndEvent]:
        """The only start and the only end, in this order."""
        start, end = self.seen
        assert isinstance(start, ReRankStartEvent)
        assert isinstance(end, ReRankEndEvent)
        return start, end


@pytest.fixture
def events() -> Iterator[Events]:
    handler = Events()
    root = get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


def test_a_reranking_has_a_start_and_an_end(
    dashscope: LoopbackDashScope, postprocess: Postprocess, events: Events
) -> None:
    ranked = postprocess(QwenRerank(model="qwen3-rerank", top_n=2), NODES, query_str=QUERY)
    start, end = events.pair()
    assert (start.query, start.model_name, start.top_n) == (QUERY, "qwen3-rerank", 2)
    assert start.nodes == NODES
    assert end.nodes == ranked


def test_the_end_says_what_it_cost(
    dashscope: LoopbackDashScope, postprocess: Postprocess, events: Events
) -> None:
    rerank = QwenRerank(region="cn-beijing")
    postprocess(rerank, [*NODES, NodeWithScore(node=TextNode(text=""))], query_str=QUERY)
    _, end = events.pair()
    usage = end.tags["usage"]
    assert (usage["requests"], usage["texts_sent"], usage["duplicate_texts"]) == (1, 2, 1)
    assert usage["tokens"] > 0
    assert usage["cost"] == pytest.approx(0.069e-6 * usage["tokens"])
    assert end.tags["skipped"] == 1


def test_all_is_as_many_as_there_are(postprocess: Postprocess, events: Events) -> None:
    postprocess(QwenRerank(scorer=EmbeddedScorer(), top_n=None), NODES, query_str=QUERY)
    assert events.pair()[0].top_n == len(NODES)


def test_an_empty_input_has_a_start_and_an_end(postprocess: Postprocess, events: Events) -> None:
    assert postprocess(QwenRerank(scorer=EmbeddedScorer()), [], query_str=QUERY) == []
    start, end = events.pair()
    assert (start.nodes, end.nodes) == ([], [])


def test_a_missing_query_has_a_start_and_an_end(postprocess: Postprocess, events: Events) -> None:
    with pytest.raises(InvalidInputError):
        postprocess(QwenRerank(scorer=EmbeddedScorer()), NODES)
    start, end = events.pair()
    assert (start.nodes, end.nodes) == (NODES, [])


def test_a_failure_has_a_start_and_an_end(
    dashscope: LoopbackDashScope, postprocess: Postprocess, events: Events
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError):
        postprocess(QwenRerank(max_retries=0), NODES, query_str=QUERY)
    start, end = events.pair()
    assert (start.nodes, end.nodes) == (NODES, [])


class Endless(Scorer):
    """Says when it is asked, and never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    @property
    def model(self) -> str:
        return "endless"

    def score(self, query: str, texts: Any) -> Scores:
        self.asked.set()
        raise AssertionError("blocks the event loop")

    async def ascore(self, query: str, texts: Any) -> Scores:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_cancelled_reranking_has_a_start_and_an_end(events: Events) -> None:
    scorer = Endless()
    rerank = QwenRerank(scorer=scorer)
    task = asyncio.create_task(rerank.apostprocess_nodes(NODES, query_str=QUERY))
    await scorer.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events.pair()[1].nodes == []


def test_the_key_is_in_no_event(
    dashscope: LoopbackDashScope, postprocess: Postprocess, events: Events
) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = QwenRerank(api_key=KEY, callback_manager=CallbackManager([debug]))
    postprocess(rerank, NODES, query_str=QUERY)
    told = [event.model_dump() for event in events.pair()]
    assert KEY not in f"{told} {debug.get_event_pairs(CBEventType.RERANKING)}"


def pair_of(debug: LlamaDebugHandler) -> tuple[dict[str, Any], dict[str, Any]]:
    """The payloads of the only reranking's start and end."""
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert start.payload is not None
    assert end.payload is not None
    return start.payload, end.payload


def test_callbacks_are_told(dashscope: LoopbackDashScope, postprocess: Postprocess) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = QwenRerank(callback_manager=CallbackManager([debug]))
    ranked = postprocess(rerank, NODES, query_str=QUERY)
    start, end = pair_of(debug)
    assert start[EventPayload.QUERY_STR] == QUERY
    assert start[EventPayload.MODEL_NAME] == "qwen3-rerank"
    assert start[EventPayload.TOP_K] == 3
    assert start[EventPayload.NODES] == NODES
    assert end[EventPayload.NODES] == ranked


def test_callbacks_are_told_of_a_failure(
    dashscope: LoopbackDashScope, postprocess: Postprocess
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = QwenRerank(callback_manager=CallbackManager([debug]), max_retries=0)
    with pytest.raises(ServiceError) as caught:
        postprocess(rerank, NODES, query_str=QUERY)
    assert pair_of(debug)[1][EventPayload.EXCEPTION] is caught.value


def test_a_callback_manager_can_be_assigned(postprocess: Postprocess) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = QwenRerank(scorer=EmbeddedScorer())
    rerank.callback_manager = CallbackManager([debug])
    postprocess(rerank, NODES, query_str=QUERY)
    assert pair_of(debug)

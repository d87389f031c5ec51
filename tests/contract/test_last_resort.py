"""What a user sees through every door where another scorer, or none, answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import (
    CachedScorer,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    KeepOrder,
    Record,
    RerankEngine,
    Scorer,
    ServiceError,
)
from tests.contract.doors import DOORS, ITEMS, KEY, QUERY, SECRET, TEXT, Door, Log
from tests.contract.faces import FACES, Face, Item, LangChain, LlamaIndex, Reranker
from tests.support.loopback import LoopbackDashScope, breaks_off, refuses, says
from tests.support.wrapped import Down, Pointwise

Rank = Callable[..., list[Item]]

BLANK = Item("blank")


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
def face(request: pytest.FixtureRequest) -> type[Face]:
    chosen: type[Face] = request.param
    return chosen


@pytest.fixture(params=["sync", "async"])
def rank(request: pytest.FixtureRequest, face: type[Face]) -> Rank:
    """Rank items by this face, where nothing but the last resort answers."""

    def call(*items: Item, **options: Any) -> list[Item]:
        made = face(QUERY, scorer=FallbackScorer(Down(), KeepOrder()), **options)
        things = [made.make(item) for item in items]
        ranked = asyncio.run(made.arank(things)) if request.param == "async" else made.rank(things)
        return [made.read(thing) for thing in ranked]

    return call


@pytest.fixture
def retrieved(face: type[Face]) -> Rank:
    """The items as the face's first stage gave them, best first."""

    def call(*items: Item) -> list[Item]:
        score = None if face is LangChain else 0.5
        lists = (items[:2], items[2:]) if face is Reranker else (items,)
        ranks = chain.from_iterable(zip_longest(*lists))
        return [replace(item, score=score) for item in ranks if item is not None]

    return call


@pytest.mark.parametrize("options", [{}, {"min_score": 0.9}, {"blend": 0.5}, {"diversity": 0.5}])
def test_the_order_and_the_retrieval_scores_are_kept(
    rank: Rank, retrieved: Rank, options: dict[str, Any]
) -> None:
    assert rank(*ITEMS, **options) == retrieved(*ITEMS)


def test_top_n_counts_as_ever(rank: Rank, retrieved: Rank) -> None:
    assert rank(*ITEMS, top_n=2, min_score=0.9) == retrieved(*ITEMS)[:2]


def test_items_with_the_same_text_keep_their_places(rank: Rank, retrieved: Rank) -> None:
    items = (*ITEMS, replace(ITEMS[0], id="again"))
    assert rank(*items) == retrieved(*items)


def test_items_without_text_are_kept_behind_the_others(rank: Rank, retrieved: Rank) -> None:
    *others, last = rank(BLANK, *ITEMS, missing="keep", min_score=0.9)
    assert others == [item for item in retrieved(BLANK, *ITEMS) if item.id != "blank"]
    assert last == BLANK


def test_a_relevance_score_of_an_earlier_stage_stays_in_a_documents_metadata() -> None:
    document = Document(page_content="text", metadata={"relevance_score": 0.7})
    compressor = QwenRerank(scorer=KeepOrder(), keep_retrieval_score=True)
    (found,) = compressor.compress_documents([document], QUERY)
    assert found.metadata == {"relevance_score": 0.7, "retrieval_score": 0.7}


def test_several_lists_are_fused_as_their_ranks_tell() -> None:
    def records(*ids: str) -> list[Record]:
        return [Record(id_, {"text": id_}, 0.5) for id_ in ids]

    engine = RerankEngine(KeepOrder(), rerank_field="text", min_score=0.9)
    ranking = engine.rerank(QUERY, {"dense": records("a", "b", "c"), "sparse": records("c", "d")})
    assert [record.id for record in ranking] == ["c", "a", "b", "d"]
    assert [record.score for record in ranking] == [0.5] * 4
    assert ranking[0].lists == {"dense": 3, "sparse": 1}
    assert ranking.unranked
    assert ranking.usage.cost == 0.0


@pytest.mark.parametrize("plugin", [LangChain, LlamaIndex])
@pytest.mark.parametrize(
    ("scorer", "model"),
    [
        (Pointwise(), "pointwise"),
        (FallbackScorer(Down(), Pointwise("second")), "second"),
        (FallbackScorer(Down(), KeepOrder()), "keep-order"),
    ],
    ids=["first", "second", "last resort"],
)
def test_the_plugins_keep_in_the_metadata_which_model_answered(
    plugin: type[Face], scorer: Scorer, model: str
) -> None:
    for more in ({}, {"keep_retrieval_score": True}):
        made = plugin(QUERY, scorer=scorer, keep_model=True, **more)
        ranked = [made.read(thing) for thing in made.rank([made.make(item) for item in ITEMS])]
        assert [item.fields["rerank_model"] for item in ranked] == [model] * 3


def test_a_model_is_kept_only_if_asked_for() -> None:
    made = QwenRerank(scorer=Pointwise())
    (found,) = made.compress_documents([Document(page_content="text")], QUERY)
    assert "rerank_model" not in found.metadata


@pytest.fixture
def failing() -> Iterator[LoopbackDashScope]:
    """The service that is asked first, of which the environment says nothing."""
    with LoopbackDashScope(key=KEY) as server:
        yield server


@pytest.fixture(params=DOORS.values(), ids=list(DOORS))
def door(
    request: pytest.FixtureRequest, failing: LoopbackDashScope, log: Log
) -> Iterator[Callable[..., Door]]:
    """Each door, to a service with others to fall back on. No key shows and no text is logged."""
    face, awaited = request.param
    first = DashScopeScorer(api_key=KEY, base_url=failing.base_url, max_retries=0)
    doors: list[Door] = []

    def make(*others: Scorer) -> Door:
        scorer = FallbackScorer(CachedScorer(first, {}), *others)
        doors.append(Door(face, awaited, {"scorer": scorer}))
        return doors[-1]

    yield make
    shown = [text for door in doors for text in door.shown]
    assert not [text for text in (*shown, *log.texts) if SECRET in text], "a key shows"
    assert not [text for text in log.texts if TEXT in text], "a text is logged"


ECHO = f'{{"code": "Throttling", "message": "{KEY} sent {TEXT}", "request_id": "{KEY}"}}'

FAULTS = {
    "429": refuses(429, "Throttling", f"{KEY} asked {TEXT}"),
    "echo": says(ECHO, status=429),
    "broken off": breaks_off,
}

each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


@each_fault
def test_a_failing_service_does_not_fail_the_search(
    door: Callable[..., Door], failing: LoopbackDashScope, fault: Any
) -> None:
    failing.faults.append(fault)
    ranked = door(EmbeddedScorer()).rank()
    assert len(ranked) == 3
    assert all(item.score for item in ranked)


@each_fault
def test_where_all_fail_the_error_tells_of_each(
    door: Callable[..., Door], failing: LoopbackDashScope, fault: Any
) -> None:
    failing.faults.append(fault)
    with pytest.raises(ServiceError) as caught:
        door(Down("last")).rank()
    (note,) = caught.value.__notes__
    assert note.startswith("Before that, gte-rerank-v2 failed (")

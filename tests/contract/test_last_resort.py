"""What users see if another scorer responds instead of the first, or none does."""

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
from qwen_rerank.testing.faults import breaks_off, refuses, says
from qwen_rerank.testing.loopback import Fault, LoopbackDashScope
from tests.contract.entry_points import (
    ITEMS,
    KEY,
    QUERY,
    TEXT,
    EntryPoint,
    Log,
    check_nothing_leaked,
)
from tests.contract.faces import FACES, PLUGINS, USER_FACES, Face, Item, LangChain, Plain, Reranker
from tests.support.wrapped import Down, Pointwise

Rank = Callable[..., list[Item]]

BLANK = Item("blank")


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
def face(request: pytest.FixtureRequest) -> type[Face]:
    chosen: type[Face] = request.param
    return chosen


@pytest.fixture
def rank(face: type[Face]) -> Rank:
    """Ranks items where only the last resort responds; sync and async must agree."""

    def rank(*items: Item, **options: Any) -> list[Item]:
        built = face(QUERY, scorer=FallbackScorer(Down(), KeepOrder()), **options)
        made = list(map(built.make, items))
        ranked, awaited = list(built.rank(made)), list(asyncio.run(built.arank(made)))
        assert ranked == awaited
        return list(map(built.read, ranked))

    return rank


@pytest.fixture
def retrieved(face: type[Face]) -> Rank:
    """The items in the order of the first stage, with its scores."""

    def retrieved(*items: Item) -> list[Item]:
        score = None if face is LangChain else 0.5
        lists = (items[:2], items[2:]) if face is Reranker else (items,)
        ranks = chain.from_iterable(zip_longest(*lists))
        return [replace(item, score=score) for item in ranks if item is not None]

    return retrieved


def test_the_order_and_the_retrieval_scores_are_kept_whatever_the_options(
    rank: Rank, retrieved: Rank
) -> None:
    options: list[dict[str, Any]] = [{}, {"min_score": 0.9}, {"blend": 0.5}, {"diversity": 0.5}]
    for each in options:
        assert rank(*ITEMS, **each) == retrieved(*ITEMS), each


def test_top_n_still_limits_what_is_returned(rank: Rank, retrieved: Rank) -> None:
    assert rank(*ITEMS, top_n=2, min_score=0.9) == retrieved(*ITEMS)[:2]


def test_items_with_equal_texts_keep_their_order(rank: Rank, retrieved: Rank) -> None:
    items = (*ITEMS, replace(ITEMS[0], id="again"))
    assert rank(*items) == retrieved(*items)


def test_items_without_text_are_kept_behind_the_others(rank: Rank, retrieved: Rank) -> None:
    *others, last = rank(BLANK, *ITEMS, missing="keep", min_score=0.9)
    assert others == [item for item in retrieved(BLANK, *ITEMS) if item.id != "blank"]
    assert last == BLANK


def test_the_relevance_score_of_an_earlier_stage_stays_in_the_metadata() -> None:
    document = Document(page_content="text", metadata={"relevance_score": 0.7})
    compressor = QwenRerank(scorer=KeepOrder(), keep_retrieval_score=True)
    (kept,) = compressor.compress_documents([document], QUERY)
    assert kept.metadata == {"relevance_score": 0.7, "retrieval_score": 0.7}


@pytest.mark.parametrize("score", [float("nan"), "0.7", None])
def test_what_is_not_a_score_does_not_become_one(score: object) -> None:
    document = Document(page_content="text", metadata={"relevance_score": score})
    (kept,) = QwenRerank(scorer=KeepOrder()).compress_documents([document], QUERY)
    assert kept.metadata == {"relevance_score": None}


def test_several_lists_are_fused_by_rank() -> None:
    def records(*ids: str) -> list[Record]:
        return [Record(id_, {"text": id_}, 0.5) for id_ in ids]

    engine = RerankEngine(KeepOrder(), rerank_field="text", min_score=0.9)
    ranking = engine.rerank(QUERY, {"dense": records("a", "b", "c"), "sparse": records("c", "d")})
    assert [record.id for record in ranking] == ["c", "a", "b", "d"]
    assert [record.score for record in ranking] == [0.5] * 4
    assert ranking[0].lists == {"dense": 3, "sparse": 1}
    assert ranking.unranked
    assert ranking.usage.cost == 0.0


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize(
    ("scorer", "model"),
    [
        (Pointwise(), "pointwise"),
        (FallbackScorer(Down(), Pointwise("second")), "second"),
        (FallbackScorer(Down(), KeepOrder()), "keep-order"),
    ],
    ids=["first", "second", "last resort"],
)
def test_the_plugins_can_keep_the_model_that_responded_in_the_metadata(
    plugin: type[Face], scorer: Scorer, model: str
) -> None:
    for more in ({}, {"keep_retrieval_score": True}):
        built = plugin(QUERY, scorer=scorer, keep_model=True, **more)
        ranked = [built.read(thing) for thing in built.rank(list(map(built.make, ITEMS)))]
        assert [item.fields["rerank_model"] for item in ranked] == [model] * 3


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_plugins_keep_the_model_only_if_asked_to(plugin: type[Face]) -> None:
    built = plugin(QUERY, scorer=Pointwise())
    ranked = map(built.read, built.rank(list(map(built.make, ITEMS))))
    assert all("rerank_model" not in item.fields for item in ranked)


@pytest.fixture
def failing() -> Iterator[LoopbackDashScope]:
    """The service that is asked first, of which the environment says nothing."""
    with LoopbackDashScope(key=KEY) as server:
        yield server


Build = Callable[..., list[EntryPoint]]


@pytest.fixture
def with_fallback(failing: LoopbackDashScope, log: Log) -> Iterator[Build]:
    """Entry points of a face with scorers to fall back on. No key and no text leaks."""
    first = DashScopeScorer(api_key=KEY, base_url=failing.base_url, max_retries=0)
    built: list[EntryPoint] = []

    def build(face: type[Face], *others: Scorer) -> list[EntryPoint]:
        scorer = FallbackScorer(CachedScorer(first, {}), *others)
        pair = [EntryPoint(face, is_async, {"scorer": scorer}) for is_async in (False, True)]
        built.extend(pair)
        return pair

    yield build
    check_nothing_leaked([text for entry_point in built for text in entry_point.seen], log)


ECHO = f'{{"code": "Throttling", "message": "{KEY} sent {TEXT}", "request_id": "{KEY}"}}'

FAULTS = {
    "429": refuses(429, "Throttling", f"{KEY} asked {TEXT}"),
    "echo": says(ECHO, status=429),
    "broken off": breaks_off,
}

CASES = [
    *(pytest.param(Plain, fault, id=f"scorer-{name}") for name, fault in FAULTS.items()),
    *(pytest.param(face, FAULTS["echo"], id=f"{face.__name__}-echo") for face in USER_FACES),
]

each_case = pytest.mark.parametrize(("face", "fault"), CASES)


@each_case
def test_a_service_that_fails_does_not_fail_the_search(
    with_fallback: Build, failing: LoopbackDashScope, face: type[Face], fault: Fault
) -> None:
    for entry_point in with_fallback(face, EmbeddedScorer()):
        failing.faults.append(fault)
        ranked = entry_point.rank()
        assert len(ranked) == 3
        assert all(item.score for item in ranked)
    assert not failing.faults


@each_case
def test_where_all_scorers_fail_the_error_names_each(
    with_fallback: Build, failing: LoopbackDashScope, face: type[Face], fault: Fault
) -> None:
    for entry_point in with_fallback(face, Down("last")):
        failing.faults.append(fault)
        with pytest.raises(ServiceError) as caught:
            entry_point.rank()
        (note,) = caught.value.__notes__
        assert note.startswith("Before that, qwen3-rerank failed (")

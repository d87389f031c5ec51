"""A PassageScorer through every face: the score, and the passage where there is a place for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import DashScopeScorer, PassageScorer, Record
from tests.contract.faces import FACES, Engine, Face, Item, LangChain, LlamaIndex
from tests.support.loopback import LoopbackDashScope, token_count

QUERY = "is it dark at the pole"
ANSWER = "It is so dark at the pole because the earth leans."
FILLER = " ".join(f"Penguin {i} swims to island {i * 7}." for i in range(500))
LONG = f"{FILLER} {ANSWER} {FILLER}"
ITEMS = [
    Item("other", {"text": FILLER}),
    Item("short", {"text": "It is so cold."}),
    Item("long", {"text": LONG}),
]


@pytest.fixture
def scorer(dashscope: LoopbackDashScope) -> PassageScorer:
    return PassageScorer(DashScopeScorer(), max_tokens=64, overlap=16)


@pytest.fixture(params=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "async")


def ranked(face: Face, awaited: bool) -> list[Any]:
    made = [face.make(item) for item in ITEMS]
    return list(asyncio.run(face.arank(made)) if awaited else face.rank(made))


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_what_answers_in_the_middle_of_a_long_document_is_found(
    face: type[Face], scorer: PassageScorer, awaited: bool
) -> None:
    made = face(QUERY, scorer=scorer)
    best, second, _ = map(made.read, ranked(made, awaited))
    assert (best.id, second.id) == ("long", "short")
    assert best.score == 1.0


def test_a_record_knows_the_passage_that_won(scorer: PassageScorer, awaited: bool) -> None:
    best, second, _ = ranked(Engine(QUERY, scorer=scorer), awaited)
    assert isinstance(best, Record)
    assert best.passage is not None
    assert ANSWER in best.passage.of(LONG)
    assert second.passage is None


@pytest.mark.parametrize("face", [LangChain, LlamaIndex])
def test_the_plugins_keep_the_passage_in_the_metadata_where_they_are_told_to(
    face: type[Face], scorer: PassageScorer, awaited: bool
) -> None:
    made = face(QUERY, scorer=scorer, keep_passage=True)
    best, second, _ = map(made.read, ranked(made, awaited))
    part = best.fields["text"][slice(*best.fields["passage"])]
    assert ANSWER in part
    assert token_count(part) <= 64
    assert second.fields["passage"] is None


@pytest.mark.parametrize("face", [LangChain, LlamaIndex])
def test_the_plugins_keep_no_passage_unless_they_are_told_to(
    face: type[Face], scorer: PassageScorer, awaited: bool
) -> None:
    made = face(QUERY, scorer=scorer)
    assert all(made.read(each).fields.keys() == {"text"} for each in ranked(made, awaited))


def test_the_passage_of_a_langchain_document_is_a_part_of_its_content(
    scorer: PassageScorer,
) -> None:
    compressor = langchain_qwen_rerank.QwenRerank(scorer=scorer, keep_passage=True)
    (document,) = compressor.compress_documents([Document(page_content=LONG)], QUERY)
    assert ANSWER in document.page_content[slice(*document.metadata["passage"])]


def test_the_passage_of_a_llamaindex_node_is_a_part_of_its_content_with_metadata(
    scorer: PassageScorer,
) -> None:
    rerank = llamaindex_qwen_rerank.QwenRerank(scorer=scorer, keep_passage=True)
    nodes = [NodeWithScore(node=TextNode(text=LONG, metadata={"title": "At the pole"}))]
    (found,) = rerank.postprocess_nodes(nodes, query_str=QUERY)
    content = found.node.get_content(MetadataMode.EMBED)
    assert content.startswith("title: At the pole")
    assert ANSWER in content[slice(*found.node.metadata["passage"])]

"""PassageScorer at every face: the score, and the passage where there is room for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import DashScopeScorer, PassageScorer, Record
from qwen_rerank.testing.loopback import LoopbackDashScope, token_count
from tests.contract.faces import FACES, PLUGINS, Engine, Face, Item

QUERY = "is it dark at the pole"
ANSWER = "It is so dark at the pole because the earth leans."
FILLER = " ".join(f"Penguin {i} swims to island {i * 7}." for i in range(500))
LONG = f"{FILLER} {ANSWER} {FILLER}"
ITEMS = [
    Item("other", {"text": FILLER}),
    Item("short", {"text": "It is so cold."}),
    Item("long", {"text": LONG}),
]

each_plugin = pytest.mark.parametrize("face", PLUGINS, ids=lambda face: face.__name__)


@pytest.fixture
def scorer(dashscope: LoopbackDashScope) -> PassageScorer:
    return PassageScorer(DashScopeScorer(), max_tokens=64, overlap=16)


def rank(face: Face) -> list[Any]:
    """What the face returns, which is the same sync and async."""
    made = [face.make(item) for item in ITEMS]
    ranked, awaited = list(face.rank(made)), list(asyncio.run(face.arank(made)))
    assert ranked == awaited
    return ranked


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_an_answer_in_the_middle_of_a_long_document_ranks_it_first(
    face: type[Face], scorer: PassageScorer
) -> None:
    built = face(QUERY, scorer=scorer)
    best, second, _ = map(built.read, rank(built))
    assert (best.id, second.id) == ("long", "short")
    assert best.score == 1.0


def test_a_record_has_the_passage_that_scored_best(scorer: PassageScorer) -> None:
    best, second, _ = rank(Engine(QUERY, scorer=scorer))
    assert isinstance(best, Record)
    assert best.passage is not None
    assert ANSWER in best.passage.of(LONG)
    assert second.passage is None


@each_plugin
def test_the_plugins_can_keep_the_passage_in_the_metadata(
    face: type[Face], scorer: PassageScorer
) -> None:
    built = face(QUERY, scorer=scorer, keep_passage=True)
    best, second, _ = map(built.read, rank(built))
    part = best.fields["text"][slice(*best.fields["passage"])]
    assert ANSWER in part
    assert token_count(part) <= 64
    assert second.fields["passage"] is None


@each_plugin
def test_the_plugins_keep_the_passage_only_if_asked_to(
    face: type[Face], scorer: PassageScorer
) -> None:
    built = face(QUERY, scorer=scorer)
    assert all(built.read(each).fields.keys() == {"text"} for each in rank(built))


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
    (scored,) = rerank.postprocess_nodes(nodes, query_str=QUERY)
    content = scored.node.get_content(MetadataMode.EMBED)
    assert content.startswith("title: At the pole")
    assert ANSWER in content[slice(*scored.node.metadata["passage"])]

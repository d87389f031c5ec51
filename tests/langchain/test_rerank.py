"""rerank and arerank: indices and scores, without making documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import InvalidInputError
from qwen_rerank.testing.loopback import LoopbackDashScope

Rank = Callable[..., list[dict[str, Any]]]

QUERY = "What do penguins eat?"
TEXTS = ["score=0.2 ", "score=0.9 ", "score=0.5 ", "score=0.1 "]


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(TEXTS, id="strings"),
        pytest.param([Document(page_content=text) for text in TEXTS], id="documents"),
        pytest.param([{"page_content": text} for text in TEXTS], id="mappings"),
        pytest.param(
            [TEXTS[0], Document(page_content=TEXTS[1]), {"page_content": TEXTS[2]}, TEXTS[3]],
            id="mixed",
        ),
    ],
)
@pytest.mark.parametrize("made", [list, iter])
def test_places_of_the_input_come_back_best_first(
    dashscope: LoopbackDashScope,
    rank: Rank,
    documents: list[Any],
    made: Callable[[list[Any]], Any],
) -> None:
    assert rank(QwenRerank(), made(documents), QUERY) == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 2, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 0.2},
    ]


@pytest.mark.parametrize(
    "documents",
    [TEXTS[0], TEXTS[0].encode(), {"dense": TEXTS}, Document(page_content=TEXTS[0]), [None], [7]],
)
def test_one_document_is_not_taken_for_several_nor_anything_for_a_document(
    dashscope: LoopbackDashScope, rank: Rank, documents: Any
) -> None:
    with pytest.raises(InvalidInputError, match="documents must be"):
        rank(QwenRerank(), documents, QUERY)
    assert not dashscope.received


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2),
        ({"top_n": -1}, 2),
        ({"top_n": None}, 4),
        ({"top_n": 1}, 1),
        ({"top_n": 3}, 3),
        ({"top_n": 50}, 4),
    ],
)
def test_top_n_is_the_compressors_own_unless_given(
    dashscope: LoopbackDashScope, rank: Rank, options: dict[str, Any], expected: int
) -> None:
    assert len(rank(QwenRerank(top_n=2), TEXTS, QUERY, **options)) == expected


def test_minus_one_is_all_where_the_compressor_returns_all(
    dashscope: LoopbackDashScope, rank: Rank
) -> None:
    assert len(rank(QwenRerank(top_n=None), TEXTS, QUERY, top_n=-1)) == 4


@pytest.mark.parametrize("top_n", [0, -2, 1.5, "2", True])
def test_any_other_top_n_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, rank: Rank, top_n: Any
) -> None:
    with pytest.raises(InvalidInputError, match="top_n"):
        rank(QwenRerank(), TEXTS, QUERY, top_n=top_n)
    assert not dashscope.received


def test_indices_skip_documents_without_text(dashscope: LoopbackDashScope, rank: Rank) -> None:
    entries = rank(QwenRerank(), ["", TEXTS[0], " ", TEXTS[1]], QUERY)
    assert [entry["index"] for entry in entries] == [3, 1]


def test_documents_kept_without_text_have_no_score(
    dashscope: LoopbackDashScope, rank: Rank
) -> None:
    assert rank(QwenRerank(missing="keep"), ["", TEXTS[0]], QUERY) == [
        {"index": 1, "relevance_score": 0.2},
        {"index": 0, "relevance_score": None},
    ]


def test_equal_strings_all_come_back_and_are_sent_once(
    dashscope: LoopbackDashScope, rank: Rank
) -> None:
    entries = rank(QwenRerank(), [TEXTS[0], TEXTS[1], TEXTS[0]], QUERY)
    assert [entry["index"] for entry in entries] == [1, 0, 2]
    assert sorted(dashscope.received[0].documents) == sorted(TEXTS[:2])


@pytest.mark.parametrize(
    ("texts", "indices"),
    [((0, 0), [1, 0]), ((0, 1), [2, 1, 0]), ((None, 1), [2, 0])],
    ids=["copies", "different texts", "first blank"],
)
def test_the_index_of_a_document_with_the_id_of_another_is_its_own(
    dashscope: LoopbackDashScope, rank: Rank, texts: Any, indices: list[int]
) -> None:
    shared = [
        Document(page_content=" " if text is None else TEXTS[text], id="same") for text in texts
    ]
    documents = [Document(page_content=TEXTS[3]), *shared]
    order = [entry["index"] for entry in rank(QwenRerank(), documents, QUERY)]
    assert sorted(order) == sorted(indices)
    assert order[-1] == 0


def test_ids_that_look_like_places_do_not_collide_with_places(
    dashscope: LoopbackDashScope, rank: Rank
) -> None:
    documents = [
        Document(page_content=text, id=id_)
        for text, id_ in zip(TEXTS, ["#1", None, "1", None], strict=True)
    ]
    entries = rank(QwenRerank(), documents, QUERY, top_n=None)
    assert [entry["index"] for entry in entries] == [1, 2, 0, 3]


def test_rerank_field_names_the_text_in_a_mapping(dashscope: LoopbackDashScope, rank: Rank) -> None:
    rows = [{"title": "a", "body": "score=0.1 "}, {"title": "b", "body": "score=0.2 "}]
    entries = rank(QwenRerank(rerank_field=["title", "body"]), rows, QUERY)
    assert [entry["index"] for entry in entries] == [1, 0]
    assert sorted(dashscope.received[0].documents) == [
        "title: a\nbody: score=0.1",
        "title: b\nbody: score=0.2",
    ]


def test_a_string_is_the_content_by_either_name(dashscope: LoopbackDashScope, rank: Rank) -> None:
    for name in ("content", "page_content"):
        assert [entry["index"] for entry in rank(QwenRerank(rerank_field=name), TEXTS, QUERY)] == [
            1,
            2,
            0,
        ]


@pytest.mark.parametrize(
    ("read", "documents"),
    [
        (lambda row: row["n"], [{"n": "score=0.1 "}, {"n": "score=0.2 "}]),
        (str.strip, ["score=0.1 ", "score=0.2 "]),
    ],
)
def test_a_function_reads_what_was_passed(
    dashscope: LoopbackDashScope, rank: Rank, read: Any, documents: list[Any]
) -> None:
    entries = rank(QwenRerank(rerank_field=read), documents, QUERY)
    assert [entry["index"] for entry in entries] == [1, 0]


def test_nothing_to_rank_makes_no_request(dashscope: LoopbackDashScope, rank: Rank) -> None:
    assert rank(QwenRerank(), [], QUERY) == []
    assert not dashscope.received

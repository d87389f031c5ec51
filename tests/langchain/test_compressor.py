"""QwenRerank for LangChain: documents in, copies out, best first."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document

from langchain_qwen_rerank import QwenRerank
from qwen_rerank import InvalidInputError, ServiceError
from qwen_rerank.testing import CompressorTests, FakeScorer
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.support.scorers import AsyncOnly

Compress = Callable[..., list[Document]]

QUERY = "What do penguins eat?"


def scored(score: float, **metadata: Any) -> Document:
    """A document that the loopback service gives this score."""
    return Document(page_content=f"score={score} ", metadata=metadata)


def scores(documents: list[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in documents]


class TestCompressor(CompressorTests):
    @pytest.fixture
    def compressor(self) -> BaseDocumentCompressor:
        return QwenRerank(scorer=FakeScorer())


def test_equal_scores_keep_the_order_of_the_documents(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [Document(page_content=f"score=0.5 {name}", id=name) for name in "cab"]
    ranked = compress(QwenRerank(), [*found, scored(0.7)], QUERY)
    assert [document.id for document in ranked] == [None, "c", "a"]


def test_the_query_reaches_the_service(dashscope: LoopbackDashScope, compress: Compress) -> None:
    compress(QwenRerank(), [scored(0.1)], QUERY)
    assert [request.query for request in dashscope.received] == [QUERY]


def test_ids_and_metadata_are_kept(dashscope: LoopbackDashScope, compress: Compress) -> None:
    document = Document(page_content="score=0.3 ", id="d1", metadata={"page": 7, "tags": ["a"]})
    (ranked,) = compress(QwenRerank(), [document], QUERY)
    assert ranked.id == "d1"
    assert ranked.metadata == {"page": 7, "tags": ["a"], "relevance_score": 0.3}


def test_the_documents_passed_in_are_not_changed(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [scored(0.2, page=1), scored(0.9, relevance_score=0.123)]
    before = copy.deepcopy(found)
    ranked = compress(QwenRerank(), found, QUERY)
    for document in ranked:
        document.metadata["mark"] = True
    assert found == before


def test_a_stale_relevance_score_is_replaced(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    (ranked,) = compress(QwenRerank(), [scored(0.4, relevance_score=0.99)], QUERY)
    assert ranked.metadata == {"relevance_score": 0.4}


def test_a_document_keeps_its_class(dashscope: LoopbackDashScope, compress: Compress) -> None:
    class Page(Document):
        number: int = 0

    (ranked,) = compress(QwenRerank(), [Page(page_content="score=0.4 ", number=3)], QUERY)
    assert isinstance(ranked, Page)
    assert ranked.number == 3


@pytest.mark.parametrize(("top_n", "expected"), [(1, 1), (3, 3), (50, 5), (None, 5)])
def test_top_n_bounds_the_answer(
    dashscope: LoopbackDashScope, compress: Compress, top_n: int | None, expected: int
) -> None:
    found = [scored(number / 10) for number in range(5)]
    ranked = compress(QwenRerank(top_n=top_n), found, QUERY)
    assert scores(ranked) == [0.4, 0.3, 0.2, 0.1, 0.0][:expected]


def test_three_documents_come_back_unless_asked_otherwise(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    assert len(compress(QwenRerank(), [scored(number / 10) for number in range(9)], QUERY)) == 3


def test_documents_under_min_score_are_left_out(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [scored(0.49), scored(0.5), scored(0.9)]
    assert scores(compress(QwenRerank(min_score=0.5), found, QUERY)) == [0.9, 0.5]


@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000"])
def test_a_document_without_text_is_skipped(
    dashscope: LoopbackDashScope, compress: Compress, blank: str
) -> None:
    ranked = compress(QwenRerank(), [Document(page_content=blank), scored(0.1)], QUERY)
    assert scores(ranked) == [0.1]
    assert dashscope.received[0].documents == ["score=0.1 "]


def test_documents_without_text_are_kept_at_the_end_without_a_score(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    blanks = [
        Document(page_content="", id=name, metadata={"relevance_score": 0.99}) for name in "yx"
    ]
    ranked = compress(QwenRerank(missing="keep"), [*blanks, scored(0.1)], QUERY)
    assert [document.id for document in ranked] == [None, "y", "x"]
    assert [document.metadata for document in ranked] == [
        {"relevance_score": score} for score in (0.1, None, None)
    ]


def test_a_document_without_text_is_an_error_when_asked(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [scored(0.1), Document(page_content=" ", id="empty-one")]
    with pytest.raises(InvalidInputError, match="empty-one"):
        compress(QwenRerank(missing="error"), found, QUERY)
    assert not dashscope.received


@pytest.mark.parametrize("found", [[], [Document(page_content=" ")]])
def test_nothing_to_rank_makes_no_request(
    dashscope: LoopbackDashScope, compress: Compress, found: list[Document]
) -> None:
    assert compress(QwenRerank(), found, QUERY) == []
    assert not dashscope.received


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(iter, id="an iterator"),
        pytest.param(lambda found: {"both": iter(found)}, id="an iterator by name"),
    ],
)
def test_no_document_of_an_iterator_is_lost(
    dashscope: LoopbackDashScope,
    compress: Compress,
    made: Callable[[list[Document]], Any],
) -> None:
    found = [scored(0.2), scored(0.9)]
    assert scores(compress(QwenRerank(), made(found), QUERY)) == [0.9, 0.2]


@pytest.mark.parametrize("documents", [["a text"], "a text", scored(0.1), {"one": ["a text"]}])
def test_what_is_no_document_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, compress: Compress, documents: Any
) -> None:
    with pytest.raises(InvalidInputError, match="documents must be Documents"):
        compress(QwenRerank(), documents, QUERY)
    assert not dashscope.received


@pytest.mark.parametrize("query", ["", " \n", None])
def test_a_blank_query_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, compress: Compress, query: Any
) -> None:
    with pytest.raises(InvalidInputError, match="query"):
        compress(QwenRerank(), [scored(0.1)], query)
    assert not dashscope.received


def test_copies_of_a_document_are_one_and_the_first_counts(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    copies = [Document("score=0.3 ", id="same", metadata={"page": page}) for page in (1, 2)]
    (ranked,) = compress(QwenRerank(), copies, QUERY)
    assert ranked.metadata == {"page": 1, "relevance_score": 0.3}


def test_one_id_with_different_texts_is_two_documents_and_a_warning(
    dashscope: LoopbackDashScope, compress: Compress, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = [Document(page_content=f"score=0.{number} ", id="parent") for number in (3, 8)]
    assert scores(compress(QwenRerank(), chunks, QUERY)) == [0.8, 0.3]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ids shared: 1" in caplog.text
    assert "'parent'" in caplog.text


def test_equal_texts_of_documents_without_id_are_sent_once_and_all_come_back(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    ranked = compress(QwenRerank(), [scored(0.3, page=page) for page in (1, 2)], QUERY)
    assert [document.metadata["page"] for document in ranked] == [1, 2]
    assert dashscope.received[0].documents == ["score=0.3 "]


@pytest.mark.parametrize(
    ("rerank_field", "sent"),
    [
        (None, "body"),
        ("page_content", "body"),
        ("title", "Title"),
        ("content", "body"),
        (["title", "summary"], "title: Title\nsummary: Summary"),
        (("title", "page_content"), "title: Title\npage_content: body"),
        (["title", "absent", "content"], "title: Title\ncontent: body"),
        ("{title} ({year}): {content}", "Title (2024): body"),
        ("year", "2024"),
        ("tags", "a, b"),
        (lambda document: f"{document.metadata['title']}: {document.page_content}", "Title: body"),
    ],
)
def test_rerank_field_says_what_is_sent(
    dashscope: LoopbackDashScope, compress: Compress, rerank_field: Any, sent: str
) -> None:
    metadata = {"title": "Title", "summary": "Summary", "year": 2024, "tags": ["a", "b"]}
    metadata["content"] = metadata["page_content"] = "hidden by the document's own"
    document = Document(page_content="body", metadata=metadata)
    (ranked,) = compress(QwenRerank(rerank_field=rerank_field), [document], QUERY)
    assert dashscope.received[0].documents == [sent]
    assert ranked.page_content == "body"


def test_a_document_without_the_field_counts_as_one_without_text(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    found = [scored(0.9), scored(0.9, summary=None), scored(0.9, summary="score=0.2 ")]
    assert scores(compress(QwenRerank(rerank_field="summary"), found, QUERY)) == [0.2]


def test_a_field_that_is_no_text_is_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    with pytest.raises(
        InvalidInputError, match="photo of the document at index 0 is of type bytes"
    ):
        compress(QwenRerank(rerank_field="photo"), [scored(0.1, photo=b"GIF8")], QUERY)
    assert not dashscope.received


def test_a_failure_of_the_service_is_raised(
    dashscope: LoopbackDashScope, compress: Compress
) -> None:
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError) as caught:
        compress(QwenRerank(max_retries=0), [scored(0.1)], QUERY)
    assert (caught.value.code, caught.value.status) == ("InternalError", 500)


async def test_the_asynchronous_methods_await_the_scorer() -> None:
    compressor = QwenRerank(scorer=AsyncOnly())
    found = [Document(page_content="a"), Document(page_content="abc")]
    assert scores(await compressor.acompress_documents(found, QUERY)) == [3.0, 1.0]
    assert [entry["index"] for entry in await compressor.arerank(found, QUERY)] == [1, 0]

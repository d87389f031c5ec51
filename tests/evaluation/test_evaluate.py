"""Retrieving, reranking and measuring with every kind of first and second stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import (
    AuthenticationError,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    QwenRerankError,
    Record,
    RerankEngine,
    Scorer,
)
from qwen_rerank.evaluation import Report, aevaluate, evaluate
from qwen_rerank.testing.faults import refuses
from qwen_rerank.testing.loopback import LoopbackDashScope
from tests.evaluation.corpus import (
    BY_TEXT,
    JUDGEMENTS,
    QUERIES,
    RETRIEVED,
    RR_BEFORE,
    TEXTS,
    LangChainSearch,
    LlamaIndexSearch,
)

Run = Callable[..., Report]

RECORDS = {
    query_id: [Record(id_, {"content": TEXTS[id_]}) for id_ in ids]
    for query_id, ids in RETRIEVED.items()
}
SCORED = {
    query_id: {id_: -float(rank) for rank, id_ in enumerate(ids)}
    for query_id, ids in RETRIEVED.items()
}

FIRST_STAGES: dict[str, dict[str, Any]] = {
    "ids": {"first_stage": RETRIEVED, "documents": TEXTS},
    "scores": {"first_stage": SCORED, "documents": TEXTS},
    "records": {"first_stage": RECORDS},
    "function": {"first_stage": BY_TEXT.__getitem__, "documents": TEXTS},
    "langchain": {"first_stage": LangChainSearch(), "document_id": "doc"},
    "llamaindex": {"first_stage": LlamaIndexSearch()},
}
RERANKERS: dict[str, Callable[[], Any]] = {
    "scorer": DashScopeScorer,
    "engine": lambda: RerankEngine(DashScopeScorer(), rerank_field="content"),
    "compressor": lambda: langchain_qwen_rerank.QwenRerank(top_n=None),
    "postprocessor": lambda: llamaindex_qwen_rerank.QwenRerank(top_n=None),
}


def _check_stages(run: Run, first: str, second: str) -> None:
    report = run(
        reranker=RERANKERS[second](),
        queries=QUERIES,
        judgements=JUDGEMENTS,
        measures=["RR"],
        **FIRST_STAGES[first],
    )
    assert report.mean("RR", "retrieved") == pytest.approx(RR_BEFORE)
    assert report.mean("RR", "reranked") == 1
    assert report.runs["reranked"]["q1"] == {"c": 0.9, "b": 0.2, "a": 0.1}
    assert report.notes == ()
    if second in ("scorer", "engine"):
        assert report.usage is not None
        assert (report.usage.requests, report.usage.texts_sent) == (2, 5)
    else:
        assert report.usage is None


@pytest.mark.parametrize("first", FIRST_STAGES)
def test_every_first_stage_works_with_a_scorer(
    run: Run, dashscope: LoopbackDashScope, first: str
) -> None:
    _check_stages(run, first, "scorer")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ids", "engine"),
        ("ids", "compressor"),
        ("ids", "postprocessor"),
        ("langchain", "compressor"),
        ("langchain", "postprocessor"),
        ("llamaindex", "postprocessor"),
    ],
)
def test_every_second_stage_works_with_ids_and_with_documents_of_a_framework(
    run: Run, dashscope: LoopbackDashScope, first: str, second: str
) -> None:
    _check_stages(run, first, second)


def test_without_a_reranker_there_is_one_run() -> None:
    report = evaluate(RETRIEVED, None, QUERIES, JUDGEMENTS, measures=["RR"])
    assert report.runs == {"retrieved": {id_: dict.fromkeys(ids) for id_, ids in RETRIEVED.items()}}
    assert report.mean("RR", "retrieved") == pytest.approx(RR_BEFORE)


def test_aevaluate_awaits_an_asynchronous_function_and_evaluate_refuses_it() -> None:
    async def search(query: str) -> list[str]:
        return BY_TEXT[query]

    report = asyncio.run(aevaluate(search, None, QUERIES, JUDGEMENTS, measures=["RR"]))
    assert report.mean("RR", "retrieved") == pytest.approx(RR_BEFORE)
    with pytest.raises(InvalidInputError, match="aevaluate"):
        evaluate(search, None, QUERIES, JUDGEMENTS)


async def test_evaluate_works_inside_a_running_event_loop_as_in_a_notebook(
    dashscope: LoopbackDashScope,
) -> None:
    report = evaluate(LangChainSearch(), DashScopeScorer(), QUERIES, JUDGEMENTS, document_id="doc")
    assert report.mean("RR", "reranked") == 1


def test_queries_run_concurrently(run: Run, dashscope: LoopbackDashScope) -> None:
    queries = {f"q{number}": f"query {number}" for number in range(6)}
    dashscope.answer_only_when(in_flight=3)
    report = run(
        {id_: ["a", "c"] for id_ in queries},
        DashScopeScorer(),
        queries,
        {id_: {"c": 1} for id_ in queries},
        documents=TEXTS,
        concurrency=3,
    )
    assert dashscope.most_in_flight == 3
    assert list(report.runs["reranked"]) == list(queries)


def test_the_first_failure_ends_the_evaluation(run: Run, dashscope: LoopbackDashScope) -> None:
    dashscope.faults.append(refuses(401, "InvalidApiKey"))
    queries = {f"q{number}": f"query {number}" for number in range(50)}
    with pytest.raises(AuthenticationError):
        run(
            {id_: ["a", "c"] for id_ in queries},
            DashScopeScorer(),
            queries,
            {id_: {"c": 1} for id_ in queries},
            documents=TEXTS,
            concurrency=1,
        )
    assert len(dashscope.received) <= 2


def test_a_failure_has_a_note_with_its_query(run: Run, dashscope: LoopbackDashScope) -> None:
    texts = {id_: text for id_, text in TEXTS.items() if id_ != "d"}
    with pytest.raises(InvalidInputError, match="'d'") as caught:
        run(RETRIEVED, DashScopeScorer(), QUERIES, JUDGEMENTS, documents=texts, concurrency=1)
    assert caught.value.__notes__ == ["This was query 'q2': 'Who steers a ship?'"]


def test_progress_is_called_after_each_query(run: Run) -> None:
    calls: list[tuple[int, int]] = []
    run(RETRIEVED, None, QUERIES, JUDGEMENTS, progress=lambda *counts: calls.append(counts))
    assert calls == [(1, 2), (2, 2)]


def test_unjudged_queries_are_neither_retrieved_nor_paid_for(dashscope: LoopbackDashScope) -> None:
    report = evaluate(
        RETRIEVED,
        DashScopeScorer(),
        {**QUERIES, "q3": "?"},
        {"q1": {"c": 1}, "q9": {"c": 1}},
        documents=TEXTS,
    )
    assert len(dashscope.received) == 1
    assert list(report.queries) == ["q1"]
    assert report.notes == (
        "2 of 3 queries have no judgements and were left out.",
        "1 of 2 judged queries are not among the queries and were left out.",
    )


def test_of_several_passages_of_a_document_the_best_counts(dashscope: LoopbackDashScope) -> None:
    def passages(query: str) -> list[Document]:
        return [
            Document(page_content=text, metadata={"from": document})
            for document, text in [("x", "score=0.1"), ("y", "score=0.5"), ("x", "score=0.9")]
        ]

    report = evaluate(
        passages,
        DashScopeScorer(),
        {"q": "?"},
        {"q": {"x": 1}},
        document_id=lambda document: document.metadata["from"],
    )
    assert report.runs["reranked"]["q"] == {"x": 0.9, "y": 0.5}


def test_a_rerank_field_function_gets_the_retrieved_ids_even_if_they_look_like_indices(
    dashscope: LoopbackDashScope,
) -> None:
    corpus = {"1": "score=0.1", "0": "score=0.9"}
    report = evaluate(
        {"q": ["1", "0", "1"]},
        DashScopeScorer(),
        {"q": "?"},
        {"q": {"0": 1}},
        rerank_field=lambda record: corpus[record.id],
    )
    assert report.runs["reranked"]["q"] == {"0": 0.9, "1": 0.1}


def test_documents_with_distances_keep_their_order(dashscope: LoopbackDashScope) -> None:
    def similarity_search_with_score(query: str) -> list[tuple[Document, float]]:
        documents = LangChainSearch().invoke(query)
        return [(document, 0.1 * rank) for rank, document in enumerate(documents, start=1)]

    report = evaluate(
        similarity_search_with_score,
        langchain_qwen_rerank.QwenRerank(top_n=None),
        QUERIES,
        JUDGEMENTS,
        document_id="doc",
        measures=["RR"],
    )
    assert report.mean("RR", "retrieved") == pytest.approx(RR_BEFORE)
    assert report.mean("RR", "reranked") == 1
    assert report.runs["retrieved"]["q2"] == {"d": 0.1, "c": 0.2}


def test_ids_may_be_numbers_in_every_argument(dashscope: LoopbackDashScope) -> None:
    texts = {0: "score=0.1", 1: "score=0.9"}
    report = evaluate({7: [0, 1]}, DashScopeScorer(), {7: "?"}, {7: {1: 1}}, documents=texts)
    assert report.runs["reranked"] == {"7": {"1": 0.9, "0": 0.1}}


def test_a_score_that_is_not_a_number_counts_as_none() -> None:
    document = Document(id="c", page_content="text", metadata={"relevance_score": "high"})
    report = evaluate(lambda query: [document], None, QUERIES, JUDGEMENTS)
    assert report.runs["retrieved"]["q1"] == {"c": None}


def test_a_reranker_that_returns_fewer_documents_is_noted(dashscope: LoopbackDashScope) -> None:
    compressor = langchain_qwen_rerank.QwenRerank(top_n=1)
    report = evaluate(LangChainSearch(), compressor, QUERIES, JUDGEMENTS, document_id="doc")
    assert "fewer documents than were retrieved for 2 of 2 queries" in report.notes[0]


def test_a_document_without_text_comes_last_and_is_noted(dashscope: LoopbackDashScope) -> None:
    report = evaluate(
        {"q1": ["blank", "a", "c"]},
        DashScopeScorer(),
        QUERIES,
        {"q1": {"c": 1}},
        documents={**TEXTS, "blank": " "},
    )
    assert report.runs["reranked"]["q1"] == {"c": 0.9, "a": 0.1, "blank": None}
    assert "1 of 3 documents in reranked have no score" in report.notes[-1]


def test_a_query_without_documents_counts_as_0(dashscope: LoopbackDashScope) -> None:
    report = evaluate({"q1": ["c"]}, DashScopeScorer(), QUERIES, JUDGEMENTS, documents=TEXTS)
    assert report.mean("RR", "reranked") == 0.5
    assert report.notes[0] == "retrieved has no documents for 1 of 2 queries, which count as 0."


@pytest.mark.parametrize(
    ("last", "note"),
    [
        (EmbeddedScorer(), "embedded ranked 1 of 2 queries in reranked"),
        (KeepOrder(), "reranked keeps the retrieval order for 1 of 2 queries"),
    ],
)
def test_a_fallback_is_noted(dashscope: LoopbackDashScope, last: Scorer, note: str) -> None:
    dashscope.faults.append(refuses(400, "InvalidParameter"))
    scorer = FallbackScorer(DashScopeScorer(), last, on=[QwenRerankError])
    report = evaluate(RETRIEVED, scorer, QUERIES, JUDGEMENTS, documents=TEXTS, concurrency=1)
    assert len(report.notes) == 1
    assert note in report.notes[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_stage": 42}, "a run, a function or a retriever"),
        ({"reranker": "gte"}, "a scorer, an engine, a compressor or a postprocessor"),
        ({"judgements": {"Q1": {"c": 1}}}, "the same ids"),
        ({"judgements": {"q1": {"c": 0.5}}}, "must be an integer, got 0.5"),
        ({"measures": "nDCG@10"}, "at least one"),
        ({"measures": ["nDCG@10", "best"]}, "'best'"),
        ({"measures": ["R"]}, "'R'"),
        ({"measures": ["alpha_nDCG@5"]}, "alpha_nDCG"),
        ({"concurrency": 0}, "concurrency"),
        ({"rerank_field": "text"}, "rerank_field"),
        ({"queries": {"q1": " "}}, "query"),
        ({"names": ("run", "run")}, "names"),
        ({"first_stage": lambda query: [Record("", {})]}, "a Record with an id"),
        ({"first_stage": lambda query: "abc"}, "a list or a dict"),
        ({"first_stage": lambda query: {"a": float("nan")}}, "'a' is nan"),
        ({"first_stage": lambda query: [Document(page_content="no id")]}, "document_id"),
    ],
)
def test_an_invalid_argument_is_named(changed: dict[str, Any], message: str) -> None:
    valid = {
        "first_stage": RETRIEVED,
        "reranker": None,
        "queries": QUERIES,
        "judgements": JUDGEMENTS,
    }
    with pytest.raises(InvalidInputError, match=message):
        evaluate(**{**valid, **changed})


@pytest.mark.parametrize("second", ["scorer", "compressor"])
def test_ids_without_texts_are_refused_before_anything_is_sent(
    dashscope: LoopbackDashScope, second: str
) -> None:
    with pytest.raises(InvalidInputError, match="documents="):
        evaluate(RETRIEVED, RERANKERS[second](), QUERIES, JUDGEMENTS)
    with pytest.raises(InvalidInputError, match="'a'"):
        evaluate(RETRIEVED, RERANKERS[second](), QUERIES, JUDGEMENTS, documents={"c": "text"})
    assert dashscope.received == []


def test_a_rerank_field_that_no_document_has_is_refused(dashscope: LoopbackDashScope) -> None:
    with pytest.raises(InvalidInputError, match="rerank_field"):
        evaluate(RECORDS, DashScopeScorer(), QUERIES, JUDGEMENTS, rerank_field="text")

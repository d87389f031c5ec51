"""Retrieving, reranking and measuring, whatever the two stages are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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
from tests.evaluation.world import (
    BEFORE,
    BY_TEXT,
    FOUND,
    JUDGEMENTS,
    QUERIES,
    TEXTS,
    LangChainSearch,
    LlamaIndexSearch,
)
from tests.support.loopback import LoopbackDashScope, refuses

Run = Callable[..., Report]

RECORDS = {
    query_id: [Record(id_, {"content": TEXTS[id_]}) for id_ in found]
    for query_id, found in FOUND.items()
}
SCORED = {
    query_id: {id_: -float(place) for place, id_ in enumerate(found)}
    for query_id, found in FOUND.items()
}


async def found_later(query: str) -> list[str]:
    await asyncio.sleep(0)
    return BY_TEXT[query]


FIRST_STAGES: dict[str, dict[str, Any]] = {
    "a run of ids": {"first_stage": FOUND, "documents": TEXTS},
    "a run with scores": {"first_stage": SCORED, "documents": TEXTS},
    "a run of records": {"first_stage": RECORDS},
    "a function": {"first_stage": BY_TEXT.__getitem__, "documents": TEXTS},
    "LangChain's retriever": {"first_stage": LangChainSearch(), "document_id": "doc"},
    "LlamaIndex' retriever": {"first_stage": LlamaIndexSearch()},
}
RERANKERS: dict[str, Callable[[], Any]] = {
    "scorer": DashScopeScorer,
    "engine": lambda: RerankEngine(DashScopeScorer(), rerank_field="content"),
    "LangChain's compressor": lambda: langchain_qwen_rerank.QwenRerank(top_n=None),
    "LlamaIndex' postprocessor": lambda: llamaindex_qwen_rerank.QwenRerank(top_n=None),
}


@pytest.mark.parametrize("first", FIRST_STAGES)
@pytest.mark.parametrize("second", RERANKERS)
def test_every_first_stage_goes_with_every_second(
    run: Run, dashscope: LoopbackDashScope, first: str, second: str
) -> None:
    report = run(
        reranker=RERANKERS[second](),
        queries=QUERIES,
        judgements=JUDGEMENTS,
        measures=["RR"],
        **FIRST_STAGES[first],
    )
    assert report.mean("RR", "retrieved") == pytest.approx(BEFORE)
    assert report.mean("RR", "reranked") == 1
    assert report.runs["reranked"]["q1"] == {"c": 0.9, "b": 0.2, "a": 0.1}
    assert report.notes == ()
    if second in ("scorer", "engine"):
        assert report.usage is not None
        assert (report.usage.requests, report.usage.texts_sent) == (2, 5)
    else:
        assert report.usage is None


def test_a_first_stage_alone_is_one_run(run: Run) -> None:
    report = run(FOUND, None, QUERIES, JUDGEMENTS, measures=["RR"])
    assert report.runs == {"retrieved": {id_: dict.fromkeys(ids) for id_, ids in FOUND.items()}}
    assert report.mean("RR", "retrieved") == pytest.approx(BEFORE)


def test_an_asynchronous_function_is_awaited() -> None:
    stages = (found_later, None, QUERIES, JUDGEMENTS)
    report = asyncio.run(aevaluate(*stages, measures=["RR"]))
    assert report.mean("RR", "retrieved") == pytest.approx(BEFORE)
    with pytest.raises(InvalidInputError, match="aevaluate"):
        evaluate(*stages)


async def test_evaluate_works_where_an_event_loop_runs_as_in_a_notebook(
    dashscope: LoopbackDashScope,
) -> None:
    report = evaluate(LangChainSearch(), DashScopeScorer(), QUERIES, JUDGEMENTS, document_id="doc")
    assert report.mean("RR", "reranked") == 1


def test_queries_run_at_the_same_time(run: Run, dashscope: LoopbackDashScope) -> None:
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


def test_the_first_failure_ends_it(run: Run, dashscope: LoopbackDashScope) -> None:
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


@pytest.mark.parametrize("first", [BY_TEXT.__getitem__, FOUND])
def test_a_failure_says_which_query_it_was(
    run: Run, dashscope: LoopbackDashScope, first: Any
) -> None:
    texts = {name: text for name, text in TEXTS.items() if name != "d"}
    with pytest.raises(InvalidInputError, match="'d'") as caught:
        run(first, DashScopeScorer(), QUERIES, JUDGEMENTS, documents=texts, concurrency=1)
    assert caught.value.__notes__ == ["This was query 'q2': 'Who steers a ship?'"]


def test_progress_is_told(run: Run) -> None:
    told: list[tuple[int, int]] = []
    run(FOUND, None, QUERIES, JUDGEMENTS, progress=lambda *counts: told.append(counts))
    assert told == [(1, 2), (2, 2)]


def test_what_is_not_judged_is_neither_retrieved_nor_paid_for(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    report = run(
        FOUND, DashScopeScorer(), {**QUERIES, "q3": "?"}, {"q1": {"c": 1}, "q9": {"c": 1}},
        documents=TEXTS,
    )  # fmt: skip
    assert len(dashscope.received) == 1
    assert list(report.queries) == ["q1"]
    assert "2 of 3 queries are not judged" in report.notes[0]
    assert "1 of 2 judged queries were not asked for" in report.notes[1]


def test_of_passages_of_one_document_the_best_counts(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    def passages(query: str) -> list[Document]:
        return [
            Document(page_content=text, metadata={"from": document})
            for document, text in [("x", "score=0.1"), ("y", "score=0.5"), ("x", "score=0.9")]
        ]

    report = run(
        passages,
        DashScopeScorer(),
        {"q": "?"},
        {"q": {"x": 1}},
        document_id=lambda document: document.metadata["from"],
    )
    assert report.runs["reranked"]["q"] == {"x": 0.9, "y": 0.5}


def test_a_function_as_rerank_field_gets_the_ids_that_were_found(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    """Also where they could be taken for places."""
    corpus = {"1": "score=0.1", "0": "score=0.9"}
    report = run(
        {"q": ["1", "0", "1"]},
        DashScopeScorer(),
        {"q": "?"},
        {"q": {"0": 1}},
        rerank_field=lambda record: corpus[record.id.partition("#")[0]],
    )
    assert report.runs["reranked"]["q"] == {"0": 0.9, "1": 0.1}


def test_documents_may_come_with_scores_and_stay_in_their_order(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    """As a vector store gives distances, of which the lowest is the best."""

    def similarity_search_with_score(query: str) -> list[tuple[Document, float]]:
        found = LangChainSearch().invoke(query)
        return [(document, 0.1 * place) for place, document in enumerate(found, start=1)]

    report = run(
        similarity_search_with_score,
        langchain_qwen_rerank.QwenRerank(top_n=None),
        QUERIES,
        JUDGEMENTS,
        document_id="doc",
        measures=["RR"],
    )
    assert report.mean("RR", "retrieved") == pytest.approx(BEFORE)
    assert report.mean("RR", "reranked") == 1
    assert report.runs["retrieved"]["q2"] == {"d": 0.1, "c": 0.2}


def test_texts_may_be_known_by_numbers(run: Run, dashscope: LoopbackDashScope) -> None:
    texts = {0: "score=0.1", 1: "score=0.9"}
    report = run({7: [0, 1]}, DashScopeScorer(), {7: "?"}, {7: {1: 1}}, documents=texts)
    assert report.runs["reranked"] == {"7": {"1": 0.9, "0": 0.1}}


def test_a_score_that_is_no_number_counts_as_none(run: Run) -> None:
    found = [Document(id="c", page_content="text", metadata={"relevance_score": "high"})]
    report = run(lambda query: found, None, QUERIES, JUDGEMENTS)
    assert report.runs["retrieved"]["q1"] == {"c": None}


def test_a_reranker_that_returns_fewer_is_told_of(run: Run, dashscope: LoopbackDashScope) -> None:
    compressor = langchain_qwen_rerank.QwenRerank(top_n=1)
    report = run(LangChainSearch(), compressor, QUERIES, JUDGEMENTS, document_id="doc")
    assert "fewer documents than were found for 2 of 2 queries" in report.notes[0]


def test_a_document_without_text_stays_behind_the_others(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    report = run(
        {"q1": ["blank", "a", "c"]}, DashScopeScorer(), QUERIES, {"q1": {"c": 1}},
        documents={**TEXTS, "blank": " "},
    )  # fmt: skip
    assert report.runs["reranked"]["q1"] == {"c": 0.9, "a": 0.1, "blank": None}
    assert "1 of 3 documents of reranked have no score" in report.notes[-1]


def test_a_query_for_which_nothing_is_found_counts_nothing(
    run: Run, dashscope: LoopbackDashScope
) -> None:
    report = run({"q1": ["c"]}, DashScopeScorer(), QUERIES, JUDGEMENTS, documents=TEXTS)
    assert report.mean("RR", "reranked") == 0.5
    assert "retrieved found nothing for 1 of 2 queries" in report.notes[0]


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (EmbeddedScorer(), "was ranked by embedded for 1 of 2 queries"),
        (KeepOrder(), "is the order in which they were found for 1 of 2 queries"),
    ],
)
def test_a_scorer_that_stood_in_for_another_is_told_of(
    run: Run, dashscope: LoopbackDashScope, last: Scorer, says: str
) -> None:
    dashscope.faults.append(refuses(400, "InvalidParameter"))
    scorer = FallbackScorer(DashScopeScorer(), last, on=[QwenRerankError])
    report = run(FOUND, scorer, QUERIES, JUDGEMENTS, documents=TEXTS, concurrency=1)
    assert len(report.notes) == 1
    assert says in report.notes[0]


def judged(found: Any, reranker: Any = None, queries: Any = QUERIES, **options: Any) -> Report:
    return evaluate(found, reranker, queries, options.pop("judgements", JUDGEMENTS), **options)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ([42], {}, "a run, a function or a retriever"),
        ([FOUND, "gte"], {}, "a scorer, an engine, a compressor or a postprocessor"),
        ([FOUND], {"judgements": {"Q1": {"c": 1}}}, "ids"),
        ([FOUND], {"judgements": {"q1": {"c": 0.5}}}, "0.5"),
        ([FOUND], {"judgements": [("q1", "c", 1)]}, "query_id, doc_id and relevance"),
        ([FOUND], {"measures": "nDCG@10"}, "at least one"),
        ([FOUND], {"measures": ["nDCG@10", "best"]}, "'best'"),
        ([FOUND], {"measures": ["R"]}, "'R'"),
        ([FOUND], {"measures": ["alpha_nDCG@5"]}, "alpha_nDCG"),
        ([FOUND], {"concurrency": 0}, "concurrency"),
        ([FOUND], {"rerank_field": "text"}, "rerank_field"),
        ([FOUND, None, {"q1": " "}], {}, "query"),
        ([FOUND, None, ["What?"]], {}, "queries"),
        ([FOUND], {"names": ("run", "run")}, "names"),
        ([lambda query: [Record("", {})]], {}, "a Record with an id"),
        ([lambda query: "abc"], {}, "list"),
        ([lambda query: [{"id": "a"}]], {}, "got {'id': 'a'}"),
        ([lambda query: {"a": float("nan")}], {}, "nan"),
        ([lambda query: [Document(page_content="no id")]], {}, "document_id"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: Sequence[Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        judged(*arguments, **options)


@pytest.mark.parametrize("second", ["scorer", "LangChain's compressor"])
def test_ids_without_texts_are_refused_before_anything_is_sent(
    run: Run, dashscope: LoopbackDashScope, second: str
) -> None:
    with pytest.raises(InvalidInputError, match="documents="):
        run(FOUND, RERANKERS[second](), QUERIES, JUDGEMENTS)
    with pytest.raises(InvalidInputError, match="'a'"):
        run(FOUND, RERANKERS[second](), QUERIES, JUDGEMENTS, documents={"c": "text"})
    assert dashscope.received == []


def test_a_wrong_rerank_field_is_refused(run: Run, dashscope: LoopbackDashScope) -> None:
    with pytest.raises(InvalidInputError, match="rerank_field"):
        run(RECORDS, DashScopeScorer(), QUERIES, JUDGEMENTS, rerank_field="text")

"""Options of a single call and of a chain's config, and a vector store as the first stage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import ValidationError

from langchain_qwen_rerank import QwenRerank, QwenRerankRetriever
from qwen_rerank import InvalidInputError, KeepOrder
from qwen_rerank import settings as settings_module
from qwen_rerank.testing import FakeScorer

QUERY = "which one?"
TEXTS = [f"score=0.{number}" for number in (3, 1, 9, 5, 7)]
FOUND = [Document(page_content=text, id=text) for text in TEXTS]

Invoke = Callable[..., list[Document]]


@pytest.fixture(params=["sync", "async"])
def invoke(request: pytest.FixtureRequest) -> Invoke:
    def call(runnable: Runnable[Any, Any], *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return runnable.invoke(*args, **kwargs)
        return asyncio.run(runnable.ainvoke(*args, **kwargs))

    return call


@pytest.fixture(params=["sync", "async"])
def compress(request: pytest.FixtureRequest) -> Invoke:
    def call(compressor: QwenRerank, *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return compressor.compress_documents(*args, **kwargs)
        return asyncio.run(compressor.acompress_documents(*args, **kwargs))

    return call


class Distances(VectorStore):
    """Holds documents, nearest first, and gives distances; remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        self.asked.append({"k": k, **kwargs})
        return FOUND[:k]

    def similarity_search_with_score(self, *args: Any, **kwargs: Any) -> Any:
        found = self.similarity_search(*args, **kwargs)
        return [(document, 0.5 * number) for number, document in enumerate(found, 1)]

    max_marginal_relevance_search = similarity_search


class SomeScores(Distances):
    def similarity_search_with_score(self, *args: Any, **kwargs: Any) -> Any:
        return [(document, None) for document in self.similarity_search(*args, **kwargs)]


class WithoutScores(Distances):
    def similarity_search_with_score(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def reranking(store: VectorStore | None = None, **options: Any) -> QwenRerankRetriever:
    retriever = (store or Distances()).as_retriever()
    compressor = QwenRerank(scorer=FakeScorer(), **options)
    return QwenRerankRetriever(base_retriever=retriever, compressor=compressor, fetch_k=5)


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


# --- Options of a call


def test_a_call_can_have_its_own_top_n_and_min_score(compress: Invoke) -> None:
    compressor = QwenRerank(scorer=FakeScorer(), top_n=2, min_score=0.8)
    assert texts(compress(compressor, FOUND, QUERY)) == ["score=0.9"]
    assert texts(compress(compressor, FOUND, QUERY, min_score=0.4)) == ["score=0.9", "score=0.7"]
    ranked = compress(compressor, FOUND, QUERY, top_n=None, min_score=None)
    assert texts(ranked) == sorted(TEXTS, reverse=True)
    assert (compressor.top_n, compressor.min_score) == (2, 0.8)


def test_the_options_of_a_call_are_checked(compress: Invoke) -> None:
    scorer = FakeScorer()
    for options, message in (
        ({"top_n": 0}, "top_n must be a whole number"),
        ({"top_n": "3"}, "top_n must be a whole number"),
        ({"min_score": float("nan")}, "min_score must be a finite number"),
        ({"topn": 3}, "Did you mean 'top_n'"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            compress(QwenRerank(scorer=scorer), FOUND, QUERY, **options)


def test_a_retriever_keeps_the_options_of_a_call_from_the_store(invoke: Invoke) -> None:
    store = Distances()
    found = invoke(reranking(store), QUERY, top_n=1, min_score=0.1, filter={"a": 1}, k=3)
    assert texts(found) == ["score=0.9"]
    assert store.asked == [{"k": 3, "filter": {"a": 1}}]
    with pytest.raises(InvalidInputError, match="top_n"):
        invoke(reranking(store), QUERY, top_n=0)
    assert len(store.asked) == 1


class First(BaseDocumentCompressor):
    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return documents[:1]


def test_another_compressor_takes_no_options_of_a_call(invoke: Invoke) -> None:
    retriever = QwenRerankRetriever(base_retriever=Distances().as_retriever(), compressor=First())
    assert invoke(retriever, QUERY)[0].metadata == {}
    with pytest.raises(InvalidInputError, match="First does not take top_n per call"):
        invoke(retriever, QUERY, top_n=2)


def test_a_chains_config_can_choose_options(invoke: Invoke) -> None:
    chain = reranking(top_n=2).configurable_fields(
        compressor=ConfigurableField(id="compressor"), fetch_k=ConfigurableField(id="candidates")
    )
    assert texts(invoke(chain, QUERY)) == ["score=0.9", "score=0.7"]
    assert texts(invoke(chain.with_config(configurable={"candidates": 2}), QUERY)) == TEXTS[:2]
    one = QwenRerank(scorer=FakeScorer(), top_n=1)
    assert texts(invoke(chain, QUERY, {"configurable": {"compressor": one}})) == ["score=0.9"]
    assert texts(invoke(chain.bind(top_n=3), QUERY)) == ["score=0.9", "score=0.7", "score=0.5"]


@pytest.mark.parametrize("several", [False, True])
def test_a_calls_config_reaches_the_first_stage(invoke: Invoke, several: bool) -> None:
    store = Distances()
    search = ConfigurableField(id="search")
    found = store.as_retriever().configurable_fields(search_kwargs=search)
    retriever = QwenRerankRetriever(
        base_retriever={"a": found, "b": found} if several else found,
        compressor=QwenRerank(scorer=FakeScorer()),
    )
    assert [spec.id for spec in retriever.config_specs] == ["search"]
    config = {"configurable": {"search": {"k": 2}}}
    assert texts(invoke(retriever, QUERY, config)) == TEXTS[:2]
    assert texts(invoke(retriever.with_config(config) | list, QUERY)) == TEXTS[:2]
    assert {asked["k"] for asked in store.asked} == {2}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda found: found.with_config(tags=["mine"]).with_retry(),
        lambda found: found.bind(filter="new").with_fallbacks([found]),
        lambda found: RunnableLambda(fails).with_fallbacks([found]),
    ],
    ids=["retry", "bind", "fallback"],
)
def test_a_wrapped_vector_store_has_its_fetch_k_and_its_scores(
    invoke: Invoke, wrapped: Callable[[BaseRetriever], Any]
) -> None:
    store = Distances()
    retriever = QwenRerankRetriever(
        base_retriever=wrapped(store.as_retriever()),
        compressor=QwenRerank(scorer=FakeScorer(), keep_retrieval_score=True, top_n=1),
        fetch_k=5,
    )
    (best,) = invoke(retriever, QUERY)
    assert best.metadata == {"retrieval_score": 1.5, "relevance_score": 0.9}
    assert [asked["k"] for asked in store.asked] == [5]


def fails(query: str) -> list[Document]:
    raise ConnectionError


# --- The first stage


def test_fetch_k_is_how_many_documents_the_store_returns(invoke: Invoke) -> None:
    store = Distances()
    base = store.as_retriever(search_kwargs={"k": 2, "filter": {}})
    compressor = QwenRerank(scorer=FakeScorer(), top_n=1)
    several = QwenRerankRetriever(base_retriever={"a": base}, compressor=compressor, fetch_k=5)
    assert texts(invoke(several, QUERY)) == ["score=0.9"]
    assert store.asked == [{"k": 5, "filter": {}}]
    assert base.search_kwargs == {"k": 2, "filter": {}}


@pytest.mark.parametrize(("options", "among"), [({}, 30), ({"fetch_k": 40}, 40)])
def test_mmr_chooses_among_enough_documents(
    invoke: Invoke, options: dict[str, Any], among: int
) -> None:
    store = Distances()
    base = store.as_retriever(search_type="mmr", search_kwargs=options)
    compressor = QwenRerank(scorer=FakeScorer())
    invoke(QwenRerankRetriever(base_retriever=base, compressor=compressor, fetch_k=30), QUERY)
    ((k, fetch_k),) = [(asked["k"], asked["fetch_k"]) for asked in store.asked]
    assert (k, fetch_k) == (30, among)


class Fixed(BaseRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return FOUND


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_retriever": Fixed(), "fetch_k": 5}, "VectorStoreRetriever, got Fixed"),
        (
            {
                "base_retriever": {"a": Fixed(), "b": Fixed()},
                "compressor": QwenRerank(scorer=FakeScorer()),
                "fetch_k": 5,
            },
            "VectorStoreRetriever, got Fixed, Fixed",
        ),
        ({"fetch_k": 0}, "fetch_k must be a whole number of at least 1"),
        ({"fetchk": 5}, "Did you mean 'fetch_k'"),
    ],
)
def test_a_fetch_k_that_cannot_be_used_is_refused(options: dict[str, Any], message: str) -> None:
    usual = {"base_retriever": Distances().as_retriever(), "compressor": First()}
    with pytest.raises(ValidationError, match=message):
        QwenRerankRetriever(**{**usual, **options})


def test_the_stores_scores_are_kept(invoke: Invoke) -> None:
    ranked = invoke(reranking(keep_retrieval_score=True, top_n=2), QUERY)
    assert [each.metadata for each in ranked] == [
        {"retrieval_score": 1.5, "relevance_score": 0.9},
        {"retrieval_score": 2.5, "relevance_score": 0.7},
    ]
    assert FOUND[2].metadata == {}
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(TEXTS)
    for each in invoke(reranking(store, keep_retrieval_score=True), QUERY):
        expected = {
            document.page_content: score
            for document, score in store.similarity_search_with_score(QUERY, k=5)
        }
        assert each.metadata["retrieval_score"] == pytest.approx(expected[each.page_content])


def test_a_search_without_scores_still_works(invoke: Invoke) -> None:
    without = reranking(WithoutScores(), keep_retrieval_score=True, top_n=1)
    mmr = Distances().as_retriever(search_type="mmr")
    some = reranking(SomeScores(), keep_retrieval_score=True, top_n=1)
    for retriever in (without, some, without.model_copy(update={"base_retriever": mmr})):
        (best,) = invoke(retriever, QUERY)
        assert best.metadata == {"retrieval_score": None, "relevance_score": 0.9}


def test_distances_do_not_turn_the_blend_around(invoke: Invoke) -> None:
    assert texts(invoke(reranking(blend=1.0, top_n=None), QUERY)) == TEXTS


def test_a_last_resort_returns_the_stores_scores(invoke: Invoke) -> None:
    retriever = reranking(top_n=2)
    compressor = QwenRerank(scorer=KeepOrder(), top_n=2)
    ranked = invoke(retriever.model_copy(update={"compressor": compressor}), QUERY)
    assert [each.metadata["relevance_score"] for each in ranked] == [0.5, 1.0]


def test_the_first_stages_run_has_the_name_of_the_users_retriever(invoke: Invoke) -> None:
    class Names(BaseCallbackHandler):
        def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
            names.append(kwargs["name"])

    names: list[str] = []
    invoke(reranking(), QUERY, {"callbacks": [Names()]})
    assert names == ["QwenRerankRetriever", "VectorStoreRetriever"]


def test_candidates_that_are_all_returned_are_warned_of_once(
    invoke: Invoke, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "_warned_of_few", set())
    retriever = reranking(top_n=5)
    invoke(retriever, QUERY, top_n=4)
    invoke(retriever, QUERY, top_n=None)
    invoke(retriever, QUERY, k=1)
    assert caplog.messages == []
    for _ in range(2):
        invoke(retriever, QUERY)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "All 5 candidates are returned, as top_n is 5" in record.getMessage()
    assert "fetch_k=" in record.getMessage()

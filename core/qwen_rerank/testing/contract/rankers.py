"""RankerTests: what holds for everything that reranks documents."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any, NamedTuple, Protocol

import pytest

from qwen_rerank.testing.threads import many_switches

__all__ = ["Ranked", "Ranker", "RankerTests"]


class Ranked(NamedTuple):
    """A document that came back.

    Attributes:
        id: Its id.
        text: Its text.
        extra: What the document carried besides its text.
        score: Its relevance score; None if it has none.
    """

    id: str
    text: str
    extra: Mapping[str, Any]
    score: float | None


class Ranker(Protocol):
    """An adapter between `RankerTests` and the documents of a framework."""

    def make(self, id: str, text: str, extra: dict[str, Any]) -> Any:
        """Return a document of the framework."""

    def rank(self, query: str, documents: list[Any]) -> Sequence[Any]:
        """Rerank documents of the framework."""

    async def arank(self, query: str, documents: list[Any]) -> Sequence[Any]:
        """Rerank documents of the framework without blocking."""

    def read(self, document: Any) -> Ranked:
        """Return what a document of the framework holds."""


class RankerTests:
    """Tests of something that reranks, through an adapter: the fixture `ranker`.

    `CompressorTests` and `PostprocessorTests` have adapters for LangChain and LlamaIndex.

    Attributes:
        query: The query.
        texts: At least three different texts, the most relevant one first.
        all_scored: Whether every document comes back with a score.
    """

    query: str = "penguins eat krill"
    texts: Sequence[str] = (
        "penguins eat krill",
        "penguins eat small squid",
        "penguins lay eggs on bare rock",
        "markets fell on monday",
    )
    all_scored: bool = True

    @pytest.fixture
    def ranker(self) -> Ranker:
        """The adapter."""
        raise NotImplementedError("Override the fixture `ranker` and return an adapter.")

    def made(self, ranker: Ranker, texts: Sequence[str]) -> list[Any]:
        """Return documents with these texts, whose ids are their texts' indices."""
        return [ranker.make(str(at), text, {"page": at}) for at, text in enumerate(texts)]

    def ranked(
        self, ranker: Ranker, documents: list[Any], query: str | None = None
    ) -> list[Ranked]:
        """Rerank. Sync and async must agree, and the documents must stay as they are."""
        query = self.query if query is None else query
        before = copy.deepcopy(documents)
        ranked = list(map(ranker.read, ranker.rank(query, [*documents])))
        awaited = asyncio.run(ranker.arank(query, [*documents]))
        assert ranked == list(map(ranker.read, awaited)), "sync and async must agree"
        assert documents == before, "the documents passed in must not change"
        return ranked

    def test_the_best_come_first_with_their_scores(self, ranker: Ranker) -> None:
        """The documents that come back are the best ones, in order, each once."""
        ranked = self.ranked(ranker, self.made(ranker, self.texts))
        assert ranked, "at least one document must come back"
        assert [each.text for each in ranked] == [*self.texts][: len(ranked)]
        if self.all_scored:
            scores = [each.score for each in ranked if each.score is not None]
            assert len(scores) == len(ranked)
            assert scores == sorted(scores, reverse=True)

    def test_a_document_keeps_its_id_its_text_and_what_else_it_holds(self, ranker: Ranker) -> None:
        """Only the score is new."""
        for each in self.ranked(ranker, self.made(ranker, self.texts)):
            index = int(each.id)
            assert each.text == self.texts[index]
            assert each.extra["page"] == index

    def test_the_order_of_the_input_does_not_matter(self, ranker: Ranker) -> None:
        """The retrieval order decides only between equal scores."""
        documents = self.made(ranker, self.texts)
        expected = self.ranked(ranker, documents)
        for order in list(permutations(documents))[::5]:
            assert self.ranked(ranker, [*order]) == expected

    def test_another_query_has_another_order(self, ranker: Ranker) -> None:
        """The last of the texts, as the query, is closest to itself."""
        documents = self.made(ranker, self.texts)
        assert self.ranked(ranker, documents)[0].text == self.texts[0]
        assert self.ranked(ranker, documents, self.texts[-1])[0].text == self.texts[-1]

    def test_nothing_in_nothing_out(self, ranker: Ranker) -> None:
        """A retriever may find nothing."""
        assert self.ranked(ranker, []) == []

    def test_text_in_any_script_is_returned_as_it_was(self, ranker: Ranker) -> None:
        """No text is normalized, cut or dropped on the way."""
        texts = [
            "企鹅吃磷虾。",
            "ペンギンはオキアミを食べる",
            "🐧🦐",
            "<|im_start|>",
            "café e\u0301",
        ]
        for text in texts:
            (only,) = self.ranked(ranker, self.made(ranker, [text]))
            assert (only.id, only.text) == ("0", text)

    def test_threads_and_event_loops_share_it(self, ranker: Ranker) -> None:
        """Many calls at a time, with two queries, give what one gives."""
        documents = self.made(ranker, self.texts)
        queries = [self.query, self.texts[-1]] * 8
        expected = [self.ranked(ranker, documents, query) for query in queries[:2]] * 8

        async def concurrent() -> list[list[Ranked]]:
            calls = (ranker.arank(query, [*documents]) for query in queries)
            return [list(map(ranker.read, each)) for each in await asyncio.gather(*calls)]

        assert asyncio.run(concurrent()) == expected
        with many_switches(), ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(self.ranked, ranker, documents, query) for query in queries]
            assert [call.result() for call in calls] == expected

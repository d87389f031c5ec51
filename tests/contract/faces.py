"""Adapters that give every face of the library one interface: items in, scored items out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import QwenReRanker, Ranking, Record, RerankEngine, Scorer, Scores

__all__ = [
    "FACES",
    "PLUGINS",
    "USER_FACES",
    "Engine",
    "Face",
    "Item",
    "LangChain",
    "LlamaIndex",
    "Plain",
    "Reranker",
    "Retriever",
]


@dataclass(frozen=True)
class Item:
    """Something to rank, which each face turns into its own type. fields["text"] is its text."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


class Face(Protocol):
    """A class that users rank with, here for one query and over the field "text".

    Attributes:
        component: The object that users hold.
    """

    component: Any

    def __init__(self, query: Any, *, top_n: Any = None, **options: Any) -> None: ...

    def make(self, item: Item) -> Any:
        """Convert an item to what the face takes."""

    def rank(self, made: list[Any]) -> Sequence[Any]: ...

    async def arank(self, made: list[Any]) -> Sequence[Any]: ...

    def read(self, ranked: Any) -> Item:
        """Convert what the face returns back to an item."""


class Plain:
    """A scorer without a face: scores the items' texts, sorted here."""

    def __init__(self, query: Any, *, scorer: Scorer) -> None:
        self.component = scorer
        self._query = query

    def make(self, item: Item) -> Item:
        return item

    def rank(self, made: list[Item]) -> list[Item]:
        return _best_first(made, self.component.score(self._query, _texts(made)))

    async def arank(self, made: list[Item]) -> list[Item]:
        return _best_first(made, await self.component.ascore(self._query, _texts(made)))

    def read(self, ranked: Item) -> Item:
        return ranked


def _texts(items: list[Item]) -> list[str]:
    return [item.fields["text"] for item in items]


def _best_first(items: list[Item], scores: Scores) -> list[Item]:
    scored = [replace(item, score=score) for item, score in zip(items, scores.values, strict=True)]
    return sorted(scored, key=lambda item: -(item.score or 0.0))


class _OverRecords:
    """What the two faces that rank records share."""

    def make(self, item: Item) -> Record:
        return Record(item.id, item.fields, 0.5)

    def read(self, ranked: Record) -> Item:
        return Item(ranked.id, dict(ranked.fields), ranked.score)


class Engine(_OverRecords):
    """RerankEngine."""

    def __init__(self, query: Any, *, scorer: Scorer, top_n: Any = None, **options: Any) -> None:
        self.component = RerankEngine(scorer, rerank_field="text", **options)
        self._query, self._top_n = query, top_n

    def rank(self, made: list[Record]) -> Ranking:
        return self.component.rerank(self._query, made, self._top_n)

    async def arank(self, made: list[Record]) -> Ranking:
        return await self.component.arerank(self._query, made, self._top_n)


class Reranker(_OverRecords):
    """QwenReRanker, with the items in two lists."""

    def __init__(self, query: Any, *, top_n: Any = None, **options: Any) -> None:
        self.component = QwenReRanker(query, topn=top_n, rerank_field="text", **options)

    def rank(self, made: list[Record]) -> list[Record]:
        return self.component.rerank([made[:2], made[2:]])

    async def arank(self, made: list[Record]) -> list[Record]:
        return await self.component.arerank({"dense": made[:2], "sparse": made[2:]})


class LangChain:
    """QwenRerank for LangChain."""

    def __init__(self, query: Any, *, top_n: Any = None, **options: Any) -> None:
        self.component = langchain_qwen_rerank.QwenRerank(
            top_n=top_n, rerank_field="text", **options
        )
        self._query = query

    def make(self, item: Item) -> Document:
        return Document(page_content="not this", id=item.id, metadata=dict(item.fields))

    def rank(self, made: list[Document]) -> list[Document]:
        return self.component.compress_documents(made, self._query)

    async def arank(self, made: list[Document]) -> list[Document]:
        return await self.component.acompress_documents(made, self._query)

    def read(self, ranked: Document) -> Item:
        fields = dict(ranked.metadata)
        score = fields.pop("relevance_score", None)
        return Item(str(ranked.id), fields, score)


class _Stored(BaseRetriever):
    """Returns the same documents for any query."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


class Retriever(LangChain):
    """QwenRerankRetriever, over a retriever that returns the items."""

    def __init__(self, query: Any, **options: Any) -> None:
        super().__init__(query, **options)
        self._stored = _Stored(documents=[])
        self.component = langchain_qwen_rerank.QwenRerankRetriever(
            compressor=self.component, base_retriever=self._stored
        )

    def rank(self, made: list[Document]) -> list[Document]:
        self._stored.documents = made
        return self.component.invoke(self._query)

    async def arank(self, made: list[Document]) -> list[Document]:
        self._stored.documents = made
        return await self.component.ainvoke(self._query)


class LlamaIndex:
    """QwenRerank for LlamaIndex."""

    def __init__(self, query: Any, *, top_n: Any = None, **options: Any) -> None:
        self.component = llamaindex_qwen_rerank.QwenRerank(
            top_n=top_n, rerank_field="text", **options
        )
        self._query = query

    def make(self, item: Item) -> NodeWithScore:
        node = TextNode(text="not this", id_=item.id, metadata=dict(item.fields))
        return NodeWithScore(node=node, score=0.5)

    def rank(self, made: list[NodeWithScore]) -> list[NodeWithScore]:
        return self.component.postprocess_nodes(made, query_str=self._query)

    async def arank(self, made: list[NodeWithScore]) -> list[NodeWithScore]:
        return await self.component.apostprocess_nodes(made, query_str=self._query)

    def read(self, ranked: NodeWithScore) -> Item:
        return Item(ranked.node.node_id, ranked.node.metadata, ranked.score)


PLUGINS: list[type[Face]] = [LangChain, LlamaIndex]

USER_FACES: list[type[Face]] = [Reranker, *PLUGINS]
"""The faces that build their own scorer."""

FACES: list[type[Face]] = [Engine, *USER_FACES]

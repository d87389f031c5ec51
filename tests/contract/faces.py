"""Every face of the engine behind one: items in, scored items out, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import QwenReRanker, Ranking, Record, RerankEngine, Scorer

__all__ = ["FACES", "Engine", "Face", "Item", "LangChain", "LlamaIndex", "Reranker"]


@dataclass(frozen=True)
class Item:
    """Something to rank, whatever a face makes of it. Its text is in fields["text"]."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)
    score: float | None = None


class Face(Protocol):
    """One way of users to the engine, for one query, over the field "text".

    It ranks what it makes of items, and reads items in what comes back. `component` is what users
    would hold in their hands.
    """

    component: Any

    def __init__(self, query: Any, *, top_n: Any = None, **options: Any) -> None: ...
    def make(self, item: Item) -> Any: ...
    def rank(self, made: list[Any]) -> Sequence[Any]: ...
    async def arank(self, made: list[Any]) -> Sequence[Any]: ...
    def read(self, ranked: Any) -> Item: ...


class _OfRecords:
    """What the two faces have in common that rank records."""

    def make(self, item: Item) -> Record:
        return Record(item.id, item.fields, 0.5)

    def read(self, ranked: Record) -> Item:
        return Item(ranked.id, dict(ranked.fields), ranked.score)


class Engine(_OfRecords):
    """RerankEngine."""

    def __init__(self, query: Any, *, scorer: Scorer, top_n: Any = None, **options: Any) -> None:
        self.component = RerankEngine(scorer, rerank_field="text", **options)
        self._query, self._top_n = query, top_n

    def rank(self, made: list[Record]) -> Ranking:
        return self.component.rerank(self._query, made, self._top_n)

    async def arank(self, made: list[Record]) -> Ranking:
        return await self.component.arerank(self._query, made, self._top_n)


class Reranker(_OfRecords):
    """QwenReRanker, over two lists."""

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


FACES: list[type[Face]] = [Engine, Reranker, LangChain, LlamaIndex]

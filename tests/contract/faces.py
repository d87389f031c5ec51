"""Every face of the engine behind one: items in, ids and scores out, best first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import QwenReRanker, Record, RerankEngine, Scorer

__all__ = ["FACES", "Face", "Item", "Ranked"]

Ranked = list[tuple[str, float | None]]


@dataclass(frozen=True)
class Item:
    """Something to rank, whatever a face makes of it. Its text is in fields["text"]."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)


class Face(Protocol):
    """One way of users to the engine, over the field "text"."""

    def __init__(self, scorer: Scorer, **options: Any) -> None: ...
    def make(self, item: Item) -> Any: ...
    def rank(self, made: list[Any], query: str) -> Ranked: ...
    def arank(self, made: list[Any], query: str) -> Awaitable[Ranked]: ...


class Engine:
    """RerankEngine."""

    def __init__(self, scorer: Scorer, *, top_n: int | None = None, **options: Any) -> None:
        self.engine = RerankEngine(scorer, rerank_field="text", **options)
        self.top_n = top_n

    def make(self, item: Item) -> Record:
        return Record(item.id, item.fields, 0.5)

    def rank(self, made: list[Record], query: str) -> Ranked:
        return records(self.engine.rerank(query, made, self.top_n))

    async def arank(self, made: list[Record], query: str) -> Ranked:
        return records(await self.engine.arerank(query, made, self.top_n))


class Reranker:
    """QwenReRanker, which is bound to its query, over two lists."""

    def __init__(self, scorer: Scorer, *, top_n: int | None = None, **options: Any) -> None:
        topn = 1_000 if top_n is None else top_n
        self.bound: Callable[[str], QwenReRanker] = lambda query: QwenReRanker(
            query, topn=topn, rerank_field="text", scorer=scorer, **options
        )

    def make(self, item: Item) -> Record:
        return Record(item.id, item.fields, 0.5)

    def rank(self, made: list[Record], query: str) -> Ranked:
        return records(self.bound(query).rerank([made[:2], made[2:]]))

    async def arank(self, made: list[Record], query: str) -> Ranked:
        return records(await self.bound(query).arerank({"dense": made[:2], "sparse": made[2:]}))


class LangChain:
    """QwenRerank for LangChain."""

    def __init__(self, scorer: Scorer, *, top_n: int | None = None, **options: Any) -> None:
        self.compressor = langchain_qwen_rerank.QwenRerank(
            scorer=scorer, top_n=top_n, rerank_field="text", **options
        )

    def make(self, item: Item) -> Document:
        return Document(page_content="not this", id=item.id, metadata=dict(item.fields))

    def rank(self, made: list[Document], query: str) -> Ranked:
        return documents(self.compressor.compress_documents(made, query))

    async def arank(self, made: list[Document], query: str) -> Ranked:
        return documents(await self.compressor.acompress_documents(made, query))


class LlamaIndex:
    """QwenRerank for LlamaIndex."""

    def __init__(self, scorer: Scorer, *, top_n: int | None = None, **options: Any) -> None:
        self.postprocessor = llamaindex_qwen_rerank.QwenRerank(
            scorer=scorer, top_n=top_n, rerank_field="text", **options
        )

    def make(self, item: Item) -> NodeWithScore:
        node = TextNode(text="not this", id_=item.id, metadata=dict(item.fields))
        return NodeWithScore(node=node, score=0.5)

    def rank(self, made: list[NodeWithScore], query: str) -> Ranked:
        return nodes(self.postprocessor.postprocess_nodes(made, query_str=query))

    async def arank(self, made: list[NodeWithScore], query: str) -> Ranked:
        return nodes(await self.postprocessor.apostprocess_nodes(made, query_str=query))


FACES: list[type[Face]] = [Engine, Reranker, LangChain, LlamaIndex]


def records(ranked: Iterable[Record]) -> Ranked:
    return [(record.id, record.score) for record in ranked]


def documents(ranked: Iterable[Document]) -> Ranked:
    return [(str(document.id), document.metadata.get("relevance_score")) for document in ranked]


def nodes(ranked: Iterable[NodeWithScore]) -> Ranked:
    return [(scored.node.node_id, scored.score) for scored in ranked]

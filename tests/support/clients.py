"""Everything a user can rank with: created from options, called in one way, sync and async.

The functions are at the top level of a module so that other processes can import them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import Any

import langchain_core.documents
import llama_index.core.schema

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import DashScopeScorer, QwenReRanker, Record, Scores

__all__ = ["CLIENTS", "PLUGINS", "QUERY", "Ranked", "arank", "rank"]

QUERY = "which?"

Ranked = list[tuple[str, float | None]]
"""Texts with their scores, best first."""


def _reranker(**options: Any) -> QwenReRanker:
    return QwenReRanker(QUERY, topn=1_000, **options)


def _compressor(**options: Any) -> langchain_qwen_rerank.QwenRerank:
    return langchain_qwen_rerank.QwenRerank(top_n=None, **options)


def _postprocessor(**options: Any) -> llamaindex_qwen_rerank.QwenRerank:
    return llamaindex_qwen_rerank.QwenRerank(top_n=None, **options)


PLUGINS: dict[str, Callable[..., Any]] = {
    "QwenReRanker": _reranker,
    "LangChain": _compressor,
    "LlamaIndex": _postprocessor,
}
CLIENTS: dict[str, Callable[..., Any]] = {"DashScopeScorer": DashScopeScorer, **PLUGINS}


@singledispatch
def rank(client: object, texts: list[str]) -> Ranked:
    """Return the texts as the client ranks them for QUERY."""
    raise TypeError(f"{client!r} is not a client.")


@singledispatch
async def arank(client: object, texts: list[str]) -> Ranked:
    """The same, awaited."""
    raise TypeError(f"{client!r} is not a client.")


@rank.register
def _(client: DashScopeScorer, texts: list[str]) -> Ranked:
    return _of_scores(texts, client.score(QUERY, texts))


@arank.register
async def _(client: DashScopeScorer, texts: list[str]) -> Ranked:
    return _of_scores(texts, await client.ascore(QUERY, texts))


def _of_scores(texts: list[str], scores: Scores) -> Ranked:
    return sorted(zip(texts, scores.values, strict=True), key=lambda pair: -pair[1])


@rank.register
def _(client: QwenReRanker, texts: list[str]) -> Ranked:
    return _of_records(client.rerank([_records(texts)]))


@arank.register
async def _(client: QwenReRanker, texts: list[str]) -> Ranked:
    return _of_records(await client.arerank([_records(texts)]))


def _records(texts: list[str]) -> list[Record]:
    return [Record(str(index), {"content": text}) for index, text in enumerate(texts)]


def _of_records(records: Iterable[Record]) -> Ranked:
    return [(record.fields["content"], record.score) for record in records]


@rank.register
def _(client: langchain_qwen_rerank.QwenRerank, texts: list[str]) -> Ranked:
    return _of_documents(client.compress_documents(_documents(texts), QUERY))


@arank.register
async def _(client: langchain_qwen_rerank.QwenRerank, texts: list[str]) -> Ranked:
    return _of_documents(await client.acompress_documents(_documents(texts), QUERY))


def _documents(texts: list[str]) -> list[langchain_core.documents.Document]:
    return [langchain_core.documents.Document(page_content=text) for text in texts]


def _of_documents(documents: Iterable[langchain_core.documents.Document]) -> Ranked:
    return [(each.page_content, each.metadata["relevance_score"]) for each in documents]


@rank.register
def _(client: llamaindex_qwen_rerank.QwenRerank, texts: list[str]) -> Ranked:
    return _of_nodes(client.postprocess_nodes(_nodes(texts), query_str=QUERY))


@arank.register
async def _(client: llamaindex_qwen_rerank.QwenRerank, texts: list[str]) -> Ranked:
    return _of_nodes(await client.apostprocess_nodes(_nodes(texts), query_str=QUERY))


def _nodes(texts: list[str]) -> list[llama_index.core.schema.NodeWithScore]:
    node = llama_index.core.schema.TextNode
    return [llama_index.core.schema.NodeWithScore(node=node(text=text)) for text in texts]


def _of_nodes(nodes: Iterable[llama_index.core.schema.NodeWithScore]) -> Ranked:
    return [(node.text, node.score) for node in nodes]

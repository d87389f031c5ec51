"""The second stage: what puts the documents that were found in a better order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.first_stage import CONTENT, Reader
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import Ranking
from qwen_rerank.scorers.base import Scorer, Usage

__all__ = ["Reranked", "Reranker", "SecondStage", "second_stage"]


class Compressor(Protocol):
    """What is used of LangChain's document compressors."""

    def compress_documents(self, documents: Any, query: str) -> Any: ...
    async def acompress_documents(self, documents: Any, query: str) -> Any: ...


class Postprocessor(Protocol):
    """What is used of LlamaIndex' node postprocessors."""

    def postprocess_nodes(self, nodes: Any, *, query_str: str) -> Any: ...
    async def apostprocess_nodes(self, nodes: Any, *, query_str: str) -> Any: ...


Reranker: TypeAlias = Scorer | RerankEngine | Compressor | Postprocessor
"""A scorer, an engine, a document compressor of LangChain's or a postprocessor of LlamaIndex'."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The records in their new order, with their new scores.

    Attributes:
        records: The records.
        usage: What that cost; None where it is not known.
        unranked: Whether no model gave the scores, as behind a FallbackScorer.
        fallback: The model that gave them, where it is not the scorer's own.
    """

    records: list[Record]
    usage: Usage | None = None
    unranked: bool = False
    fallback: str | None = None


class SecondStage(Protocol):
    """Reranks the records of one query."""

    def rank(self, query: str, records: Sequence[Record]) -> Reranked: ...
    async def arank(self, query: str, records: Sequence[Record]) -> Reranked: ...


def second_stage(
    reranker: Reranker | None, rerank_field: RerankField | None, reader: Reader
) -> SecondStage | None:
    """What reranks; None for nothing.

    Raises:
        InvalidInputError: It is none of the things it can be, or a rerank_field goes with one that
            has its own.
    """
    if isinstance(reranker, Scorer):
        field = CONTENT if rerank_field is None else rerank_field
        return _ByEngine(RerankEngine(reranker, rerank_field=field, missing="keep"))
    if rerank_field is not None:
        raise InvalidInputError(
            f"rerank_field={rerank_field!r} goes with a scorer alone, got {reranker!r:.80}.",
            remedy="Pass it to the reranker itself.",
        )
    if isinstance(reranker, RerankEngine):
        return _ByEngine(reranker)
    if hasattr(reranker, "compress_documents"):
        return _ByCompressor(reranker, reader)
    if hasattr(reranker, "postprocess_nodes"):
        return _ByPostprocessor(reranker, reader)
    if reranker is None:
        return None
    raise InvalidInputError(
        f"The reranker must be a scorer, an engine, a compressor or a postprocessor, got "
        f"{reranker!r:.80}."
    )


class _ByEngine:
    """A scorer behind its engine. Every record is ranked: two with one id may be two passages."""

    def __init__(self, engine: RerankEngine) -> None:
        self._engine = engine

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        given = _by_distinct_ids(records)
        return self._reranked(self._engine.rerank(query, _renamed(given)), query, given)

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        given = _by_distinct_ids(records)
        return self._reranked(await self._engine.arerank(query, _renamed(given)), query, given)

    def _reranked(self, ranking: Ranking, query: str, given: Mapping[str, Record]) -> Reranked:
        textless = ranking.skipped + sum(record.score is None for record in ranking)
        if textless == len(given) and not ranking.unranked:
            raise _textless(query, len(given))
        ranked = [given[record.id].scored(record.score) for record in ranking]
        fallback = None if ranking.model == self._engine.scorer.model else ranking.model
        return Reranked(ranked, ranking.usage, ranking.unranked, fallback)


def _by_distinct_ids(records: Sequence[Record]) -> dict[str, Record]:
    """The records by their ids; by a new one where a record before has it."""
    given: dict[str, Record] = {}
    for record in records:
        id_ = record.id
        while id_ in given:
            id_ = f"{id_}#{len(given)}"
        given[id_] = record
    return given


def _renamed(given: Mapping[str, Record]) -> list[Record]:
    return [
        record if record.id == id_ else replace(record, id=id_) for id_, record in given.items()
    ]


def _textless(query: str, count: int) -> InvalidInputError:
    return InvalidInputError(
        f"None of the {count} documents found for {query!r} has a text to rank.",
        remedy="Pass documents=, the texts by document id, or name the field with rerank_field.",
    )


class _ByCompressor:
    """A compressor of LangChain's. It gets the Documents that were found, as they are."""

    def __init__(self, compressor: Any, reader: Reader) -> None:
        self._compressor = compressor
        self._reader = reader

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        documents, reader = self._given(query, records)
        return Reranked(reader.records(self._compressor.compress_documents(documents, query)))

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        documents, reader = self._given(query, records)
        found = await self._compressor.acompress_documents(documents, query)
        return Reranked(reader.records(found))

    def _given(self, query: str, records: Sequence[Record]) -> tuple[list[Any], Reader]:
        from langchain_core.documents import Document  # is there, or there would be no compressor

        found = [record.source for record in records]
        if all(isinstance(source, Document) for source in found):
            return found, self._reader
        made = [Document(id=record.id, page_content=_text(query, record)) for record in records]
        return made, Reader()


class _ByPostprocessor:
    """A postprocessor of LlamaIndex'. It gets the NodeWithScores that were found, copied."""

    def __init__(self, postprocessor: Any, reader: Reader) -> None:
        self._postprocessor = postprocessor
        self._reader = reader

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        nodes, reader = self._given(query, records)
        return Reranked(
            reader.records(self._postprocessor.postprocess_nodes(nodes, query_str=query))
        )

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        nodes, reader = self._given(query, records)
        found = await self._postprocessor.apostprocess_nodes(nodes, query_str=query)
        return Reranked(reader.records(found))

    def _given(self, query: str, records: Sequence[Record]) -> tuple[list[Any], Reader]:
        from llama_index.core.schema import NodeWithScore, TextNode

        found = [record.source for record in records]
        if all(isinstance(source, NodeWithScore) for source in found):
            # Some postprocessors write the new score into the very object that they got.
            return [source.model_copy() for source in found], self._reader
        made = [
            NodeWithScore(
                node=TextNode(id_=record.id, text=_text(query, record)), score=record.score
            )
            for record in records
        ]
        return made, Reader()


def _text(query: str, record: Record) -> str:
    text = record.fields.get(CONTENT)
    if isinstance(text, str):
        return text
    raise _textless(query, 1)

"""The second stage: what reranks the documents of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.first_stage import CONTENT, RecordReader
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.ranking.candidates import Candidates
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import RankedIndices
from qwen_rerank.scorers.base import Scorer, Usage

__all__ = ["Reranked", "Reranker", "SecondStage", "second_stage"]


class Compressor(Protocol):
    """The interface of a LangChain document compressor."""

    def compress_documents(self, documents: Any, query: str) -> Any: ...
    async def acompress_documents(self, documents: Any, query: str) -> Any: ...


class Postprocessor(Protocol):
    """The interface of a LlamaIndex node postprocessor."""

    def postprocess_nodes(self, nodes: Any, *, query_str: str) -> Any: ...
    async def apostprocess_nodes(self, nodes: Any, *, query_str: str) -> Any: ...


Reranker: TypeAlias = Scorer | RerankEngine | Compressor | Postprocessor
"""A scorer, an engine, a LangChain document compressor or a LlamaIndex node postprocessor."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The result of a second stage for one query.

    Attributes:
        records: The records in their new order, with their new scores.
        usage: What that cost; None if it is not known.
        unranked: Whether no model scored them, as behind a FallbackScorer.
        fallback: The model that scored them, if it is not the scorer's own.
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
    reranker: Reranker | None, rerank_field: RerankField | None, reader: RecordReader
) -> SecondStage | None:
    """Return the second stage for a reranker; None for None.

    Raises:
        InvalidInputError: It is not a reranker, or there is a `rerank_field` for a reranker that
            has its own.
    """
    if isinstance(reranker, Scorer):
        field = CONTENT if rerank_field is None else rerank_field
        return _EngineStage(RerankEngine(reranker, rerank_field=field, missing="keep"))
    if rerank_field is not None:
        raise InvalidInputError(
            f"rerank_field={rerank_field!r} applies only to a scorer, got {reranker!r:.80}.",
            remedy="Pass it to the reranker itself.",
        )
    if isinstance(reranker, RerankEngine):
        return _EngineStage(reranker)
    if hasattr(reranker, "compress_documents"):
        return _CompressorStage(reranker, reader)
    if hasattr(reranker, "postprocess_nodes"):
        return _PostprocessorStage(reranker, reader)
    if reranker is None:
        return None
    raise InvalidInputError(
        "The reranker must be a scorer, an engine, a compressor or a postprocessor, got "
        f"{reranker!r:.80}."
    )


class _EngineStage:
    """An engine. It ranks every record: two with one id may be two passages of a document."""

    def __init__(self, engine: RerankEngine) -> None:
        self._engine = engine

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        ranking = self._engine.rank(query, self._candidates(records))
        return self._reranked(ranking, query, records)

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        ranking = await self._engine.arank(query, self._candidates(records))
        return self._reranked(ranking, query, records)

    def _candidates(self, records: Sequence[Record]) -> Candidates:
        candidates = self._engine.candidates(records)
        has_copies = len(set(candidates.ids)) < len(records)
        return candidates._replace(ids=range(len(records))) if has_copies else candidates

    def _reranked(self, ranking: RankedIndices, query: str, records: Sequence[Record]) -> Reranked:
        if ranking.unranked:
            ranked = [records[index] for index in ranking.indices]
            return Reranked(ranked, ranking.usage, unranked=True)
        if ranking.skipped + ranking.scores.count(None) == len(records):
            raise _no_text(query, len(records))
        passages = ranking.passages or [None] * len(ranking.indices)
        ranked = [
            records[index].scored(score, passage)
            for index, score, passage in zip(ranking.indices, ranking.scores, passages, strict=True)
        ]
        fallback = None if ranking.model == self._engine.scorer.model else ranking.model
        return Reranked(ranked, ranking.usage, fallback=fallback)


def _no_text(query: str, count: int) -> InvalidInputError:
    return InvalidInputError(
        f"None of the {count} documents retrieved for {query!r} has a text to rank.",
        remedy="Pass documents=, the texts by document id, or rerank_field=, the field to rank by.",
    )


class _CompressorStage:
    """A LangChain compressor. It gets the retrieved Documents themselves."""

    def __init__(self, compressor: Any, reader: RecordReader) -> None:
        self._compressor = compressor
        self._reader = reader

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        documents, reader = self._documents(query, records)
        return Reranked(reader.read(self._compressor.compress_documents(documents, query)))

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        documents, reader = self._documents(query, records)
        results = await self._compressor.acompress_documents(documents, query)
        return Reranked(reader.read(results))

    def _documents(self, query: str, records: Sequence[Record]) -> tuple[list[Any], RecordReader]:
        from langchain_core.documents import Document  # installed, or there'd be no compressor

        sources = [record.source for record in records]
        if all(isinstance(source, Document) for source in sources):
            return sources, self._reader
        documents = [
            Document(id=record.id, page_content=_text_of_record(query, record))
            for record in records
        ]
        return documents, RecordReader()


class _PostprocessorStage:
    """A LlamaIndex postprocessor. It gets copies of the retrieved NodeWithScores."""

    def __init__(self, postprocessor: Any, reader: RecordReader) -> None:
        self._postprocessor = postprocessor
        self._reader = reader

    def rank(self, query: str, records: Sequence[Record]) -> Reranked:
        nodes, reader = self._nodes(query, records)
        results = self._postprocessor.postprocess_nodes(nodes, query_str=query)
        return Reranked(reader.read(results))

    async def arank(self, query: str, records: Sequence[Record]) -> Reranked:
        nodes, reader = self._nodes(query, records)
        results = await self._postprocessor.apostprocess_nodes(nodes, query_str=query)
        return Reranked(reader.read(results))

    def _nodes(self, query: str, records: Sequence[Record]) -> tuple[list[Any], RecordReader]:
        from llama_index.core.schema import NodeWithScore, TextNode

        sources = [record.source for record in records]
        if all(isinstance(source, NodeWithScore) for source in sources):
            # Some postprocessors write the new score into the object they get.
            return [source.model_copy() for source in sources], self._reader
        nodes = [
            NodeWithScore(
                node=TextNode(id_=record.id, text=_text_of_record(query, record)),
                score=record.score,
            )
            for record in records
        ]
        return nodes, RecordReader()


def _text_of_record(query: str, record: Record) -> str:
    text = record.fields.get(CONTENT)
    if isinstance(text, str):
        return text
    raise _no_text(query, 1)

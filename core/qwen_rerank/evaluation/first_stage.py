"""The first stage: what retrieves documents, and its results as records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.runs import BestFirst, rankings_by_query, sorted_by_score
from qwen_rerank.ranking.records import Record
from qwen_rerank.threads import to_thread
from qwen_rerank.validation import finite_float, is_finite

__all__ = ["CONTENT", "AnyRun", "FirstStage", "RecordReader", "Results", "Retriever", "best_first"]

CONTENT = "content"
"""The field of a record that holds the text of a document."""


class LangChainRetriever(Protocol):
    """The interface of a LangChain retriever, or of any Runnable from query to documents."""

    def invoke(self, input: str, /) -> Any: ...
    async def ainvoke(self, input: str, /) -> Any: ...


class LlamaIndexRetriever(Protocol):
    """The interface of a LlamaIndex retriever."""

    def retrieve(self, str_or_query_bundle: str, /) -> Any: ...
    async def aretrieve(self, str_or_query_bundle: str, /) -> Any: ...


Results: TypeAlias = Mapping[str, float | None] | Iterable[Any]
"""The documents of one query.

Either scores by document id (the highest is best, None is last); or a list, best first, of ids,
Records, LangChain Documents, LlamaIndex NodeWithScores, or pairs of one of these and a score.
"""

AnyRun: TypeAlias = Mapping[str, Results] | Iterable[Any]
"""A run: results by query id; or rows with the attributes query_id, doc_id and score, such as
ir_measures.ScoredDoc or the rows of a DataFrame."""

FirstStage: TypeAlias = AnyRun | Callable[[str], Any] | LangChainRetriever | LlamaIndexRetriever
"""What retrieves documents: a run, a function that takes the text of a query, or a retriever."""


@dataclass(frozen=True, slots=True)
class RecordReader:
    """Reads the results of a first or second stage as records.

    Attributes:
        documents: The texts of documents by id, for results that are only ids.
        document_id: The id by which a framework's document is judged: a metadata key, a function,
            or None for the document's own id.
    """

    documents: Mapping[str, str] | None = None
    document_id: str | Callable[[Any], str | None] | None = None

    def read(self, results: Results) -> list[Record]:
        """Return the documents as records, best first.

        Raises:
            InvalidInputError: A result is not a document, or has no id.
        """
        if isinstance(results, Mapping):
            ranking = results if isinstance(results, BestFirst) else sorted_by_score(results)
            results = ranking.items()
        if isinstance(results, str) or not isinstance(results, Iterable):
            raise InvalidInputError(f"A ranking must be a list or a dict, got {results!r:.80}.")
        return [self._record(result) for result in results]

    def _record(self, result: Any) -> Record:
        if isinstance(result, Record) and result.id:
            return result
        if isinstance(result, str | Integral):
            return Record(str(result), self._fields_by_id(result))
        if _is_pair_with_score(result):
            document, score = result
            return self._record(document).scored(score)
        if hasattr(result, "page_content"):
            fields = {**result.metadata, CONTENT: result.page_content}
            score = result.metadata.get("relevance_score")
            return Record(self._document_id(result, result.id), fields, score, result)
        if hasattr(result, "node"):
            node = result.node
            fields = {**node.metadata, CONTENT: _node_text(node)}
            return Record(self._document_id(node, node.node_id), fields, result.score, result)
        raise InvalidInputError(
            "A document must be an id, a Record with an id, a LangChain Document, a LlamaIndex "
            f"NodeWithScore, or a pair of one of these and a score, got {result!r:.80}."
        )

    def _fields_by_id(self, document_id: Any) -> Mapping[str, Any]:
        if self.documents is None:
            return {CONTENT: None}
        for id_ in (document_id, str(document_id)):
            if id_ in self.documents:
                return {CONTENT: self.documents[id_]}
        raise InvalidInputError(
            f"documents has no text for {document_id!r}, which the first stage returned.",
            remedy="Pass the texts of all documents that the first stage can return.",
        )

    def _document_id(self, document: Any, own_id: str | None) -> str:
        id_ = own_id
        if callable(self.document_id):
            id_ = self.document_id(document)
        elif self.document_id is not None:
            id_ = document.metadata.get(self.document_id)
        if id_ is None or id_ == "":
            raise InvalidInputError(
                f"A document has no id to look up its judgement by: {document!r:.200}.",
                remedy="Pass document_id=, the metadata key that holds the id, or a function.",
            )
        return str(id_)


def _node_text(node: Any) -> str:
    from llama_index.core.schema import MetadataMode  # installed, or there would be no node

    text: str = node.get_content(MetadataMode.EMBED)
    return text


def _is_pair_with_score(result: Any) -> bool:
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    return is_pair and (result[1] is None or is_finite(result[1]))


def best_first(records: Iterable[Record]) -> BestFirst:
    """Return the ids of the records with their scores; of several with one id, the first counts."""
    ranking = BestFirst()
    for record in records:
        ranking.setdefault(str(record.id), finite_float(record.score))
    return ranking


class Retriever:
    """Retrieves records from a first stage of any kind.

    Raises:
        InvalidInputError: It is not a first stage.
    """

    def __init__(self, stage: FirstStage, reader: RecordReader) -> None:
        self._reader = reader
        self._search, self._asearch = _search_functions(stage)

    def retrieve(self, query_id: str, query: str) -> list[Record]:
        """Return the documents for a query."""
        results = self._search(query_id, query)
        if inspect.isawaitable(results):
            if inspect.iscoroutine(results):
                results.close()
            raise InvalidInputError(
                "The first stage is asynchronous.", remedy="Await aevaluate instead."
            )
        return self._reader.read(results)

    async def aretrieve(self, query_id: str, query: str) -> list[Record]:
        """Return the documents for a query; a synchronous function runs in a worker thread."""
        if self._asearch is None:
            results = await to_thread(self._search, query_id, query)
        else:
            results = self._asearch(query_id, query)
        return self._reader.read(await results if inspect.isawaitable(results) else results)


SearchFunction: TypeAlias = Callable[[str, str], Any]
"""Takes the id and the text of a query, and returns its results."""


def _search_functions(stage: Any) -> tuple[SearchFunction, SearchFunction | None]:
    """Return a search function, and one for event loops if the stage has one."""
    if hasattr(stage, "invoke"):
        return (lambda _, query: stage.invoke(query)), (lambda _, query: stage.ainvoke(query))
    if hasattr(stage, "retrieve"):
        return (lambda _, query: stage.retrieve(query)), (lambda _, query: stage.aretrieve(query))
    if inspect.iscoroutinefunction(stage):
        return (lambda _, query: stage(query)), (lambda _, query: stage(query))
    if callable(stage):
        return (lambda _, query: stage(query)), None
    if isinstance(stage, Iterable) and not isinstance(stage, str):
        run = rankings_by_query(stage)
        return (lambda id_, _: run.get(id_, ())), (lambda id_, _: run.get(id_, ()))
    raise InvalidInputError(
        f"The first stage must be a run, a function or a retriever, got {stage!r:.80}."
    )

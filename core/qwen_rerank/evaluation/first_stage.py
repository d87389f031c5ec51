"""The first stage: what finds the documents of a query, and those documents as records."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.runs import BestFirst, by_query, by_score
from qwen_rerank.ranking.records import Record
from qwen_rerank.validation import is_finite

__all__ = ["CONTENT", "FirstStage", "Ranked", "Reader", "Search", "ranking_of"]

CONTENT = "content"
"""The field of a record that holds the text of a document."""


class LangChainRetriever(Protocol):
    """What is used of LangChain's retrievers, and of any Runnable from query to documents."""

    def invoke(self, input: str, /) -> Any: ...
    async def ainvoke(self, input: str, /) -> Any: ...


class LlamaIndexRetriever(Protocol):
    """What is used of LlamaIndex' retrievers."""

    def retrieve(self, str_or_query_bundle: str, /) -> Any: ...
    async def aretrieve(self, str_or_query_bundle: str, /) -> Any: ...


Ranked: TypeAlias = Mapping[str, float | None] | Iterable[Any]
"""Documents of one query: scores by id, the highest being the best and None the last; or best
first, ids, Records, LangChain's Documents, LlamaIndex' NodeWithScores, or pairs of one of these and
a score."""

Rankings: TypeAlias = Mapping[str, Ranked] | Iterable[Any]
"""A run: by query id the documents; or rows that have a query_id, a doc_id and a score, as
ir_measures.ScoredDoc or a DataFrame has."""

FirstStage: TypeAlias = Rankings | Callable[[str], Any] | LangChainRetriever | LlamaIndexRetriever
"""What finds documents: a run, a function of the query's text, or a retriever."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads what a first stage found as records.

    Attributes:
        documents: Texts by document id, for those of which only the id is known.
        document_id: The id that a framework's document is judged by: a metadata key, a function, or
            None for its own id.
    """

    documents: Mapping[str, str] | None = None
    document_id: str | Callable[[Any], str | None] | None = None

    def records(self, found: Ranked) -> list[Record]:
        """The documents as records, best first.

        Raises:
            InvalidInputError: Something that is no document, or has no id.
        """
        if isinstance(found, Mapping):
            found = (found if isinstance(found, BestFirst) else by_score(found)).items()
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise InvalidInputError(f"A ranking must be a list or a dict, got {found!r:.80}.")
        return [self._record(thing) for thing in found]

    def _record(self, thing: Any) -> Record:
        if isinstance(thing, Record) and thing.id:
            return thing
        if isinstance(thing, str | Integral):
            return Record(str(thing), self._fields(thing))
        if _is_scored(thing):
            return self._record(thing[0]).scored(thing[1])
        if hasattr(thing, "page_content"):
            fields = {**thing.metadata, CONTENT: thing.page_content}
            score = thing.metadata.get("relevance_score")
            return Record(self._id(thing, thing.id), fields, score, thing)
        if hasattr(thing, "node"):
            fields = {**thing.node.metadata, CONTENT: _node_content(thing.node)}
            return Record(self._id(thing.node, thing.node.node_id), fields, thing.score, thing)
        raise InvalidInputError(
            "A document must be an id, a Record with an id, a Document of LangChain's, a "
            "NodeWithScore of LlamaIndex', or a pair of one of them and a score, got "
            f"{thing!r:.80}."
        )

    def _fields(self, document_id: Any) -> Mapping[str, Any]:
        if self.documents is None:
            return {CONTENT: None}
        for id_ in (document_id, str(document_id)):
            if id_ in self.documents:
                return {CONTENT: self.documents[id_]}
        raise InvalidInputError(
            f"documents has no text for {document_id!r}, which the first stage found.",
            remedy="Pass the texts of all documents that can be found.",
        )

    def _id(self, document: Any, own: str | None) -> str:
        chosen = self.document_id
        if chosen is not None:
            own = chosen(document) if callable(chosen) else document.metadata.get(chosen)
        if own is None or own == "":
            raise InvalidInputError(
                f"A document has no id that it could be judged by: {document!r:.200}.",
                remedy="Pass document_id=, the metadata key that has it, or a function.",
            )
        return str(own)


def _node_content(node: Any) -> str:
    from llama_index.core.schema import MetadataMode  # installed, or there would be no node

    text: str = node.get_content(MetadataMode.EMBED)
    return text


def _is_scored(thing: Any) -> bool:
    is_pair = isinstance(thing, tuple | list) and len(thing) == 2
    return is_pair and (thing[1] is None or is_finite(thing[1]))


def ranking_of(records: Iterable[Record]) -> BestFirst:
    """The ids, best first, with the scores; one that comes again counts where it was first."""
    ranking = BestFirst()
    for record in records:
        score = float(record.score) if is_finite(record.score) else None
        ranking.setdefault(str(record.id), score)
    return ranking


class Search:
    """A first stage, whatever it is made of.

    Raises:
        InvalidInputError: It is none of the things it can be.
    """

    def __init__(self, stage: FirstStage, reader: Reader) -> None:
        self._reader = reader
        self._find, self._afind = _ways(stage)

    def find(self, query_id: str, query: str) -> list[Record]:
        """The documents for the query."""
        found = self._find(query_id, query)
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            raise InvalidInputError(
                "The first stage is asynchronous.", remedy="Call aevaluate, and await it."
            )
        return self._reader.records(found)

    async def afind(self, query_id: str, query: str) -> list[Record]:
        """The same; what is not asynchronous runs in a worker thread."""
        if self._afind is None:
            found = await asyncio.to_thread(self._find, query_id, query)
        else:
            found = self._afind(query_id, query)
        return self._reader.records(await found if inspect.isawaitable(found) else found)


Find: TypeAlias = Callable[[str, str], Any]
"""From a query's id and text to its documents."""


def _ways(stage: Any) -> tuple[Find, Find | None]:
    """How to find documents, and how to without blocking an event loop, where there is a way."""
    if hasattr(stage, "invoke"):
        return (lambda _, query: stage.invoke(query)), (lambda _, query: stage.ainvoke(query))
    if hasattr(stage, "retrieve"):
        return (lambda _, query: stage.retrieve(query)), (lambda _, query: stage.aretrieve(query))
    if inspect.iscoroutinefunction(stage):
        return (lambda _, query: stage(query)), (lambda _, query: stage(query))
    if callable(stage):
        return (lambda _, query: stage(query)), None
    if isinstance(stage, Iterable) and not isinstance(stage, str):
        run = by_query(stage)
        return (lambda id_, _: run.get(id_, ())), (lambda id_, _: run.get(id_, ()))
    raise InvalidInputError(
        f"The first stage must be a run, a function or a retriever, got {stage!r:.80}."
    )

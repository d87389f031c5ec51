"""QwenRerank: a document compressor that puts documents in a Qwen reranker's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from langchain_core.documents import BaseDocumentCompressor, Document

from qwen_rerank import Content, InvalidInputError, Ranking, Record, RerankEngine
from qwen_rerank.inputs.content import Item
from qwen_rerank.inputs.fields import SourceFields
from qwen_rerank.ranking.engine import MANY, offloaded
from qwen_rerank.ranking.records import Lists, place_ids
from qwen_rerank.settings import PluginSettings
from qwen_rerank.validation import is_finite, listed

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.runnables import RunnableConfig

__all__ = ["QwenRerank"]

SCORE = "relevance_score"
"""Where a document's score is put: the metadata key that LangChain's rerankers share."""

RETRIEVAL_SCORES = (SCORE, "score")
"""Where a retrieval score is looked for in the metadata: LangChain has no place for it."""

LISTS = "retrieval_lists"
"""Where `keep_lists` puts what it keeps."""

CONTENT = ("page_content", "content")
"""The names under which rerank_field finds a document's content."""

Rankable: TypeAlias = str | Content | Document | Mapping[str, Any]

Documents: TypeAlias = Iterable[Document] | Mapping[str, Iterable[Document]]
"""Documents, or those of several retrievers by name."""

Listed: TypeAlias = list[Document] | dict[str, list[Document]]
"""The same in lists, as an iterator gives them only once."""


class QwenRerank(PluginSettings, BaseDocumentCompressor):
    """Puts documents in the order of their relevance to the query, best first.

    The options are those of `PluginSettings`. `rerank_field` finds a document's content as
    `"page_content"` and as `"content"`, whatever the metadata have there; everything else that it
    names is metadata, and a function gets the `Document`. Metadata may hold content blocks, such as
    images, for a model that takes them. Two documents with one id are the same document, and the
    first one with a text counts. A document's retrieval score is the number in its metadata under
    `"relevance_score"`, else under `"score"`.

    Each call is a run of its own in the traces, named after the class, with what it cost.

    Attributes:
        keep_lists: Whether the names of the lists that it was in, and its rank in each, from 1, are
            kept, in `metadata["retrieval_lists"]`: a dict, or None if there was one list.

    Example:
        >>> compressor = QwenRerank(model="qwen3-rerank", top_n=5)
        >>> found = store.as_retriever(search_kwargs={"k": 50})
        >>> retriever = QwenRerankRetriever(base_retriever=found, compressor=compressor)
    """

    keep_lists: bool = False

    content_field: ClassVar[str] = CONTENT[0]

    def _build(self) -> RerankEngine:
        import langchain_core.runnables.config  # noqa: F401  # half a second, not in the first call

        return super()._build()

    def compress_documents(
        self, documents: Documents, query: Item, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Rerank the documents.

        Args:
            documents: The retrieved documents, which are not changed; or several lists of them by
                name, in which one without an id is the same as one with its content.
            query: What they should be relevant to: a text that is not blank, or a `Content`.
            callbacks: Get the run as a child of theirs.

        Returns:
            At most `top_n` copies, best first, each with its score, a float, in
            `metadata["relevance_score"]`.

        Raises:
            QwenRerankError: See `RerankEngine.rerank`.
        """
        documents = _listed(documents)
        inputs = _inputs(documents, query)
        from langchain_core.runnables.config import get_callback_manager_for_config

        manager = get_callback_manager_for_config(_config(callbacks))
        run = manager.on_chain_start(None, inputs, name=type(self).__name__)
        try:
            records = self._found(documents)
            outputs = self._outputs(self.engine.rerank(query, records, self.top_n))
        except BaseException as error:
            run.on_chain_error(error)
            raise
        run.on_chain_end(outputs)
        return outputs["documents"]  # type: ignore[no-any-return]

    async def acompress_documents(
        self, documents: Documents, query: Item, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The same as `compress_documents`, without blocking the event loop."""
        documents = _listed(documents)
        inputs = _inputs(documents, query)
        from langchain_core.runnables.config import get_async_callback_manager_for_config

        manager = get_async_callback_manager_for_config(_config(callbacks))
        run = await manager.on_chain_start(None, inputs, name=type(self).__name__)
        try:
            records = await offloaded(_count(documents) > MANY, self._found, documents)
            outputs = self._outputs(await self.engine.arerank(query, records, self.top_n))
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end(outputs)
        return outputs["documents"]  # type: ignore[no-any-return]

    def rerank(
        self, documents: Iterable[Rankable], query: Item, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """Rank without making documents.

        Args:
            documents: Documents, texts, Contents, or mappings in which `rerank_field` names the
                text.
            query: What they should be relevant to: a text that is not blank, or a `Content`.
            top_n: How many to return at most; None for all, -1 for the compressor's own top_n.

        Returns:
            Best first, a dict each, with an `"index"`, its place in `documents`, and its
            `"relevance_score"`, a float.
        """
        records = self._records(_rankables(documents))
        ranking = self.engine.rerank(query, records, self.top_n if top_n == -1 else top_n)
        return _places(ranking, records)

    async def arerank(
        self, documents: Iterable[Rankable], query: Item, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """The same as `rerank`, without blocking the event loop."""
        items = _rankables(documents)
        records = await offloaded(len(items) > MANY, self._records, items)
        ranking = await self.engine.arerank(query, records, self.top_n if top_n == -1 else top_n)
        return _places(ranking, records)

    def _found(self, documents: Listed) -> list[Record] | Lists:
        if not isinstance(documents, Mapping):
            return self._records(documents)
        id_of = _ids_of(chain.from_iterable(documents.values()))
        return {
            name: [self._record(id_of(document), document) for document in found]
            for name, found in documents.items()
        }

    def _records(self, documents: Sequence[Rankable]) -> list[Record]:
        ids = place_ids(getattr(document, "id", None) for document in documents)
        return list(map(self._record, ids, documents))

    def _record(self, id_: str, document: Rankable) -> Record:
        return Record(id_, self._fields(document), source=document)

    def _fields(self, document: Rankable) -> Mapping[str, Any]:
        if isinstance(document, Document):
            return SourceFields(document.metadata, CONTENT, _content, document)
        if isinstance(document, str | Content):
            return dict.fromkeys(CONTENT, document)
        if not callable(self.rerank_field) and not hasattr(document, "get"):
            raise InvalidInputError(
                "documents must be texts, Contents, Documents or mappings, got "
                f"{type(document).__name__}.",
                remedy="Make one of it, or pass rerank_field a function that reads it.",
            )
        if self.rerank_field is None and self.content_field not in document:
            raise InvalidInputError(
                f"A {type(document).__name__} does not say which of its values is the text.",
                remedy="Name it with rerank_field.",
            )
        return document

    def _to_keep(self) -> dict[str, Callable[[Record], Any]]:
        lists = {LISTS: lambda record: record.lists and dict(record.lists)}
        return super()._to_keep() | (lists if self.keep_lists else {})

    def _retrieval_score(self, record: Record) -> float | None:
        found = map(record.source.metadata.get, RETRIEVAL_SCORES)
        return next(filter(is_finite, found), None)

    def _outputs(self, ranking: Ranking) -> dict[str, Any]:
        return {
            "documents": [
                _ranked(record, kept, ranking.unranked)
                for record, kept in zip(ranking, self._kept(ranking), strict=True)
            ],
            **ranking.facts,
        }


_content = attrgetter("page_content")


def _config(callbacks: Callbacks | None) -> RunnableConfig:
    """That of the run around this one, or with the callbacks that were given."""
    from langchain_core.runnables.config import RunnableConfig, ensure_config

    return ensure_config(None if callbacks is None else RunnableConfig(callbacks=callbacks))


def _ranked(record: Record, kept: Mapping[str, Any], unranked: bool) -> Document:
    """A copy of the record's document, with its score and what is kept in the metadata."""
    document: Document = record.source
    metadata = {**document.metadata, **kept}
    if not unranked:
        metadata[SCORE] = record.score
        if record.score is None:
            del metadata[SCORE]
    return document.model_copy(update={"metadata": metadata})


def _listed(documents: Documents) -> Listed:
    """The documents, all of them and nothing else."""
    if isinstance(documents, Mapping):
        return {name: _documents(found) for name, found in documents.items()}
    return _documents(documents)


def _documents(documents: Iterable[Document]) -> list[Document]:
    remedy = "Make Documents of them, or call rerank, which takes texts too."
    return listed("documents", documents, Document, remedy)


def _rankables(documents: Iterable[Rankable]) -> list[Rankable]:
    """The things to rank; one alone would be taken apart."""
    if isinstance(documents, str | bytes | Document | Mapping):
        raise InvalidInputError(
            f"documents must be a list, got {type(documents).__name__}.",
            remedy="Pass [document], or call compress_documents, which takes lists by name.",
        )
    return list(documents)


def _inputs(documents: Listed, query: Item) -> dict[str, Any]:
    """What the run is told that it was given: not the data of an image in the query."""
    return {"query": repr(query) if isinstance(query, Content) else query, "documents": documents}


def _count(documents: Listed) -> int:
    return sum(map(len, documents.values())) if isinstance(documents, dict) else len(documents)


def _ids_of(documents: Iterable[Document]) -> Callable[[Document], str]:
    """What tells each document's id: its own, else that of the first with its content, else made.

    For a vector store has ids, and a list of words made of the same documents often none.
    """
    ids: dict[str, str] = {}
    for document in documents:
        if document.id:
            ids.setdefault(document.page_content, document.id)

    def id_of(document: Document) -> str:
        return document.id or ids.get(document.page_content) or _content_id(document)

    return id_of


def _content_id(document: Document) -> str:
    return f"#{sha256(document.page_content.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _places(ranking: Ranking, records: Iterable[Record]) -> list[dict[str, Any]]:
    places: dict[str, int] = {}
    for place, record in enumerate(records):
        places.setdefault(record.id, place)
    return [{"index": places[record.id], SCORE: record.score} for record in ranking]

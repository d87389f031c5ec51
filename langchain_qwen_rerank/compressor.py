"""QwenRerank: a document compressor that reranks documents with a Qwen model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, Unpack

from langchain_core.documents import BaseDocumentCompressor, Document

from qwen_rerank import Content, InvalidInputError
from qwen_rerank.copying import copy_with
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import Item
from qwen_rerank.inputs.fields import FieldAccess, ItemReader
from qwen_rerank.options import CallArguments
from qwen_rerank.ranking.candidates import Candidates, Lists, usable_ids
from qwen_rerank.ranking.engine import MANY, offloaded
from qwen_rerank.ranking.records import flattened
from qwen_rerank.ranking.result import RankedIndices
from qwen_rerank.settings import PluginSettings
from qwen_rerank.validation import finite_float, is_finite, list_of

if TYPE_CHECKING:
    from langchain_core.callbacks import Callbacks
    from langchain_core.runnables import RunnableConfig

__all__ = ["QwenRerank"]

SCORE = "relevance_score"
"""The metadata key for a document's relevance score, as in LangChain's other rerankers."""

RETRIEVAL_SCORES = (SCORE, "score")
"""The metadata keys that may hold a retrieval score: LangChain does not define one."""

LISTS = "retrieval_lists"
"""The metadata key for `keep_lists`."""

CONTENT = ("page_content", "content")
"""The names of a document's content in rerank_field."""

_MORE = (
    "Let the first stage return more: pass fetch_k= to QwenRerankRetriever, or "
    'search_kwargs={"k": ...} to as_retriever, whose default is 4.'
)

Rankable: TypeAlias = str | Content | Document | Mapping[str, Any]

Documents: TypeAlias = Iterable[Document] | Mapping[str, Iterable[Document]]
"""Documents in one list, or in the lists of several retrievers by name."""


class QwenRerank(PluginSettings, BaseDocumentCompressor):
    """Reranks documents by their relevance to the query, best first.

    The options are the ones in `PluginSettings`, and `keep_lists`. In `rerank_field`,
    `"page_content"` and `"content"` are the document's content, every other name is a metadata key,
    and a function gets the `Document`. Metadata can hold content blocks, such as images, for models
    that accept them. Documents with the same id and the same text are copies, and the best-ranked
    one is kept. A document's retrieval score is the number in its metadata under
    `"relevance_score"`, or else under `"score"`.

    Each call is its own run in traces, named after the class, with its usage.

    Attributes:
        keep_lists: Whether to store each document's rank, from 1, in every list that had it, in
            `metadata["retrieval_lists"]`: a dict by list name, or None if there was only one list.

    Example:
        >>> compressor = QwenRerank(model="qwen3-rerank", top_n=5)
        >>> base = store.as_retriever(search_kwargs={"k": 50})
        >>> retriever = QwenRerankRetriever(base_retriever=base, compressor=compressor)
    """

    keep_lists: bool = False

    content_field: ClassVar[str] = CONTENT[0]

    def _build(self, options: tuple[Any, ...]) -> Any:
        import langchain_core.runnables.config  # noqa: F401  # half a second, not in the first call

        return super()._build(options)

    def compress_documents(
        self,
        documents: Documents,
        query: Item,
        callbacks: Callbacks | None = None,
        **options: Unpack[CallArguments],
    ) -> list[Document]:
        """Rerank the documents.

        Args:
            documents: The retrieved documents, which are not changed; or several lists of them by
                name. Among several lists, a document without an id is identified by its content.
            query: What they should be relevant to: text that is not blank, or a `Content`.
            callbacks: The parents of the run in traces.
            options: `top_n` and `min_score` for this call, instead of the compressor's own.

        Returns:
            At most `top_n` copies, best first, each with its score in
            `metadata["relevance_score"]`: a float, or None if no model scored the document.

        Raises:
            QwenRerankError: See `RerankEngine.rerank`.
        """
        engine, top_n = self._for_call(options)
        own, lists = flattened(documents, _documents)
        self._warn_of_few(len(own), top_n, _MORE)
        from langchain_core.runnables.config import get_callback_manager_for_config

        manager = get_callback_manager_for_config(_config(callbacks))
        run = manager.on_chain_start(None, _inputs(own, lists, query), name=type(self).__name__)
        try:
            ranking = engine.rank(query, self._candidates(own, lists), top_n)
            ranked = self._ranked(own, ranking)
        except BaseException as error:
            run.on_chain_error(error)
            raise
        run.on_chain_end({"documents": ranked, **ranking.facts})
        return ranked

    async def acompress_documents(
        self,
        documents: Documents,
        query: Item,
        callbacks: Callbacks | None = None,
        **options: Unpack[CallArguments],
    ) -> list[Document]:
        """The same as `compress_documents`, without blocking the event loop."""
        engine, top_n = self._for_call(options)
        own, lists = flattened(documents, _documents)
        self._warn_of_few(len(own), top_n, _MORE)
        from langchain_core.runnables.config import get_async_callback_manager_for_config

        manager = get_async_callback_manager_for_config(_config(callbacks))
        run = await manager.on_chain_start(
            None, _inputs(own, lists, query), name=type(self).__name__
        )
        try:
            is_long = engine.takes_long(len(own))
            candidates = await offloaded(is_long, self._candidates, own, lists)
            ranking = await engine.arank(query, candidates, top_n)
            ranked = await offloaded(len(ranking.indices) > MANY, self._ranked, own, ranking)
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end({"documents": ranked, **ranking.facts})
        return ranked

    def rerank(
        self, documents: Iterable[Rankable], query: Item, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """Rank documents, texts or mappings, and return indices.

        Args:
            documents: Documents, texts, Contents, or mappings in which `rerank_field` names the
                text.
            query: What they should be relevant to: text that is not blank, or a `Content`.
            top_n: The maximum number to return; None for all, -1 for the compressor's own top_n.

        Returns:
            A dict per document, best first, with its `"index"` in `documents` and its
            `"relevance_score"`: a float, or None if no model scored it.
        """
        own = _rankables(documents)
        top_n = self.top_n if top_n == -1 else top_n
        ranking = self.engine.rank(query, self._rankable_candidates(own), top_n)
        return _indices_and_scores(ranking)

    async def arerank(
        self, documents: Iterable[Rankable], query: Item, top_n: int | None = -1
    ) -> list[dict[str, Any]]:
        """The same as `rerank`, without blocking the event loop."""
        own = _rankables(documents)
        top_n = self.top_n if top_n == -1 else top_n
        engine = self.engine
        is_long = engine.takes_long(len(own))
        candidates = await offloaded(is_long, self._rankable_candidates, own)
        return _indices_and_scores(await engine.arank(query, candidates, top_n))

    def _candidates(self, documents: Sequence[Document], lists: Lists | None) -> Candidates:
        ids = usable_ids([document.id for document in documents])
        items = self.reader.read(documents, ids)
        contents = None if lists is None else [document.page_content for document in documents]
        return Candidates(items, ids, lists, contents)

    def _rankable_candidates(self, documents: Sequence[Rankable]) -> Candidates:
        ids = usable_ids([getattr(document, "id", None) for document in documents])
        if {*map(type, documents)} <= {Document}:
            return Candidates(self.reader.read(documents, ids), ids)
        field = self.rerank_field
        if not callable(field):
            for document in documents:
                self._check_fields(document)
        access = FieldAccess(_rankable_getter, _rankable_names)
        allowed = AllowedMedia.of(self.allowed_media)
        reader = ItemReader(self.content_field if field is None else field, access, allowed)
        return Candidates(reader.read(documents, ids), ids)

    def _check_fields(self, document: Rankable) -> None:
        if isinstance(document, str | Content | Document):
            return
        if not hasattr(document, "get"):
            raise InvalidInputError(
                "documents must be texts, Contents, Documents or mappings, got "
                f"{type(document).__name__}.",
                remedy="Convert it, or pass rerank_field a function that reads it.",
            )
        if self.rerank_field is None and self.content_field not in document:
            raise InvalidInputError(
                f"A {type(document).__name__} does not say which of its values is the text.",
                remedy="Name it with rerank_field.",
            )

    def _field_access(self) -> FieldAccess[Any]:
        return FieldAccess(
            lambda name: _content if name in CONTENT else lambda doc: doc.metadata.get(name),
            lambda document: (*CONTENT, *document.metadata),
        )

    def _kept_columns(self, ranking: RankedIndices) -> dict[str, Iterable[Any]]:
        if not self.keep_lists:
            return {}
        if ranking.lists is None:
            return {LISTS: repeat(None, len(ranking.indices))}
        return {LISTS: map(dict, ranking.lists)}

    def _retrieval_score(self, document: Document) -> float | None:
        values = map(document.metadata.get, RETRIEVAL_SCORES)
        return finite_float(next(filter(is_finite, values), None))

    def _ranked(self, documents: Sequence[Document], ranking: RankedIndices) -> list[Document]:
        """Copies of the ranking's documents, with their scores and kept values in the metadata."""
        chosen = list(map(documents.__getitem__, ranking.indices))
        scores = ranking.scores_or(document.metadata.get(SCORE) for document in chosen)
        rows = zip(chosen, scores, self._kept(documents, ranking), strict=True)
        return [
            with_metadata(document, {**document.metadata, **kept, SCORE: score})
            for document, score, kept in rows
        ]


_content = attrgetter("page_content")
_metadata = attrgetter("metadata")


def _config(callbacks: Callbacks | None) -> RunnableConfig:
    """Return the config with these callbacks, or else the surrounding run's config."""
    from langchain_core.runnables.config import RunnableConfig, ensure_config

    return ensure_config(None if callbacks is None else RunnableConfig(callbacks=callbacks))


def with_metadata(document: Document, metadata: dict[str, Any]) -> Document:
    """A copy of the document with this metadata, as `model_copy` makes it."""
    if type(document) is not Document:
        return document.model_copy(update={"metadata": metadata})
    return copy_with(document, {"metadata": metadata})


def _documents(documents: Iterable[Document]) -> list[Document]:
    remedy = "Convert them to Documents, or call rerank, which also takes texts."
    listed = list_of("documents", documents, Document, remedy)
    for kind in {*map(type, map(_metadata, listed))}:  # Documents don't check it when it is set
        if not issubclass(kind, Mapping):
            raise InvalidInputError(
                f"The metadata of a document must be a mapping, got {kind.__name__}.",
                remedy="Pass {} for none.",
            )
    return listed


def _rankables(documents: Iterable[Rankable]) -> list[Rankable]:
    """Return the documents as a list. Refuse a single document, which may itself be iterable."""
    if isinstance(documents, str | bytes | Document | Mapping) or not isinstance(
        documents, Iterable
    ):
        raise InvalidInputError(
            f"documents must be a list, got {type(documents).__name__}.",
            remedy="Pass [document], or call compress_documents, which takes lists by name.",
        )
    return list(documents)


def _rankable_getter(name: str) -> Callable[[Any], Any]:
    def get(document: Any) -> Any:
        if isinstance(document, str | Content):
            return document if name in CONTENT else None
        if not isinstance(document, Document):
            return document.get(name)
        return document.page_content if name in CONTENT else document.metadata.get(name)

    return get


def _rankable_names(document: Any) -> Iterable[str]:
    if isinstance(document, str | Content):
        return CONTENT
    return (*CONTENT, *document.metadata) if isinstance(document, Document) else document


def _inputs(documents: list[Document], lists: Lists | None, query: Item) -> dict[str, Any]:
    """The inputs of the run in traces, without the data of an image in the query."""
    shown: Any = documents
    if lists is not None:
        shown = {name: documents[own.start : own.stop] for name, own in lists.items()}
    return {
        "query": repr(query) if isinstance(query, Content) else query,
        "documents": shown,
    }


def _indices_and_scores(ranking: RankedIndices) -> list[dict[str, Any]]:
    pairs = zip(ranking.indices, ranking.scores, strict=True)
    return [{"index": index, SCORE: score} for index, score in pairs]

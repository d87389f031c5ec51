"""QwenReRanker: a reranker for one query, with the interface of zvec's QwenReRanker."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, Protocol, TypeVar

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item, checked_query
from qwen_rerank.options import DocumentField, as_secret, check_options, with_secrets
from qwen_rerank.ranking.candidates import Candidates, Lists, usable_ids
from qwen_rerank.ranking.engine import MANY, offloaded
from qwen_rerank.ranking.records import flattened
from qwen_rerank.ranking.result import RankedIndices
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.settings import RerankSettings, option_names
from qwen_rerank.validation import check_top_n

__all__ = ["QwenReRanker", "ScoredDocument"]


class ScoredDocument(Protocol):
    """What QwenReRanker ranks: a Record, a zvec.Doc, or any object with these attributes."""

    @property
    def id(self) -> Any: ...
    @property
    def score(self) -> float | None: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


D = TypeVar("D", bound=ScoredDocument)


_ZVEC_MODEL = "gte-rerank-v2"
"""The default in zvec (0.8.0)."""


class QwenReRanker:
    """Reranks the results of a vector store's queries together, for one query text.

    A drop-in replacement for zvec's QwenReRanker, also as `reranker=` of a collection's query.
    Documents of all lists with the same id and the same text are copies, and the best-ranked one is
    kept. Among several lists, a document without an id is identified by its text. Documents without
    text are skipped. The documents that you pass are not changed.

    Args:
        query: What the documents should be relevant to: text that is not blank, or a `Content`.
        topn: The maximum number of documents to return, at least 1.
        rerank_field: The field with a document's text; several fields, for a text of `name: value`
            lines; a format string of field names; or a function from document to text. A `Content`
            or content blocks can stand in for text.
        model: The DashScope model. The default is zvec's; the other classes use qwen3-rerank.
        api_key: The DashScope key; DASHSCOPE_API_KEY if None.
        scorer: The scorer to use instead of DashScope.
        options: The other options of `RerankSettings`, such as instruct, min_score or missing.

    Raises:
        ValueError: The query is blank, there is no key, or an option cannot be used.
    """

    def __init__(
        self,
        query: Item,
        topn: int = 10,
        rerank_field: DocumentField = "content",
        model: str = _ZVEC_MODEL,
        api_key: str | SecretStr | None = None,
        *,
        scorer: Scorer | None = None,
        **options: Any,
    ) -> None:
        options, api_key = with_secrets(options), as_secret(api_key)
        checked_query(query)
        check_top_n(topn, "topn")
        names = option_names(RerankSettings)
        check_options(options, ["topn" if name == "top_n" else name for name in names])
        if api_key is not None:
            options["api_key"] = api_key
        if scorer is None or model != _ZVEC_MODEL:
            options["model"] = model
        self._settings = RerankSettings(
            top_n=topn, rerank_field=rerank_field, scorer=scorer, **options
        )
        self._query = query

    @property
    def query(self) -> Item:
        """What the documents should be relevant to."""
        return self._query

    @property
    def topn(self) -> int | None:
        """The maximum number of documents to return."""
        return self._settings.top_n

    @property
    def rerank_field(self) -> DocumentField | None:
        """Where a document's text is."""
        return self._settings.rerank_field

    @property
    def model(self) -> str:
        """The name of the model that gives the scores."""
        return self._settings.engine.scorer.model

    def rerank(
        self,
        query_results: Mapping[str, Iterable[D]] | Iterable[Iterable[D]],
        topn: int | None = None,
    ) -> list[D]:
        """Rank the documents of all lists together.

        Args:
            query_results: The documents of each query: lists by vector field, or a list of lists.
            topn: The maximum number to return; None for the reranker's own topn.

        Returns:
            Copies of the documents, best first, with the relevance score instead of the retrieval
            score; [] if no document has text.

        Raises:
            QwenRerankError: See `RerankEngine.rerank`.
        """
        documents, lists = _flattened(query_results)
        candidates = self._candidates(documents, lists)
        ranking = self._settings.engine.rank(
            self._query, candidates, self.topn if topn is None else topn
        )
        return _ranked(documents, ranking)

    async def arerank(
        self,
        query_results: Mapping[str, Iterable[D]] | Iterable[Iterable[D]],
        topn: int | None = None,
    ) -> list[D]:
        """The same as `rerank`, without blocking the event loop."""
        documents, lists = _flattened(query_results)
        engine = self._settings.engine
        is_long = engine.takes_long(len(documents))
        candidates = await offloaded(is_long, self._candidates, documents, lists)
        ranking = await engine.arank(self._query, candidates, self.topn if topn is None else topn)
        return await offloaded(len(ranking.indices) > MANY, _ranked, documents, ranking)

    def _candidates(self, documents: Sequence[ScoredDocument], lists: Lists | None) -> Candidates:
        ids = _ids(documents)
        return Candidates(self._settings.reader.read(documents, ids), ids, lists)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(query={self._query!r}, topn={self.topn}, model={self.model!r})"
        )


def _flattened(
    query_results: Mapping[str, Iterable[D]] | Iterable[Iterable[D]],
) -> tuple[list[D], Lists | None]:
    """Return the documents of all lists, and the indices of each list."""
    try:
        named = (
            query_results if isinstance(query_results, Mapping) else dict(enumerate(query_results))
        )
        documents, lists = flattened(named, _present)
        # Fails before anything is paid for.
        for document in {type(document): document for document in documents}.values():
            _with_score(document, document.score)
        return documents, lists
    except InvalidInputError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise _not_documents(error) from error


def _ids(documents: Iterable[ScoredDocument]) -> Sequence[str | None]:
    """Return each document's id as a string; None if it does not have one."""
    try:
        own = usable_ids([document.id for document in documents])
    except AttributeError as error:
        raise _not_documents(error) from error
    return [None if id_ is None else str(id_) for id_ in own]


def _not_documents(error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"query_results must be lists of documents with id, score and fields: {error}.",
        remedy="Pass a dict of lists by vector field, or a list of lists.",
    )


def _present(documents: Iterable[D | None]) -> list[D]:
    return [document for document in documents if document is not None]


def _ranked(documents: list[D], ranking: RankedIndices) -> list[D]:
    """Copies of the ranking's documents with their scores."""
    chosen = list(map(documents.__getitem__, ranking.indices))
    scores = ranking.scores_or(getattr(document, "score", None) for document in chosen)
    return list(map(_with_score, chosen, scores))


def _with_score(document: Any, score: float | None) -> Any:
    if is_dataclass(document):
        return replace(document, score=score)  # type: ignore[type-var]
    if hasattr(document, "_replace"):  # zvec.Doc, named tuples
        return document._replace(score=score)
    copied = copy.copy(document)
    copied.score = score
    return copied

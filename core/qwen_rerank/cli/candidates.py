"""What is to be reranked, query by query: a run or JSON Lines, with the texts that go with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any

from qwen_rerank.cli.text_index import TextIndex
from qwen_rerank.datasets import is_json_lines, json_object, lines, read_at, run_by_query
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import is_finite

__all__ = ["Candidates", "Counts", "Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """One query, and the texts to rank for it by their ids, in the first stage's order."""

    query_id: str
    query: str
    documents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is to do.

    Attributes:
        queries: Queries.
        documents: Documents that are reranked, query by query.
        beyond: Documents that are left out because they are beyond the depth.
        without: Queries of either file that have no documents, so that no result has them.
    """

    queries: int
    documents: int
    beyond: int
    without: int


@dataclass(frozen=True, slots=True)
class _Found:
    """A query's documents, best first; where a text is None, it is in a file of its own."""

    query_id: str
    query: str | None
    documents: dict[str, str | None]


class Candidates:
    """The candidates of a file, read anew each time they are gone through, one query at a time.

    They are read once when this is made, so that nothing is paid for before they are known to be
    whole.

    Args:
        path: A run in TREC's format; or JSON Lines, where its name ends in `.jsonl` or `.ndjson`:
            `{"query_id": …, "query": …, "documents": [{"id": …, "text": …, "score": …}, …]}`.
            A query or a text that is not there is looked up by its id.
        queries: The queries' texts; None where the candidates have them.
        corpus: The documents' texts; None where the candidates have them.
        depth: How many documents of each query to rerank, from the first; None for all.

    Attributes:
        counts: How much there is to do.
        inputs: By the option that names it, the SHA-256 of each file.

    Raises:
        InvalidInputError: A broken line, a query that is there twice, or a query or a document
            without a text.
        OSError: The file can't be read.
    """

    def __init__(
        self, path: Path, queries: TextIndex | None, corpus: TextIndex | None, depth: int | None
    ) -> None:
        self._path = path
        self._queries = queries
        self._corpus = corpus
        self._depth = depth
        self.counts = self._counted()
        self.inputs = self._digests()

    def check_unchanged(self) -> None:
        """Raise InvalidInputError if the file is not what it was when this was made."""
        if self._digests() != self.inputs:
            raise InvalidInputError(
                f"{self._path} has changed since it was read first.",
                remedy="Make it what it was, or throw away what is paid for with --restart.",
            )

    def _digests(self) -> dict[str, str]:
        indices = {"--queries": self._queries, "--corpus": self._corpus}
        digests = {name: index.digest for name, index in indices.items() if index is not None}
        with self._path.open("rb") as file:
            return {**digests, "--candidates": file_digest(file, "sha256").hexdigest()}

    def jobs(self, done: Collection[str]) -> Iterator[Job]:
        """The queries that are not done, in the order of the file."""
        for found in self._read():
            if found.query_id not in done:
                yield self._job(found)

    def query_ids(self) -> Iterator[str]:
        """The ids of all queries, in the order of the file."""
        return (found.query_id for found in self._read())

    def _counted(self) -> Counts:
        queries = documents = beyond = 0
        with_documents = unlisted = 0
        for found in self._read():
            ranked = self._ranked(found)
            self._check(found, ranked)
            queries += 1
            documents += len(ranked)
            beyond += len(found.documents) - len(ranked)
            with_documents += bool(ranked)
            unlisted += not self._is_listed(found)
        if not queries:
            raise InvalidInputError(f"{self._path} has no candidates.")
        listed = 0 if self._queries is None else len(self._queries)
        return Counts(queries, documents, beyond, without=listed + unlisted - with_documents)

    def _is_listed(self, found: _Found) -> bool:
        if found.query is None:  # its text is in the list, or the check had failed
            return True
        return self._queries is not None and not self._queries.missing([found.query_id])

    def _check(self, found: _Found, ranked: Mapping[str, str | None]) -> None:
        if found.query is None:
            self._check_texts("--queries", self._queries, [found.query_id], found)
        self._check_texts("--corpus", self._corpus, _textless(ranked), found)
        if not self._query(found).strip():
            raise InvalidInputError(
                f"The text of query {found.query_id!r} is blank.",
                remedy=f"Mend it, or take the query out of {self._path}.",
            )

    def _job(self, found: _Found) -> Job:
        ranked = self._ranked(found)
        texts = self._corpus.texts(_textless(ranked)) if self._corpus is not None else {}
        return Job(
            found.query_id,
            self._query(found),
            {id_: texts[id_] if text is None else text for id_, text in ranked.items()},
        )

    def _query(self, found: _Found) -> str:
        if found.query is not None or self._queries is None:
            return found.query or ""
        return self._queries.texts([found.query_id])[found.query_id]

    def _ranked(self, found: _Found) -> dict[str, str | None]:
        return dict(islice(found.documents.items(), self._depth))

    def _check_texts(
        self, option: str, index: TextIndex | None, ids: list[str], found: _Found
    ) -> None:
        if index is None and ids:
            raise InvalidInputError(
                f"{self._path} has no text for {ids[0]!r} (query {found.query_id!r}).",
                remedy=f"Pass {option}, the file with the texts.",
            )
        if index is not None and (lost := index.missing(ids)):
            raise InvalidInputError(
                f"{index.path} has no text for {lost[0]!r}, which {self._path} names for query "
                f"{found.query_id!r}{f', nor for {len(lost) - 1} others' if lost[1:] else ''}.",
                remedy=f"Pass the {option} that the candidates are from.",
            )

    def _read(self) -> Iterator[_Found]:
        if is_json_lines(self._path):
            yield from self._from_json()
            return
        for query_id, scores in run_by_query(self._path):
            yield _Found(query_id, None, dict.fromkeys(scores))

    def _from_json(self) -> Iterator[_Found]:
        seen: set[str] = set()
        for number, line in lines(self._path):
            found = read_at(self._path, number, _found, line)
            if found.query_id in seen:
                raise InvalidInputError(
                    f"{self._path}, line {number}: query {found.query_id!r} was there before."
                )
            seen.add(found.query_id)
            yield found


def _textless(documents: Mapping[str, str | None]) -> list[str]:
    return [id_ for id_, text in documents.items() if text is None]


def _found(line: bytes) -> _Found:
    """Raises ValueError where the line is not as `Candidates` says."""
    entry = json_object(line)
    query, given = entry.get("query"), entry.get("documents")
    if not isinstance(given, list) or not isinstance(query, str | None):
        raise ValueError("it has no list of documents, or a query that is no text")
    query_id = _id(entry, "query_id")
    scored = [_document(document) for document in given]
    if all(score is not None for _, _, score in scored):
        scored.sort(key=lambda document: -(document[2] or 0.0))
    documents = {id_: text for id_, text, _ in scored}
    if len(documents) < len(given):
        raise ValueError("a document is there twice")
    return _Found(query_id, query, documents)


def _document(given: Any) -> tuple[str, str | None, float | None]:
    if isinstance(given, str):
        given = {"id": given}
    if not isinstance(given, Mapping):
        raise ValueError("a document is an id, or an object with an id")
    id_, text, score = _id(given, "id"), given.get("text"), given.get("score")
    if not isinstance(text, str | None) or not (score is None or is_finite(score)):
        raise ValueError(f"document {id_!r}: its text or its score is none")
    return id_, text, score


def _id(entry: Mapping[str, Any], name: str) -> str:
    """The id, which TREC's format must be able to hold."""
    id_ = entry.get(name)
    text = str(id_) if type(id_) in (str, int) else ""
    if text.encode().split() != [text.encode()]:
        raise ValueError(f"it has no {name}, or one with white space: {id_!r}")
    return text

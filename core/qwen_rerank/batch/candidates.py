"""What to rerank, query by query: a run or JSON Lines, and the texts that go with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from itertools import islice
from pathlib import Path
from typing import Any

from qwen_rerank.batch.text_index import TextIndex
from qwen_rerank.datasets import (
    is_json_lines,
    iter_run,
    parse_json_object,
    parse_line,
    read_lines,
)
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import is_finite

__all__ = ["Candidates", "Counts", "Entry", "Job", "no_candidates", "read_entries"]


@dataclass(frozen=True, slots=True)
class Job:
    """One query and the texts to rank for it, by document id in the order of the first stage."""

    query_id: str
    query: str
    documents: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is to do.

    Attributes:
        queries: How many queries there are.
        documents: How many documents are reranked, added up over the queries.
        beyond_depth: How many documents are left out because of the depth.
        without_documents: How many queries have no documents, so that the result lacks them.
    """

    queries: int
    documents: int
    beyond_depth: int
    without_documents: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A query and its documents, best first. A text that is None is in the queries or corpus.

    Attributes:
        query_id: The id of the query.
        query: Its text.
        documents: The texts of the documents, by id.
    """

    query_id: str
    query: str | None
    documents: dict[str, str | None]


class Candidates:
    """The candidates in a file, which is read again in every pass, one query at a time.

    The first pass happens here: it checks everything before anything is paid for. Later passes
    raise an error if a query or its documents have changed.

    Args:
        path: A run, see `datasets.iter_run`; or JSON Lines if the name ends in `.jsonl` or
            `.ndjson`:
            `{"query_id": …, "query": …, "documents": [{"id": …, "text": …, "score": …}, …]}`.
            Queries and texts that are not there are looked up by their ids.
        queries: The texts of the queries; None if the candidates have them all.
        corpus: The texts of the documents; None if the candidates have them all.
        depth: How many documents of each query to rerank, from the first; None for all.

    Attributes:
        counts: How much there is to do.
        digests: The SHA-256 of each input file, by the argument that names the file.

    Raises:
        InvalidInputError: A line is invalid, a query is listed twice, or a query or a document
            does not have a text.
        OSError: The file can't be read.
    """

    def __init__(
        self, path: Path, queries: TextIndex | None, corpus: TextIndex | None, depth: int | None
    ) -> None:
        self._path = path
        self._queries = queries
        self._corpus = corpus
        self._depth = depth
        self._entry_hashes: dict[str, bytes] = {}
        self.counts = self._first_pass()
        self.digests = {name: index.digest for name, index in self._indexes().items()}
        self.digests["candidates"] = self._candidates_digest()

    def jobs(self, finished: Collection[str]) -> Iterator[Job]:
        """Yield the queries that are not finished, in the order of the file.

        Raises:
            InvalidInputError: A file has changed since the first pass.
        """
        for entry in self._entries_again():
            if entry.query_id not in finished:
                yield self._job(entry)

    def document_ids(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the id of each query and of the documents to rerank for it.

        Raises:
            InvalidInputError: The file has changed since the first pass.
        """
        for entry in self._entries_again():
            yield entry.query_id, list(self._to_rank(entry))

    def check_unchanged(self) -> None:
        """Raise InvalidInputError if any of the input files has changed since the first pass."""
        for name, index in self._indexes().items():
            if index.current_digest() != self.digests[name]:
                raise _changed(index.path)
        if self._candidates_digest() != self.digests["candidates"]:
            raise _changed(self._path)

    def _indexes(self) -> dict[str, TextIndex]:
        indexes = {"queries": self._queries, "corpus": self._corpus}
        return {name: index for name, index in indexes.items() if index is not None}

    def _candidates_digest(self) -> str:
        with self._path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def _first_pass(self) -> Counts:
        queries = documents = beyond_depth = 0
        with_documents = only_here = 0
        for entry in read_entries(self._path):
            to_rank = self._to_rank(entry)
            self._check(entry, to_rank)
            self._entry_hashes[entry.query_id] = _entry_hash(entry)
            queries += 1
            documents += len(to_rank)
            beyond_depth += len(entry.documents) - len(to_rank)
            with_documents += bool(to_rank)
            only_here += not self._is_in_queries(entry)
        if not queries:
            raise no_candidates(self._path)
        in_queries = 0 if self._queries is None else len(self._queries)
        return Counts(queries, documents, beyond_depth, in_queries + only_here - with_documents)

    def _is_in_queries(self, entry: Entry) -> bool:
        if entry.query is None:  # or the check would have failed
            return True
        return self._queries is not None and not self._queries.missing([entry.query_id])

    def _check(self, entry: Entry, to_rank: Mapping[str, str | None]) -> None:
        if entry.query is None:
            self._check_texts("queries", self._queries, [entry.query_id], entry)
        self._check_texts("corpus", self._corpus, _without_text(to_rank), entry)
        if not self._query(entry).strip():
            raise InvalidInputError(
                f"The text of query {entry.query_id!r} is blank.",
                remedy=f"Add the text, or remove the query from {self._path}.",
            )

    def _check_texts(
        self, option: str, index: TextIndex | None, ids: list[str], entry: Entry
    ) -> None:
        if index is None and ids:
            raise InvalidInputError(
                f"{self._path} has no text for {ids[0]!r} (query {entry.query_id!r}).",
                remedy=f"Pass {option}=…, the file with the texts.",
            )
        if index is not None and (missing := index.missing(ids)):
            others = f", nor for {len(missing) - 1} others" if missing[1:] else ""
            raise InvalidInputError(
                f"{index.path} has no text for {missing[0]!r}, which {self._path} lists for query "
                f"{entry.query_id!r}{others}.",
                remedy=f"Pass the {option} that the candidates come from.",
            )

    def _job(self, entry: Entry) -> Job:
        to_rank = self._to_rank(entry)
        texts = {} if self._corpus is None else self._corpus.texts(_without_text(to_rank))
        return Job(
            entry.query_id,
            self._query(entry),
            {id_: texts[id_] if text is None else text for id_, text in to_rank.items()},
        )

    def _query(self, entry: Entry) -> str:
        if entry.query is not None or self._queries is None:
            return entry.query or ""
        return self._queries.texts([entry.query_id])[entry.query_id]

    def _to_rank(self, entry: Entry) -> dict[str, str | None]:
        return dict(islice(entry.documents.items(), self._depth))

    def _entries_again(self) -> Iterator[Entry]:
        """Yield the same entries as in the first pass, or raise."""
        entries = read_entries(self._path)
        count = 0
        while True:
            try:
                entry = next(entries, None)
            except InvalidInputError as error:  # it was valid in the first pass
                raise _changed(self._path) from error
            if entry is None:
                break
            if self._entry_hashes.get(entry.query_id) != _entry_hash(entry):
                raise _changed(self._path)
            count += 1
            yield entry
        if count < len(self._entry_hashes):
            raise _changed(self._path)


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the candidates in a file, in its order; see `Candidates`.

    Raises:
        InvalidInputError: A line is invalid, or a query is listed twice.
        OSError: The file can't be read.
    """
    if is_json_lines(path):
        yield from _json_entries(path)
        return
    for query_id, scores in iter_run(path):
        yield Entry(query_id, None, dict.fromkeys(scores))


def _json_entries(path: Path) -> Iterator[Entry]:
    seen: set[str] = set()
    for number, line in read_lines(path):
        entry = parse_line(path, number, _parse_entry, line)
        if entry.query_id in seen:
            raise InvalidInputError(
                f"{path}, line {number}: query {entry.query_id!r} is listed twice."
            )
        seen.add(entry.query_id)
        yield entry


def no_candidates(path: Path) -> InvalidInputError:
    """Return the error for a file without a query to rerank."""
    return InvalidInputError(f"{path} has no candidates.")


def _changed(path: Path) -> InvalidInputError:
    return InvalidInputError(
        f"{path} has changed since it was first read.",
        remedy="Restore the file, or start over with restart=True.",
    )


def _entry_hash(entry: Entry) -> bytes:
    content = repr((entry.query, list(entry.documents.items())))
    return blake2b(content.encode(errors="surrogatepass"), digest_size=16).digest()


def _without_text(documents: Mapping[str, str | None]) -> list[str]:
    return [id_ for id_, text in documents.items() if text is None]


def _parse_entry(line: bytes) -> Entry:
    """Parse a line as `Candidates` describes it, or raise ValueError."""
    fields = parse_json_object(line)
    query, documents = fields.get("query"), fields.get("documents")
    if not isinstance(query, str | None):
        raise ValueError(f"the query is {query!r:.40}, not a string")
    if not isinstance(documents, list):
        raise ValueError(f"documents is {documents!r:.40}, not a list")
    query_id = _parse_id(fields, "query_id")
    scored = [_parse_document(document) for document in documents]
    if all(score is not None for _, _, score in scored):
        scored.sort(key=lambda document: -(document[2] or 0.0))
    return Entry(query_id, query, _unique(scored))


def _unique(scored: Iterable[tuple[str, str | None, float | None]]) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for id_, text, _ in scored:
        if id_ in texts:
            raise ValueError(f"document {id_!r} is listed twice")
        texts[id_] = text
    return texts


def _parse_document(document: Any) -> tuple[str, str | None, float | None]:
    if isinstance(document, str):
        document = {"id": document}
    if not isinstance(document, Mapping):
        raise ValueError(f"a document is {document!r:.40}, not an id or an object with an id")
    id_, text, score = _parse_id(document, "id"), document.get("text"), document.get("score")
    if not isinstance(text, str | None):
        raise ValueError(f"the text of document {id_!r} is {text!r:.40}, not a string")
    if score is not None and not is_finite(score):
        raise ValueError(f"the score of document {id_!r} is {score!r:.40}, not a finite number")
    return id_, text, score


def _parse_id(fields: Mapping[str, Any], name: str) -> str:
    """Return the id, which TREC's format must be able to hold."""
    id_ = fields.get(name)
    text = str(id_) if type(id_) in (str, int) else ""
    if not text:
        raise ValueError(f"no {name}" if id_ in (None, "") else f"{name} is {id_!r:.40}, not an id")
    if text.encode().split() != [text.encode()]:
        raise ValueError(f"{name} {text!r} contains white space, unlike ids in TREC's format")
    return text

"""The journal of a job: finished queries are on disk, and are not paid for twice.

A file of JSON Lines that is only appended to. The first line has the options that the rankings
depend on; each other line is a finished query. A process that is killed leaves at most one torn
line, the last, which is cut off.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from qwen_rerank.datasets import parse_json_object
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.base import Usage

__all__ = ["FinishedQuery", "Journal", "ScoredIds", "sync_folder"]

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)  # nobody reads this byte; a locked one can't be read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_Score = Annotated[float, Field(allow_inf_nan=False)]

ScoredIds: TypeAlias = Sequence[tuple[str, _Score | None]]
"""Document ids, best first, with their scores; None for a document without text."""


@dataclass(frozen=True, slots=True)
class FinishedQuery:
    """The result for a query.

    Attributes:
        query_id: The id of the query.
        ranking: Its documents, best first.
        usage: What it cost.
        unranked: Whether no model ranked it, and the documents are in retrieval order.
        model: The name of the model that gave the scores.
        skipped: How many documents were left out because their text is missing or blank.
        duplicates: How many were left out because they are copies.
        over_budget: How many were left out because of max_candidates.
        digest: A hash of what was ranked.
        length: How many documents the ranking has; None if that is not known.
    """

    query_id: str
    ranking: ScoredIds
    usage: Usage
    unranked: bool = False
    model: str = ""
    skipped: int = 0
    duplicates: int = 0
    over_budget: int = 0
    digest: str = ""
    length: int | None = None


_finished_query = TypeAdapter(FinishedQuery)

_HEAD = b'{"qwen_rerank_journal": 1, "options": {'
"""How a journal begins, and no other file."""


class Journal:
    """The journal in a file. No other process writes to it until this one closes it.

    Args:
        path: The file, which is created if it does not exist.
        options: What the rankings depend on, by names that users know.
        restart: Whether to discard what is in the journal.

    Attributes:
        usage: What all finished queries have cost.
        unranked: How many queries kept their order because no model ranked them.
        without_text: How many documents have no score because they have no text.

    Raises:
        InvalidInputError: The file is not a journal, is corrupted, is the journal of other options,
            or is in use.
        OSError: The file can't be read or written.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, restart: bool = False) -> None:
        self.usage = Usage()
        self.unranked = 0
        self.without_text = 0
        self._path = path
        self._offsets: dict[str, int] = {}
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise self._not_a_journal()
        self._file = path.open("ab", buffering=0)
        self._reader = path.open("rb")
        try:
            self._claim()
            self._load({name: str(value) for name, value in options.items()}, restart)
            self._reader.close()  # its buffer may have what was cut off
            self._reader = path.open("rb")
        except BaseException:
            self.close()
            raise

    @property
    def finished(self) -> Collection[str]:
        """The ids of the finished queries."""
        return self._offsets.keys()

    def add(self, *queries: FinishedQuery) -> None:
        """Append queries; they are on disk when this returns.

        Raises:
            OSError: They could not be written. Nothing can be added after that.
        """
        if self._file.closed:
            raise OSError(f"{self._path} is closed, or an earlier line could not be written.")
        lines = [_finished_query.dump_json(query) + b"\n" for query in queries]
        end = self._file.seek(0, os.SEEK_END)
        if lines:
            self._append(b"".join(lines))
        for query, offset in zip(queries, accumulate(map(len, lines), initial=end), strict=False):
            self._count(query, offset)

    def read(self, query_id: str) -> FinishedQuery:
        """Return a finished query.

        Raises:
            InvalidInputError: Its line is corrupted.
        """
        offset = self._offsets[query_id]
        self._reader.seek(offset)
        return self._parse(self._reader.readline(), offset)

    def check_documents(self, finished: FinishedQuery, document_ids: Collection[str]) -> None:
        """Raise InvalidInputError if a finished query has other documents, or one of them twice."""
        ids = {id_ for id_, _ in finished.ranking}
        offset = self._offsets[finished.query_id]
        if foreign := ids.difference(document_ids):
            raise self._corrupted(offset, f"the query has no document {min(foreign)!r}")
        if len(ids) < len(finished.ranking):
            raise self._corrupted(offset, "a document is listed twice")

    def ranking(
        self, query_id: str, document_ids: Collection[str], top_n: int | None = None
    ) -> ScoredIds:
        """Return the ranking of a finished query whose documents are in the order of their scores.

        Args:
            query_id: The id of the query.
            document_ids: The documents that were ranked for it.
            top_n: How many of them were kept; None for all.

        Raises:
            InvalidInputError: Its line is corrupted: these documents can't have this ranking.
        """
        finished = self.read(query_id)
        self.check_documents(finished, document_ids)
        expected = len(document_ids) if top_n is None else min(top_n, len(document_ids))
        self._check_length(finished, expected, self._offsets[query_id])
        scores = [float("-inf") if score is None else score for _, score in finished.ranking]
        if any(first < second for first, second in pairwise(scores)):
            problem = "its documents are not in the order of their scores"
            raise self._corrupted(self._offsets[query_id], problem)
        return finished.ranking

    def remove(self) -> None:
        """Delete the file, and close it."""
        if sys.platform == "win32":
            self.close()  # an open file can't be deleted there
        self._path.unlink()
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._file.close()

    def _claim(self) -> None:
        file = self._file.fileno()
        try:
            _lock(file)
            if not os.fstat(file).st_nlink:
                raise OSError("It was removed before it was locked.")
        except OSError as error:
            raise InvalidInputError(
                f"{self._path} is in use, by another process or by a call of this one.",
                remedy="Wait until it has finished, or close what rerank_many returned.",
            ) from error

    def _load(self, options: dict[str, str], restart: bool) -> None:
        head = _HEAD[:-1] + json.dumps(options).encode() + b"}\n"
        first = self._reader.readline()
        if not first.startswith(_HEAD) and not head.startswith(first):
            raise self._not_a_journal()
        if restart or not first.endswith(b"\n"):  # nothing yet, or a torn first line
            self._file.truncate(0)
            self._append(head)
            sync_folder(self._path.parent)
            return
        self._check_options(self._parse_options(first), options)
        self._load_finished(len(first))

    def _load_finished(self, offset: int) -> None:
        for line in self._reader:
            if _is_torn(line) and not self._reader.read(1):  # only the last line can be torn
                self._file.truncate(offset)
                return
            self._count(self._parse(line, offset), offset)
            offset += len(line)

    def _parse_options(self, line: bytes) -> dict[str, str]:
        try:
            options: dict[str, str] = parse_json_object(line)["options"]
        except (ValueError, KeyError) as error:
            raise self._corrupted(0, "its options can't be read") from error
        return options

    def _check_options(self, written: Mapping[str, str], options: Mapping[str, str]) -> None:
        differing = [
            f"{name} was {written.get(name, 'not set')} and is {options.get(name, 'not set')}"
            for name in {**written, **options}
            if written.get(name) != options.get(name)
        ]
        if differing:
            raise InvalidInputError(
                f"{self._path} was written with other options: {'; '.join(differing)}.",
                remedy="Use the same options, write to another file, or start over with "
                "restart=True, which pays for the finished queries again.",
            )

    def _parse(self, line: bytes, offset: int) -> FinishedQuery:
        try:
            finished = _finished_query.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            problem = f"{field}: {first['msg']}" if field else "it is not valid JSON"
            raise self._corrupted(offset, problem) from error
        if finished.length is not None:
            self._check_length(finished, finished.length, offset)
        return finished

    def _check_length(self, finished: FinishedQuery, expected: int, offset: int) -> None:
        if (length := len(finished.ranking)) != expected:
            problem = f"its {length} documents are not the expected {expected}"
            raise self._corrupted(offset, problem)

    def _not_a_journal(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self._path} exists and is not a journal.",
            remedy="Move it away, or choose another file.",
        )

    def _corrupted(self, offset: int, problem: str) -> InvalidInputError:
        return InvalidInputError(
            f"{self._path}, line {self._line_number(offset)} is corrupted: {problem}.",
            remedy="Delete the line to rank its query again, or start over with restart=True."
            if offset
            else "Start over with restart=True.",
        )

    def _line_number(self, offset: int) -> int:
        with self._path.open("rb") as file:
            ends = accumulate(map(len, file), initial=0)
            return 1 + sum(1 for _ in takewhile(lambda end: end < offset, ends))

    def _count(self, query: FinishedQuery, offset: int) -> None:
        if query.query_id in self._offsets:
            earlier = self._line_number(self._offsets[query.query_id])
            problem = f"query {query.query_id!r} is also on line {earlier}"
            raise self._corrupted(offset, problem)
        self._offsets[query.query_id] = offset
        self.usage += query.usage
        if query.unranked:
            self.unranked += 1
        else:
            self.without_text += sum(score is None for _, score in query.ranking)

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.close()  # a line after a torn one would be lost too
            raise


def _is_torn(line: bytes) -> bool:
    try:
        from_json(line)
    except ValueError:
        return True
    return not line.endswith(b"\n")


def sync_folder(folder: Path) -> None:
    """Write the names of a folder's files to disk, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

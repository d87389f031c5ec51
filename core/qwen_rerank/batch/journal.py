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
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

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

_HEAD = b'{"options": {'
"""How a journal begins."""


class _Line(NamedTuple):
    """Where a line of the journal is."""

    number: int
    offset: int


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
        self._lines: dict[str, _Line] = {}
        self._last_line = 1
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
        return self._lines.keys()

    def add(self, query: FinishedQuery) -> None:
        """Append a query; it is on disk when this returns.

        Raises:
            OSError: It could not be written. Nothing can be added after that.
        """
        offset = self._file.seek(0, os.SEEK_END)
        self._append(asdict(query))
        self._count(query, offset)

    def ranking(
        self, query_id: str, document_ids: Collection[str], top_n: int | None = None
    ) -> ScoredIds:
        """Return the ranking of a finished query.

        Args:
            query_id: The id of the query.
            document_ids: The documents that were ranked for it.
            top_n: How many of them were kept; None for all.

        Raises:
            InvalidInputError: The ranking does not have the expected number of these documents, in
                the order of their scores.
        """
        ranking = self.read(query_id).ranking
        self._check_ranking(ranking, document_ids, top_n, self._lines[query_id].number)
        return ranking

    def read(self, query_id: str) -> FinishedQuery:
        """Return a finished query.

        Raises:
            InvalidInputError: Its line is corrupted.
        """
        line = self._lines[query_id]
        self._reader.seek(line.offset)
        return self._parse(self._reader.readline(), line.number)

    def check_documents(self, finished: FinishedQuery, document_ids: Collection[str]) -> None:
        """Raise InvalidInputError if a finished query has other documents than these."""
        foreign = {id_ for id_, _ in finished.ranking}.difference(document_ids)
        if foreign:
            problem = f"the query has no document {min(foreign)!r}"
            raise self._corrupted(self._lines[finished.query_id].number, problem)

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
        first = self._reader.readline()
        if not _HEAD.startswith(first[: len(_HEAD)]):
            raise self._not_a_journal()
        if restart or not first.endswith(b"\n"):  # nothing yet, or a torn first line
            self._file.truncate(0)
            self._append({"options": options})
            sync_folder(self._path.parent)
            return
        self._check_options(self._parse_options(first), options)
        self._load_finished(len(first))

    def _load_finished(self, offset: int) -> None:
        for line in self._reader:
            if _is_torn(line) and not self._reader.read(1):  # only the last line can be torn
                self._file.truncate(offset)
                return
            self._count(self._parse(line, self._last_line + 1), offset)
            offset += len(line)

    def _parse_options(self, line: bytes) -> dict[str, str]:
        try:
            options: dict[str, str] = parse_json_object(line)["options"]
        except (ValueError, KeyError) as error:
            raise self._corrupted(1, "its options can't be read") from error
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

    def _parse(self, line: bytes, number: int) -> FinishedQuery:
        try:
            finished = _finished_query.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, first["loc"]))
            problem = f"{field}: {first['msg']}" if field else "it is not valid JSON"
            raise self._corrupted(number, problem) from error
        if finished.length not in (None, len(finished.ranking)):
            raise self._corrupted(
                number,
                f"its {len(finished.ranking)} documents are not the expected {finished.length}",
            )
        return finished

    def _check_ranking(
        self, ranking: ScoredIds, document_ids: Collection[str], top_n: int | None, number: int
    ) -> None:
        expected = len(document_ids) if top_n is None else min(top_n, len(document_ids))
        ids = {id_ for id_, _ in ranking}
        if len(ranking) != expected or len(ids) != expected or not ids <= set(document_ids):
            raise self._corrupted(
                number, f"its {len(ranking)} documents are not the expected {expected}"
            )
        scores = [float("-inf") if score is None else score for _, score in ranking]
        if any(first < second for first, second in pairwise(scores)):
            raise self._corrupted(number, "its documents are not in the order of their scores")

    def _not_a_journal(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self._path} exists and is not a journal.",
            remedy="Move it away, or choose another file.",
        )

    def _corrupted(self, number: int, problem: str) -> InvalidInputError:
        return InvalidInputError(
            f"{self._path}, line {number} is corrupted: {problem}.",
            remedy="Delete the line to rank its query again, or start over with restart=True."
            if number > 1
            else "Start over with restart=True.",
        )

    def _count(self, query: FinishedQuery, offset: int) -> None:
        self._last_line += 1
        if query.query_id in self._lines:
            raise self._corrupted(
                self._last_line,
                f"query {query.query_id!r} is also on line {self._lines[query.query_id].number}",
            )
        self._lines[query.query_id] = _Line(self._last_line, offset)
        self.usage += query.usage
        if query.unranked:
            self.unranked += 1
        else:
            self.without_text += sum(score is None for _, score in query.ranking)

    def _append(self, value: Mapping[str, Any]) -> None:
        rest = memoryview(f"{json.dumps(value)}\n".encode())
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

"""The journal of a run: what is finished is on the disk, and is not paid for again.

A file of JSON Lines that is only ever appended to. The first line has the options that the rankings
depend on, each other one a query that is finished. A process that is killed leaves at most one torn
line, the last, which is cut off.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from qwen_rerank.datasets import json_object
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.base import Usage

__all__ = ["Finished", "Journal", "Scored", "sync_folder"]

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 2**30, os.SEEK_SET)  # a byte that nobody reads, as they could not
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


Scored: TypeAlias = Sequence[tuple[str, float | None]]
"""Documents, best first, with their scores; None for one without text."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A query that is finished.

    Attributes:
        query_id: Its id.
        ranking: Its documents, best first.
        usage: What it cost.
        refused: Whether the service's content inspection refused it, so that nothing was ranked.
    """

    query_id: str
    ranking: Scored
    usage: Usage
    refused: bool = False


_finished = TypeAdapter(Finished)

_HEAD = b'{"options": {'
"""How a journal begins."""


class Journal:
    """The journal in a file, to which no other process writes until this one closes it.

    Args:
        path: The file; it is made if it is not there.
        options: What the rankings depend on, by names that a user knows.
        restart: Whether to throw away what is in the file.

    Attributes:
        usage: What all that is finished has cost.
        refused: How many queries were refused.
        textless: How many documents have no score, as they have no text.

    Raises:
        InvalidInputError: The file is the journal of other options, is none, or is in use.
        OSError: The file can't be read or written.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], *, restart: bool = False) -> None:
        self.usage = Usage()
        self.refused = 0
        self.textless = 0
        self._path = path
        self._places: dict[str, int] = {}
        self._file = path.open("ab", buffering=0)
        self._reader = path.open("rb")
        try:
            self._claim()
            if restart:
                self._file.truncate(0)
            self._load({name: str(value) for name, value in options.items()})
        except BaseException:
            self.close()
            raise

    @property
    def done(self) -> Collection[str]:
        """The ids of the queries that are finished."""
        return self._places.keys()

    def add(self, finished: Finished) -> None:
        """Append a query; it is on the disk when this returns.

        Raises:
            OSError: It could not be written. Nothing more can be added then.
        """
        place = self._file.seek(0, os.SEEK_END)
        self._append(asdict(finished))
        self._count(finished, place)

    def ranking(self, query_id: str) -> Scored:
        """The ranking of a query that is finished."""
        self._reader.seek(self._places[query_id])
        return self._finished(self._reader.readline()).ranking

    def remove(self) -> None:
        """Remove the file, and close it."""
        if sys.platform == "win32":
            self.close()  # what is open can't be removed there
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
                f"Another process is writing to {self._path}.", remedy="Wait until it has ended."
            ) from error

    def _load(self, options: dict[str, str]) -> None:
        first = self._reader.readline()
        if first.endswith(b"\n"):
            self._check(self._options(first), options)
            self._load_finished(len(first))
        elif _HEAD.startswith(first[: len(_HEAD)]):  # nothing yet, or a torn first line
            self._file.truncate(0)
            self._append({"options": options})
            sync_folder(self._path.parent)
        else:
            raise self._damaged()

    def _load_finished(self, place: int) -> None:
        for line in self._reader:
            try:
                self._count(self._finished(line), place)
            except InvalidInputError:
                if self._reader.read(1):  # a torn line can only be the last
                    raise
                self._file.truncate(place)
            place += len(line)

    def _options(self, line: bytes) -> dict[str, str]:
        try:
            options: dict[str, str] = json_object(line)["options"]
        except (ValueError, KeyError) as error:
            raise self._damaged() from error
        return options

    def _check(self, written: Mapping[str, str], options: Mapping[str, str]) -> None:
        differing = [
            f"{name} was {written.get(name, 'not given')} and is {options.get(name, 'not given')}"
            for name in {**written, **options}
            if written.get(name) != options.get(name)
        ]
        if differing:
            raise InvalidInputError(
                f"{self._path} is the journal of other options: {'; '.join(differing)}.",
                remedy="Use those, write to another file, or throw the journal and what is paid "
                "for away with --restart.",
            )

    def _finished(self, line: bytes) -> Finished:
        try:
            if line.endswith(b"\n"):
                return _finished.validate_json(line)
        except ValidationError as error:
            raise self._damaged() from error
        raise self._damaged()

    def _damaged(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self._path} is no journal, or is damaged.",
            remedy="Mend it, write to another file, or throw it away with --restart.",
        )

    def _count(self, finished: Finished, place: int) -> None:
        self._places[finished.query_id] = place
        self.usage += finished.usage
        if finished.refused:
            self.refused += 1
        else:
            self.textless += sum(score is None for _, score in finished.ranking)

    def _append(self, value: Mapping[str, Any]) -> None:
        rest = memoryview(f"{json.dumps(value)}\n".encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.close()  # a line behind a torn one would be torn too
            raise


def sync_folder(folder: Path) -> None:
    """See that its files' names are on the disk too, where a system can do that."""
    if sys.platform == "win32":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

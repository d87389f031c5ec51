"""Texts by their ids, read from a file when they are asked for, however large it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from qwen_rerank.datasets import entry_reader, read_at
from qwen_rerank.errors import InvalidInputError

__all__ = ["TextIndex"]

_AT_A_TIME = 500
"""Ids in one question to the database, which takes 999 at least."""


class TextIndex:
    """Knows where each text of a file begins: in a temporary database, which is on the disk.

    Args:
        path: JSON Lines, where its name ends in `.jsonl` or `.ndjson`; else lines of an id, a tab
            and a text.
        fields: The fields of a JSON entry that make its text, joined by line breaks.

    Attributes:
        path: The file.
        digest: The SHA-256 of the file, in hexadecimal digits.

    Raises:
        InvalidInputError: A line that is no entry, an id that is there twice, or a packed file.
        OSError: The file can't be read.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        if path.suffix == ".gz":
            raise InvalidInputError(
                f"{path} is packed, and its texts can't be found one by one.",
                remedy=f"Unpack it: gunzip --keep {path}",
            )
        self.path = path
        self._read = entry_reader(path, fields)
        self._hash = sha256()
        self._file = path.open("rb")
        # "" is a database in a file without a name, which goes with the process, however it ends.
        self._places = sqlite3.connect("", isolation_level=None)
        try:
            self._fill()
        except BaseException:
            self.close()
            raise
        self.digest = self._hash.hexdigest()

    def __len__(self) -> int:
        ((count,),) = self._places.execute("SELECT count(*) FROM places")
        return int(count)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that are not in the file."""
        wanted = list(ids)
        known = {id_ for id_, _ in self._found(wanted)}
        return [id_ for id_ in wanted if id_ not in known]

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """The texts of those ids that are in the file, in the order of the ids.

        Raises:
            InvalidInputError: One is no longer where it was.
        """
        wanted = list(ids)
        in_order = sorted(self._found(wanted), key=lambda found: found[1])
        texts = {id_: self._text(id_, place) for id_, place in in_order}
        return {id_: texts[id_] for id_ in wanted if id_ in texts}

    def close(self) -> None:
        """Release the file and the database."""
        self._places.close()
        self._file.close()

    def _fill(self) -> None:
        do = self._places.execute
        do("PRAGMA synchronous = OFF")
        do("CREATE TABLE places (id TEXT, place INTEGER)")
        do("BEGIN")
        self._places.executemany("INSERT INTO places VALUES (?, ?)", self._entries())
        do("COMMIT")
        try:
            do("CREATE UNIQUE INDEX by_id ON places (id)")
        except sqlite3.IntegrityError:
            twice = "SELECT id FROM places GROUP BY id HAVING count(*) > 1 LIMIT 1"
            ((id_,),) = do(twice).fetchall()
            raise InvalidInputError(f"{self.path} has the id {id_!r} more than once.") from None

    def _entries(self) -> Iterator[tuple[str, int]]:
        place = 0
        for number, line in enumerate(self._file, start=1):
            self._hash.update(line)
            if line.strip():
                yield read_at(self.path, number, self._read, line)[0], place
            place += len(line)

    def _text(self, id_: str, place: int) -> str:
        self._file.seek(place)
        try:
            found, text = self._read(self._file.readline())
        except ValueError:
            found, text = "", ""
        if found != id_:
            raise InvalidInputError(
                f"{self.path} has changed: {id_!r} is not where it was.",
                remedy="Start again when nothing writes to it.",
            )
        return text

    def _found(self, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
        for start in range(0, len(ids), _AT_A_TIME):
            some = ids[start : start + _AT_A_TIME]
            marks = ", ".join("?" * len(some))
            yield from self._places.execute(
                f"SELECT id, place FROM places WHERE id IN ({marks})", some
            )

"""Find texts by id in a file of any size."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b, file_digest, sha256
from itertools import groupby
from pathlib import Path

from qwen_rerank.datasets import check_is_text, is_blank, parse_line, text_parser
from qwen_rerank.errors import InvalidInputError

__all__ = ["TextIndex"]

_BATCH = 500
"""How many ids to look up per SQL statement; SQLite takes at least 999."""


class TextIndex:
    """Knows where each text of a file is, in a temporary database on disk.

    It also keeps a hash of every line, so that a line that changes later is noticed.

    Args:
        path: JSON Lines if the name ends in `.jsonl` or `.ndjson`; otherwise lines with an id, a
            tab and a text.
        fields: The fields of a JSON entry that make up its text; see `datasets.read_texts`.

    Attributes:
        path: The file.
        digest: The SHA-256 of the file when it was read, in hexadecimal.

    Raises:
        InvalidInputError: A line is invalid, an id has two different texts, or the file is
            compressed.
        OSError: The file can't be read.
    """

    def __init__(self, path: Path, fields: Sequence[str] | None) -> None:
        if path.suffix == ".gz":
            raise InvalidInputError(
                f"{path} is compressed, so its texts can't be looked up one by one.",
                remedy=f"Decompress it: gunzip --keep {path}",
            )
        self.path = path
        self._parse = text_parser(path, fields)
        self._file = path.open("rb")
        # "" is a database in a temporary file, which disappears with the process.
        self._database = sqlite3.connect("", isolation_level=None)
        try:
            self.digest = self._fill()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        ((count,),) = self._database.execute("SELECT count(*) FROM lines")
        return int(count)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids that are not in the file."""
        wanted = list(ids)
        present = {id_ for id_, _, _ in self._rows(wanted)}
        return [id_ for id_ in wanted if id_ not in present]

    def texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the texts of the ids that are in the file, in the order of the ids.

        Raises:
            InvalidInputError: The line of a text has changed since the file was indexed.
        """
        wanted = list(ids)
        in_file_order = sorted(self._rows(wanted), key=lambda row: row[1])
        texts = {id_: self._text_at(id_, offset, hash_) for id_, offset, hash_ in in_file_order}
        return {id_: texts[id_] for id_ in wanted if id_ in texts}

    def current_digest(self) -> str:
        """Return the SHA-256 of the file as it is now, in hexadecimal."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        """Release the file and the database."""
        self._database.close()
        self._file.close()

    def _fill(self) -> str:
        """Index the file, and return its digest."""
        digest = sha256()
        execute = self._database.execute
        execute("PRAGMA synchronous = OFF")
        execute("CREATE TABLE lines (id TEXT, offset INTEGER, number INTEGER, hash BLOB)")
        execute("BEGIN")
        self._database.executemany(
            "INSERT INTO lines VALUES (?, ?, ?, ?)", self._index_rows(digest.update)
        )
        execute("COMMIT")
        try:
            execute(_UNIQUE_INDEX)
        except sqlite3.IntegrityError:
            self._remove_repeated_lines()
            execute(_UNIQUE_INDEX)
        return digest.hexdigest()

    def _index_rows(self, update: Callable[[bytes], None]) -> Iterator[tuple[str, int, int, bytes]]:
        offset = 0
        for number, line in enumerate(self._file, start=1):
            if number == 1:
                check_is_text(self.path, line)
            update(line)
            if not is_blank(line):
                id_, _ = parse_line(self.path, number, self._parse, line)
                yield id_, offset, number, _line_hash(line)
            offset += len(line)

    def _remove_repeated_lines(self) -> None:
        """Keep one line of each id, or raise if the lines of an id have different texts."""
        rows = self._database.execute(_REPEATED)
        for id_, group in groupby(rows, key=lambda row: row[0]):
            (_, offset, first, hash_), *others = group
            text = self._text_at(id_, offset, hash_)
            for _, offset, number, hash_ in others:
                if self._text_at(id_, offset, hash_) != text:
                    raise InvalidInputError(
                        f"{self.path}, line {number}: the id {id_!r} has another text on line "
                        f"{first}."
                    )
        self._database.execute(
            "DELETE FROM lines WHERE rowid NOT IN (SELECT min(rowid) FROM lines GROUP BY id)"
        )

    def _text_at(self, id_: str, offset: int, hash_: bytes) -> str:
        self._file.seek(offset)
        line = self._file.readline()
        if _line_hash(line) != hash_:
            raise InvalidInputError(
                f"{self.path} has changed since it was first read: {id_!r} is different.",
                remedy="Restore the file, or start over with restart=True.",
            )
        return self._parse(line)[1]

    def _rows(self, ids: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            marks = ", ".join("?" * len(batch))
            yield from self._database.execute(
                f"SELECT id, offset, hash FROM lines WHERE id IN ({marks})", batch
            )


_UNIQUE_INDEX = "CREATE UNIQUE INDEX by_id ON lines (id)"
_REPEATED = """
    SELECT id, offset, number, hash FROM lines
    WHERE id IN (SELECT id FROM lines GROUP BY id HAVING count(*) > 1)
    ORDER BY id, number
"""


def _line_hash(line: bytes) -> bytes:
    return blake2b(line, digest_size=16).digest()

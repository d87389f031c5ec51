"""Write a run in TREC's format."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from secrets import token_hex

from qwen_rerank.batch.journal import ScoredIds, sync_folder
from qwen_rerank.errors import InvalidInputError

__all__ = ["already_exists", "check_can_write", "would_replace_input", "write_run"]


def write_run(
    path: Path, tag: str, rankings: Iterable[tuple[str, ScoredIds]], *, overwrite: bool
) -> None:
    """Write rankings in TREC's format, as a whole or not at all.

    A document without a score, because it has no text or was refused, gets the score of the
    document before it minus 1.

    Args:
        path: The file.
        tag: The last column, which names the run.
        rankings: Query ids, and the documents of each, best first.
        overwrite: Whether to replace a file that exists. One with the same content is kept anyway.

    Raises:
        InvalidInputError: The file exists.
        OSError: The file can't be written.
    """
    temporary = path.with_name(f"{path.name}.{token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.writelines(_trec_lines(tag, rankings))
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _rename_to_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file without replacing another, which may have appeared in the meantime."""
    try:
        os.link(temporary, path)
    except OSError as error:  # also where the file system has no hard links
        if not os.path.lexists(path):
            temporary.replace(path)
        elif not path.is_file() or not filecmp.cmp(temporary, path, shallow=False):
            raise already_exists(path) from error


def check_can_write(path: Path, inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Raise InvalidInputError if the result can't be a file, exists, or would replace an input."""
    if not path.name or path.is_dir() or (path.exists() and not path.is_file()):
        raise InvalidInputError(
            f"{str(path)!r} can't be the result: it is not a file.", remedy="Choose another file."
        )
    if not path.parent.is_dir():
        raise InvalidInputError(f"There is no folder {path.parent}.", remedy="Create it.")
    for file in inputs:
        if file.resolve() == path.resolve():
            raise would_replace_input(file)
    if os.path.lexists(path) and not overwrite:
        raise already_exists(path)


def would_replace_input(file: Path) -> InvalidInputError:
    """Return the error for an input in the place of a result."""
    return InvalidInputError(
        f"{file} is an input and would be overwritten.",
        remedy="Choose another file for the result.",
    )


def already_exists(path: Path) -> InvalidInputError:
    """Return the error for a result that exists and must not be replaced."""
    return InvalidInputError(
        f"{path} already exists.", remedy="Pass overwrite=True, or another file."
    )


def _trec_lines(tag: str, rankings: Iterable[tuple[str, ScoredIds]]) -> Iterator[str]:
    for query_id, ranking in rankings:
        for rank, (document_id, score) in enumerate(_with_scores(ranking), start=1):
            yield f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n"


def _with_scores(ranking: ScoredIds) -> Iterator[tuple[str, float]]:
    previous = 0.0
    for document_id, score in ranking:
        previous = previous - 1 if score is None else score
        yield document_id, previous

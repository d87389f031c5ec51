"""Texts that are longer than a model reads: their end is cut off with a warning, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeAlias

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import Item

__all__ = ["check_truncation", "name_of", "naming_documents"]

_log = logging.getLogger(__name__)

_MOST_NAMED = 10

DocumentName: TypeAlias = Callable[[Item], str | None]
"""Returns the name of the document with this text or Content; None if there is none."""

_document_name: ContextVar[DocumentName] = ContextVar("document_name", default=lambda item: None)


@contextmanager
def naming_documents(document_name: DocumentName) -> Iterator[None]:
    """Let the scorers that are called in this block name documents in their messages.

    Scorers know texts, not documents, and wrappers pass on other texts than they get.
    """
    token = _document_name.set(document_name)
    try:
        yield
    finally:
        _document_name.reset(token)


def name_of(item: Item, index: int) -> str:
    """Return the name of the document with this text, if it is known, else of the text."""
    return _document_name.get()(item) or f"text {index}"


def check_truncation(
    truncate: bool, reason: str, names: Iterable[str], count: int, *, has_query: bool = False
) -> None:
    """Log that texts are truncated, or raise if they may not be.

    Args:
        truncate: Whether texts may be truncated.
        reason: How many texts exceed which limit.
        names: The names of the texts, of which the first ten are shown.
        count: The number of these texts.
        has_query: Whether the query is one of them.

    Raises:
        InvalidInputError: `truncate` is false.
    """
    named = list(islice(names, _MOST_NAMED))
    others = f" and {count - len(named)} more" if count > len(named) else ""
    message = f"{reason}: {', '.join(named)}{others}."
    advice = []
    if has_query:
        advice.append("shorten the query")
    if count > has_query:  # a query has no passages
        advice.append("wrap the scorer in a PassageScorer to score long texts in passages")
    if not truncate:
        raise InvalidInputError(
            message,
            remedy="Pass truncate=True to score only the beginning of each, or "
            f"{' and '.join(advice)}.",
        )
    _log.warning("%s They were truncated. To avoid that, %s.", message, " and ".join(advice))

"""The methods that users call, and everything that users get to see of a call."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import langchain_core.load
import pytest
from llama_index.core.schema import BaseComponent
from pydantic import BaseModel, ValidationError

from qwen_rerank import QwenRerankError
from tests.contract.faces import Face, Item

__all__ = ["ITEMS", "KEY", "QUERY", "SECRET", "TEXT", "EntryPoint", "Log", "check_nothing_leaked"]

SECRET = "0123-distinctive"
"""Part of every key. No user may ever see it."""

KEY = f"sk-{SECRET}"

TEXT = "confidential"
"""Part of every query and document. No log may ever contain it."""

QUERY = f"{TEXT} question"
ITEMS = (
    Item("low", {"text": f"{TEXT} score=0.2"}),
    Item("high", {"text": f"{TEXT} score=0.9"}),
    Item("middle", {"text": f"{TEXT} score=0.5"}),
)

Rank = Callable[[Sequence[Item]], list[Item]]


@dataclass
class EntryPoint:
    """The sync or the async method of a face that is built with these options.

    Only errors of ours may escape, and pydantic's from the constructor. Any other error fails the
    test, and so does a changed input.

    Attributes:
        seen: Everything a user gets to see that could contain a key.
    """

    face: Callable[..., Any]
    is_async: bool
    options: dict[str, Any]
    seen: list[str] = field(default_factory=list)

    def rank(self, items: Sequence[Item] = ITEMS, query: Any = QUERY, **options: Any) -> list[Item]:
        """Build the face and rank once. These options override the entry point's own."""
        return self.open(query, **options)(items)

    def open(self, query: Any = QUERY, **options: Any) -> Rank:
        """Build the face; the result ranks items with it."""
        with self._catching(QwenRerankError, ValidationError):
            face = self.face(query, **self.options | options)
        self.seen += _representations(face.component)
        return partial(self._rank, face)

    def _rank(self, face: Face, items: Sequence[Item]) -> list[Item]:
        made = [face.make(item) for item in items]
        before = repr(made)
        try:
            with self._catching(QwenRerankError):
                ranked = asyncio.run(face.arank(made)) if self.is_async else face.rank(made)
        finally:
            assert repr(made) == before, "the input was changed"
        return [face.read(thing) for thing in ranked]

    @contextmanager
    def _catching(self, *allowed: type[Exception]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.seen += _representations_of_error(error)
            if not isinstance(error, allowed):
                pytest.fail(f"a raw {type(error).__name__}")
            raise

    def __str__(self) -> str:
        return "async" if self.is_async else "sync"


def _representations(component: Any) -> Iterator[str]:
    """The component in every form in which users print or store it."""
    yield from (repr(component), str(component))
    yield pickle.dumps(component).decode("latin-1")
    yield langchain_core.load.dumps(component)
    if isinstance(component, BaseModel):
        yield from (repr(component.model_dump()), component.model_dump_json())
    if isinstance(component, BaseComponent):
        yield from (repr(component.to_dict()), component.to_json())


def _representations_of_error(error: BaseException) -> Iterator[str]:
    """The traceback, and each error in the chain with its attributes."""
    yield "".join(traceback.format_exception(error))
    for each in _chain(error):
        yield f"{each!r} {each} {vars(each)}"


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    for each in chain:  # which grows
        others = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        chain += [other for other in others if other is not None and other not in chain]
    return chain


class Log(logging.Handler):
    """Keeps every record as text, with everything that is attached to it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{self.format(record)} {vars(record)}")


def check_nothing_leaked(seen: Sequence[str], log: Log) -> None:
    """Check that a user saw no key, and that the log has no key and no text."""
    assert not [text for text in (*seen, *log.texts) if SECRET in text], "a key leaked"
    assert not [text for text in log.texts if TEXT in text], "a text was logged"

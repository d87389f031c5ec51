"""The six doors to a service: the users' faces, called and awaited, and all they show a user."""

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
from tests.contract.faces import Face, Item, LangChain, LlamaIndex, Reranker

__all__ = ["DOORS", "ITEMS", "KEY", "QUERY", "SECRET", "TEXT", "Door", "Log"]

SECRET = "0123-distinctive"
"""What no user may ever see: it is in every key."""

KEY = f"sk-{SECRET}"

TEXT = "confidential"
"""What no log may ever hold: it is in every query and document."""

QUERY = f"{TEXT} question"
ITEMS = (
    Item("low", {"text": f"{TEXT} score=0.2"}),
    Item("high", {"text": f"{TEXT} score=0.9"}),
    Item("middle", {"text": f"{TEXT} score=0.5"}),
)

DOORS: dict[str, tuple[type[Face], bool]] = {
    "QwenReRanker.rerank": (Reranker, False),
    "QwenReRanker.arerank": (Reranker, True),
    "LangChain.compress_documents": (LangChain, False),
    "LangChain.acompress_documents": (LangChain, True),
    "LlamaIndex.postprocess_nodes": (LlamaIndex, False),
    "LlamaIndex.apostprocess_nodes": (LlamaIndex, True),
}
"""A face each, and whether it is awaited."""

Rank = Callable[[Sequence[Item]], list[Item]]


@dataclass
class Door:
    """A face with its options, called or awaited; keeps all it shows in which a key could stand.

    It raises errors of ours, or at construction pydantic's. Anything else fails the test, and so
    does a changed input.
    """

    face: Callable[..., Any]
    awaited: bool
    options: dict[str, Any]
    shown: list[str] = field(default_factory=list)

    def rank(self, items: Sequence[Item] = ITEMS, query: Any = QUERY, **options: Any) -> list[Item]:
        """Open the door and rank once."""
        return self.open(query, **options)(items)

    def open(self, query: Any = QUERY, **options: Any) -> Rank:
        """Make what ranks, with these options over the door's own."""
        with self._raising(QwenRerankError, ValidationError):
            face = self.face(query, **self.options | options)
        self.shown += _shown_by(face.component)
        return partial(self._rank, face)

    def _rank(self, face: Face, items: Sequence[Item]) -> list[Item]:
        made = [face.make(item) for item in items]
        before = repr(made)
        try:
            with self._raising(QwenRerankError):
                ranked = asyncio.run(face.arank(made)) if self.awaited else face.rank(made)
        finally:
            assert repr(made) == before, "the input was changed"
        return [face.read(thing) for thing in ranked]

    @contextmanager
    def _raising(self, *kinds: type[Exception]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.shown += _shown_by_error(error)
            if not isinstance(error, kinds):
                pytest.fail(f"a raw {type(error).__name__}")
            raise


def _shown_by(component: Any) -> Iterator[str]:
    """The component in every way that its users have to write it down."""
    yield from (repr(component), str(component))
    yield pickle.dumps(component).decode("latin-1")
    yield langchain_core.load.dumps(component)
    if isinstance(component, BaseModel):
        yield from (repr(component.model_dump()), component.model_dump_json())
    if isinstance(component, BaseComponent):
        yield from (repr(component.to_dict()), component.to_json())


def _shown_by_error(error: BaseException) -> Iterator[str]:
    """Its traceback, and each error behind it with all that it holds."""
    yield "".join(traceback.format_exception(error))
    for each in _chain(error):
        yield f"{each!r} {each} {vars(each)}"


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    for each in found:  # which grows
        others = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        found += [other for other in others if other is not None and other not in found]
    return found


class Log(logging.Handler):
    """Keeps every record as text, with all that is attached to it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{self.format(record)} {vars(record)}")

"""Rows of the fault tables: what goes wrong, and what the user sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import pytest

from qwen_rerank.testing.fake import score_of
from qwen_rerank.testing.loopback import Fault, Loopback
from tests.contract.entry_points import ITEMS, QUERY, EntryPoint
from tests.contract.faces import USER_FACES, Item, LangChain, Plain, Retriever
from tests.contract.services import Service

__all__ = [
    "Row",
    "at_every_constructor",
    "at_every_face",
    "at_one_face",
    "at_the_scorer",
    "each_row",
    "play",
]

at_the_scorer = pytest.mark.parametrize("entry_points", [Plain], ids=["scorer"], indirect=True)

at_one_face = pytest.mark.parametrize("entry_points", [LangChain], ids=["face"], indirect=True)
"""For what the engine does, which all faces share."""

at_every_face = pytest.mark.parametrize(
    "entry_points", [*USER_FACES, Retriever], ids=lambda face: face.__name__, indirect=True
)

at_every_constructor = pytest.mark.parametrize(
    "entry_points", USER_FACES, ids=lambda face: face.__name__, indirect=True
)


@dataclass(frozen=True)
class Row:
    """One way in which the input, the options, the service or the network goes wrong.

    Attributes:
        name: The row in the names of tests.
        items: What the caller passes.
        query: What the caller asks.
        options: The options that matter here.
        faults: What the service does instead of responding, one per request.
        requests: How many requests the service receives.
        ranked: The items that the caller gets back, all of them by default.
        transform: What becomes of the service's scores.
        raises: The error that the caller gets instead.
        naming: A pattern that the error's text matches.
    """

    name: str
    _: KW_ONLY
    items: Sequence[Item] = ITEMS
    query: Any = QUERY
    options: dict[str, Any] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    requests: int = 1
    ranked: Sequence[Item] | None = None
    transform: Callable[[float], float] = float
    raises: type[Exception] | tuple[type[Exception], ...] | None = None
    naming: str = ""

    @property
    def expected(self) -> list[Item]:
        """What the caller gets back: best first, each item with its score."""
        ranked = self.items if self.ranked is None else self.ranked
        return sorted(map(self._scored, ranked), key=lambda item: -(item.score or 0.0))

    def _scored(self, item: Item) -> Item:
        score = score_of(self.query, str(item.fields["text"]))
        return replace(item, score=self.transform(score))


Rows = Callable[[Service], Iterable[Row]]
"""The rows of a service."""


def each_row(rows: Rows, *services: Service) -> pytest.MarkDecorator:
    """Run the test with every row of each of these services."""
    params = [
        pytest.param(service, row, id=f"{service}-{row.name}")
        for service in services
        for row in rows(service)
    ]
    return pytest.mark.parametrize(("service", "row"), params, indirect=["service"])


def play(row: Row, entry_points: Sequence[EntryPoint], server: Loopback) -> None:
    """Call each entry point while the row goes wrong, and check what the row says."""
    for entry_point in entry_points:
        with _noting(entry_point):
            server.received.clear()
            server.faults.extend(row.faults)
            _call(row, entry_point)
            assert len(server.received) == row.requests
            assert not server.faults


def _call(row: Row, entry_point: EntryPoint) -> None:
    if row.raises is None:
        assert entry_point.rank(row.items, row.query, **row.options) == row.expected
    else:
        with pytest.raises(row.raises, match=row.naming):
            entry_point.rank(row.items, row.query, **row.options)


@contextmanager
def _noting(entry_point: EntryPoint) -> Iterator[None]:
    """Let a failure say which of several entry points it came from."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"This was the {entry_point} call.")
        raise

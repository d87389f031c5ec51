"""The fault matrix: what goes wrong, a row each, and what a user then sees through every door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import pytest

from tests.contract.doors import ITEMS, QUERY, Door
from tests.contract.faces import Item
from tests.contract.services import SERVICES, Service
from tests.support.loopback import Fault, Loopback, score_of

__all__ = ["Row", "each_of", "play"]


@dataclass(frozen=True)
class Row:
    """One way in which the input, the options, the service or the network goes wrong.

    Either the items in `ranked` come back, all of them by default, best first and each with its
    score. Or it `raises`, with a text in which `naming` is found.
    """

    name: str
    _: KW_ONLY
    items: Sequence[Item] = ITEMS
    query: Any = QUERY
    options: dict[str, Any] = field(default_factory=dict)
    faults: Sequence[Fault] = ()
    requests: int = 1  # that the service gets
    ranked: Sequence[Item] | None = None
    turned: Callable[[float], float] = float  # what becomes of the service's scores
    raises: type[Exception] | tuple[type[Exception], ...] | None = None
    naming: str = ""

    @property
    def answer(self) -> list[Item]:
        """What comes back."""
        ranked = self.items if self.ranked is None else self.ranked
        return sorted(map(self._scored, ranked), key=lambda item: -(item.score or 0.0))

    def _scored(self, item: Item) -> Item:
        score = score_of(self.query, str(item.fields["text"]))
        return replace(item, score=self.turned(score))


Rows = Callable[[Service], Iterable[Row]]
"""The rows that hold of a service."""


def each_of(rows: Rows, *services: Service) -> pytest.MarkDecorator:
    """Run the test with every row of each of the services, of all by default."""
    params = [
        pytest.param(service, row, id=f"{service}-{row.name}")
        for service in services or SERVICES
        for row in rows(service)
    ]
    return pytest.mark.parametrize(("service", "row"), params, indirect=["service"])


def play(row: Row, door: Door, server: Loopback) -> None:
    """Go through the door while the row goes wrong, and see what the row says."""
    server.faults.extend(row.faults)
    if row.raises is None:
        assert door.rank(row.items, row.query, **row.options) == row.answer
    else:
        with pytest.raises(row.raises, match=row.naming):
            door.rank(row.items, row.query, **row.options)
    assert len(server.received) == row.requests
    assert not server.faults

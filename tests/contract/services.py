"""The services behind the doors: a server on this machine each, and how users come to it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from qwen_rerank import ServerScorer
from tests.contract.doors import KEY
from tests.contract.faces import Face
from tests.support.loopback import Loopback, LoopbackDashScope
from tests.support.servers import SERVERS

__all__ = ["DASHSCOPE", "ONE_A_SCORER", "SERVICES", "TEI", "VLLM", "Service", "behind"]


@dataclass(frozen=True)
class Service(ABC):
    """What stands behind a door.

    Attributes:
        name: What it is called in the names of tests.
        server: It, on this machine.
        batch: How many documents go out in one request.
        results: The names under which an answer has its results; none where it is a bare list.
        refusal: The id of a request that was refused, if it gives one.
    """

    address: ClassVar[str]
    """The option that says where it is."""

    name: str
    server: type[Loopback]
    batch: int
    results: Sequence[str]
    refusal: str | None = None

    def __str__(self) -> str:
        return self.name

    def answer(self, results: Any) -> Any:
        """What it answers with these results."""
        for name in reversed(self.results):
            results = {name: results}
        return results

    def place(self, *steps: Any) -> str:
        """How an error names a place in the results, as a pattern."""
        return r"\.".join([*self.results, *map(str, steps)])

    @abstractmethod
    def options(self, server: Loopback) -> dict[str, Any]:
        """What leads to the running server, with the key."""

    @abstractmethod
    def made_of(self, face: type[Face]) -> Callable[..., Face]:
        """What makes the face, given a query, the options above and any of the face's own."""


class _DashScope(Service):
    """The one that every face comes to by its own options."""

    address = "base_url"

    def options(self, server: Loopback) -> dict[str, Any]:
        return {"base_url": f"{server.root}/api/v1", "api_key": KEY}

    def made_of(self, face: type[Face]) -> Callable[..., Face]:
        return face


class _SelfHosted(Service):
    """One that a ServerScorer comes to, which takes those of the options that it knows."""

    address = "url"

    def options(self, server: Loopback) -> dict[str, Any]:
        return {"url": server.root, "dialect": self.name, "api_key": KEY}

    def made_of(self, face: type[Face]) -> Callable[..., Face]:
        def make(query: Any, **options: Any) -> Face:
            known = inspect.signature(ServerScorer).parameters.keys() & options.keys()
            scorer = ServerScorer(**{name: options.pop(name) for name in known})
            return face(query, scorer=scorer, **options)

        return make


DASHSCOPE = _DashScope(
    "dashscope", LoopbackDashScope, 500, ["output", "results"], "loopback-refusal"
)
VLLM = _SelfHosted("vllm", SERVERS["vllm"], 128, ["results"])
TEI = _SelfHosted("tei", SERVERS["tei"], 32, [])
"""Unlike any other in what it takes, and in that its answers are bare lists."""

SERVICES = (DASHSCOPE, VLLM, TEI)
ONE_A_SCORER = (DASHSCOPE, VLLM)
"""For what takes its time, and is the same whatever a request and its answer look like."""


def behind(*services: Service) -> pytest.MarkDecorator:
    """Run the test with each of these services behind the door; without this it is with all."""
    return pytest.mark.parametrize("service", services, ids=str, indirect=True)

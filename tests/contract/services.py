"""The services that scorers talk to: for each a server on this machine, and how to reach it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from qwen_rerank import DashScopeScorer, Scorer, ServerScorer
from qwen_rerank.testing.loopback import Loopback, LoopbackDashScope
from tests.contract.entry_points import KEY
from tests.contract.faces import Face, Plain
from tests.support.servers import SERVERS

__all__ = ["DASHSCOPE", "TEI", "VLLM", "Service", "with_service"]


@dataclass(frozen=True)
class Service(ABC):
    """A service, and the scorer for it.

    Attributes:
        name: The service in the names of tests.
        server: A server that stands in for it.
        batch: How many documents go out in one request.
        results: The keys that lead to the results in a response; none where it is a bare list.
        request_id: The id in its error responses, if it has one.
    """

    scorer: ClassVar[type[Scorer]]
    address: ClassVar[str]
    """The scorer's option for the address."""

    name: str
    server: type[Loopback]
    batch: int
    results: Sequence[str]
    request_id: str | None = None

    def __str__(self) -> str:
        return self.name

    def response(self, results: Any) -> Any:
        """A response with these results."""
        for key in reversed(self.results):
            results = {key: results}
        return results

    def path(self, *steps: Any) -> str:
        """How an error names a part of the results, as a pattern."""
        return r"\.".join([*self.results, *map(str, steps)])

    @abstractmethod
    def options(self, server: Loopback) -> dict[str, Any]:
        """The options that lead to the running server, with the key."""

    def builder(self, face: type[Face]) -> Callable[..., Face]:
        """A function that builds the face from a query and the options of the scorer."""
        return lambda query, **options: face(query, scorer=self.scorer(**options))


class _DashScope(Service):
    """The service that users' faces reach with their own options."""

    scorer = DashScopeScorer
    address = "base_url"

    def options(self, server: Loopback) -> dict[str, Any]:
        return {"base_url": f"{server.root}/api/v1", "api_key": KEY}

    def builder(self, face: type[Face]) -> Callable[..., Face]:
        return super().builder(face) if face is Plain else face


class _SelfHosted(Service):
    """A server that a ServerScorer talks to."""

    scorer = ServerScorer
    address = "url"

    def options(self, server: Loopback) -> dict[str, Any]:
        return {"url": server.root, "dialect": self.name, "api_key": KEY}


DASHSCOPE = _DashScope(
    "dashscope", LoopbackDashScope, 500, ["output", "results"], "loopback-refusal"
)
VLLM = _SelfHosted("vllm", SERVERS["vllm"], 128, ["results"])
TEI = _SelfHosted("tei", SERVERS["tei"], 32, [])
"""Unlike any other: its requests have other names, and its responses are bare lists."""


def with_service(*services: Service) -> pytest.MarkDecorator:
    """Run the test with each of these services; the default is DashScope."""
    return pytest.mark.parametrize("service", services, ids=str, indirect=True)

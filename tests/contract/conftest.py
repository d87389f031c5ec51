"""Every scorer of the library, and every entry point to the services."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import pytest

from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    LocalScorer,
    Scorer,
    Scores,
    ServerScorer,
)
from qwen_rerank.testing import FakeScorer
from qwen_rerank.testing.loopback import Loopback
from tests.contract.entry_points import KEY, EntryPoint, Log, check_nothing_leaked
from tests.contract.faces import Face, Plain
from tests.contract.services import DASHSCOPE, Service
from tests.scorers.local import WHY_SKIPPED
from tests.support.pages import ROOT, module_of
from tests.support.servers import VLLM
from tests.support.wrapped import NESTED, WRAPS, Pointwise, nested

NgramScorer: type[Scorer] = module_of(ROOT / "docs" / "adding-a-scorer.md", "ngrams").NgramScorer


def embedded() -> Scorer:
    """An EmbeddedScorer whose scores don't depend on the order, which the faces' lists change."""
    return EmbeddedScorer(prior=None)


def all_wrappers() -> Scorer:
    """All wrappers around a DashScopeScorer."""
    return nested(NESTED[-1], DashScopeScorer())


KNOWING: list[Callable[..., Scorer]] = [
    DashScopeScorer,
    embedded,
    ServerScorer,
    NgramScorer,
    FakeScorer,
    all_wrappers,
]
"""The scorers that know what is relevant; LocalScorer has random weights here."""


def _wrapped(name: str) -> Scorer:
    return nested([name], Pointwise())


_WRAPPERS = [pytest.param(partial(_wrapped, name), id=name) for name in WRAPS]
"""Each wrapper alone; pairs and their orders are in tests/scorers/wrappers/test_nesting.py."""

_LOCAL = pytest.param(
    LocalScorer, marks=pytest.mark.skipif(find_spec("torch") is None, reason=WHY_SKIPPED)
)


@dataclass
class Watched(Scorer):
    """Passes everything on to another scorer, and keeps the texts."""

    scorer: Scorer
    sent: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        return self.scorer.model

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent += texts
        return self.scorer.score(query, texts)

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent += texts
        return await self.scorer.ascore(query, texts)


@pytest.fixture
def _vllm() -> Iterator[VLLM]:
    with VLLM() as server:
        yield server


@pytest.fixture(scope="session")
def _tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.support import tiny_qwen

    return str(tiny_qwen.save(tmp_path_factory.mktemp("tiny-qwen")))


WITHOUT_MEANING = [_LOCAL, *_WRAPPERS]
"""The scorers whose order means nothing."""


def make_scorer(request: pytest.FixtureRequest) -> Scorer:
    """A new scorer of the class that is the fixture's parameter."""
    if request.param in (DashScopeScorer, all_wrappers):
        request.getfixturevalue("dashscope")
    if request.param is ServerScorer:
        return ServerScorer(request.getfixturevalue("_vllm").root, dialect="vllm")
    if request.param is LocalScorer:
        return LocalScorer(request.getfixturevalue("_tiny_qwen"))
    scorer: Scorer = request.param()
    return scorer


@pytest.fixture(params=KNOWING)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    """A new scorer of each class that knows what is relevant."""
    return make_scorer(request)


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    """The service that the scorer talks to: DashScope, unless the test names others."""
    chosen: Service = getattr(request, "param", DASHSCOPE)
    return chosen


@pytest.fixture
def server(service: Service) -> Iterator[Loopback]:
    """The running service, of which the environment says nothing."""
    with service.server(key=KEY) as running:
        yield running


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Log:
    """All records of all loggers, from DEBUG on."""
    handler = Log()
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, handler])
    caplog.set_level(logging.DEBUG)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (logger.level or not logger.propagate):
            caplog.set_level(logging.DEBUG, name)
            monkeypatch.setattr(logger, "propagate", True)
    return handler


@pytest.fixture
def make_entry_point(
    service: Service, server: Loopback, log: Log
) -> Iterator[Callable[[type[Face], bool], EntryPoint]]:
    """Entry points to the service. Whatever happens, no key leaks and no text is logged."""
    options = {**service.options(server), "timeout": 20, "max_retries": 1, "backoff": 0}
    made: list[EntryPoint] = []

    def make(face: type[Face], is_async: bool) -> EntryPoint:
        made.append(EntryPoint(service.builder(face), is_async, options))
        return made[-1]

    yield make
    check_nothing_leaked([text for entry_point in made for text in entry_point.seen], log)


@pytest.fixture
def entry_points(
    request: pytest.FixtureRequest, make_entry_point: Callable[[type[Face], bool], EntryPoint]
) -> list[EntryPoint]:
    """The sync and the async method of a face: see `at_the_scorer` and `at_every_face`."""
    return [make_entry_point(request.param, is_async) for is_async in (False, True)]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def entry_point(
    request: pytest.FixtureRequest, make_entry_point: Callable[[type[Face], bool], EntryPoint]
) -> EntryPoint:
    """The scorer's sync method and its async one, each by itself."""
    return make_entry_point(Plain, request.param)

"""Every scorer, each with what it is asked to score; and the six doors to every service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

import pytest
from tenacity import wait_none

from qwen_rerank import (
    DashScopeScorer,
    EmbeddedScorer,
    LocalScorer,
    Scorer,
    Scores,
    ServerScorer,
)
from tests.contract.doors import DOORS, KEY, SECRET, TEXT, Door, Log
from tests.contract.services import SERVICES, Service
from tests.scorers.local import WHY_SKIPPED
from tests.support.loopback import Loopback
from tests.support.pages import ROOT, module_of
from tests.support.servers import VLLM
from tests.support.wrapped import NESTED, Pointwise, nested

NgramScorer: type[Scorer] = module_of(ROOT / "docs" / "adding-a-scorer.md", "ngrams").NgramScorer


def whole() -> Scorer:
    """All wrappers around a DashScopeScorer."""
    return nested(NESTED[-1], DashScopeScorer())


KNOWING: list[Callable[..., Scorer]] = [
    DashScopeScorer,
    EmbeddedScorer,
    ServerScorer,
    NgramScorer,
    whole,
]
"""Those that tell what is relevant; LocalScorer has random weights here."""


def _wrapped(names: Sequence[str]) -> Scorer:
    return nested(names, Pointwise())


_WRAPPED = [
    pytest.param(partial(_wrapped, names), id=" of ".join(names))
    for names in NESTED
    if len(names) <= 2 or names is NESTED[-1]
]
"""Each wrapper alone, every pair, and all together; other orders: tests/scorers/wrappers."""

_LOCAL = pytest.param(
    LocalScorer, marks=pytest.mark.skipif(find_spec("torch") is None, reason=WHY_SKIPPED)
)


@dataclass
class Watched(Scorer):
    """A scorer whose work is another's, and which keeps the texts that it was given."""

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


@pytest.fixture(params=[*KNOWING, _LOCAL, *_WRAPPED])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return made(request)


def made(request: pytest.FixtureRequest) -> Scorer:
    """A new scorer of the class, or by the function, that the request is for."""
    if request.param in (DashScopeScorer, whole):
        request.getfixturevalue("dashscope")
    if request.param is ServerScorer:
        return ServerScorer(request.getfixturevalue("_vllm").root, dialect="vllm")
    if request.param is LocalScorer:
        return LocalScorer(request.getfixturevalue("_tiny_qwen"))
    scorer: Scorer = request.param()
    return scorer


@pytest.fixture
def watched(scorer: Scorer) -> Watched:
    return Watched(scorer)


@pytest.fixture(params=SERVICES, ids=str)
def service(request: pytest.FixtureRequest) -> Service:
    """What is behind the door."""
    chosen: Service = request.param
    return chosen


@pytest.fixture
def server(service: Service) -> Iterator[Loopback]:
    """The service on this machine, of which the environment says nothing."""
    with service.server(key=KEY) as running:
        yield running


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Log:
    """All records of all loggers, from DEBUG on."""
    kept = Log()
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, kept])
    caplog.set_level(logging.DEBUG)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and (logger.level or not logger.propagate):
            caplog.set_level(logging.DEBUG, name)
            monkeypatch.setattr(logger, "propagate", True)
    return kept


@pytest.fixture(params=DOORS.values(), ids=list(DOORS))
def door(
    request: pytest.FixtureRequest,
    service: Service,
    server: Loopback,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Door]:
    """Each door to the service. Whatever happens, no key shows and no text is logged."""
    monkeypatch.setattr("qwen_rerank.scorers.http.retry._backoff", wait_none())
    face, awaited = request.param
    retry_policy = {"timeout": 20, "max_retries": 1}
    door = Door(service.made_of(face), awaited, {**service.options(server), **retry_policy})
    yield door
    assert not [text for text in (*door.shown, *log.texts) if SECRET in text], "a key shows"
    assert not [text for text in log.texts if TEXT in text], "a text is logged"

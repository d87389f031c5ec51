"""Entry points notice what they are there to notice: leaked keys, raw errors, a changed input."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from qwen_rerank import Record, ServiceError
from tests.contract.entry_points import KEY, SECRET, EntryPoint, Log
from tests.contract.faces import Reranker


class ShowsItsKey:
    """Has the key in its repr."""

    def __repr__(self) -> str:
        return KEY


class HoldsAKey:
    """Has the key where only pickle finds it."""

    def __init__(self) -> None:
        self.key = KEY


@pytest.mark.parametrize("component", [ShowsItsKey(), HoldsAKey()], ids=["repr", "pickle"])
def test_a_key_that_a_component_shows_is_seen(component: Any) -> None:
    @dataclass
    class Face:
        query: Any
        component: Any

    entry_point = EntryPoint(Face, False, {"component": component})
    entry_point.open()
    assert SECRET in "".join(entry_point.seen)


def raising(error: Exception) -> EntryPoint:
    def face(query: Any) -> Any:
        raise error

    return EntryPoint(face, False, {})


def _with(**attributes: Any) -> ServiceError:
    error = ServiceError("The service is down.")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ServiceError(KEY), id="message"),
        pytest.param(_with(request_headers={"Authorization": KEY}), id="attribute"),
        pytest.param(_with(__notes__=[KEY]), id="note"),
        pytest.param(_with(__cause__=OSError(KEY)), id="cause"),
        pytest.param(_with(__context__=OSError(KEY), __suppress_context__=True), id="context"),
        pytest.param(_with(__context__=ExceptionGroup("", [OSError(KEY)])), id="group"),
    ],
)
def test_a_key_that_an_error_shows_is_seen(error: ServiceError) -> None:
    entry_point = raising(error)
    with pytest.raises(ServiceError):
        entry_point.open()
    assert SECRET in "".join(entry_point.seen)


def test_a_raw_error_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match="a raw KeyError"):
        raising(KeyError("results")).open()


@pytest.mark.usefixtures("dashscope")
def test_a_changed_input_fails_the_test() -> None:
    class Changing(Reranker):
        def rank(self, made: list[Record]) -> list[Record]:
            made.pop()
            return made

    entry_point = EntryPoint(Changing, False, {})
    with pytest.raises(AssertionError, match="the input was changed"):
        entry_point.rank()


@pytest.mark.parametrize(
    "write",
    [
        lambda logger: logger.debug("key %s", KEY),
        lambda logger: logger.info("sent", extra={"headers": {"Authorization": KEY}}),
        lambda logger: logger.error("failed", exc_info=OSError(KEY)),
    ],
    ids=["message", "extra", "traceback"],
)
def test_a_key_that_is_logged_is_seen(log: Log, write: Callable[[logging.Logger], None]) -> None:
    for name in ("dashscope", "dashscope.finetune.reinforcement", "new"):
        log.texts.clear()
        write(logging.getLogger(name))
        assert SECRET in "".join(log.texts), name

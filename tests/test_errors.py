"""The error tree: what can be caught as what, and what an error says."""

from __future__ import annotations

import pickle

import pytest

import qwen_rerank
from qwen_rerank import (
    AuthenticationError,
    InvalidInputError,
    MissingDependencyError,
    MissingKeyError,
    QwenRerankError,
    RateLimitError,
)
from qwen_rerank import errors as module

ALL = [getattr(module, name) for name in module.__all__]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_public_drawn_in_the_tree_and_caught_as_the_root(kind: type) -> None:
    assert getattr(qwen_rerank, kind.__name__) is kind
    assert kind.__name__ in (module.__doc__ or "")
    assert issubclass(kind, QwenRerankError)


def test_errors_can_be_caught_as_the_built_in_ones_they_are() -> None:
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(MissingDependencyError, ImportError)
    assert issubclass(MissingKeyError, AuthenticationError)
    assert issubclass(MissingKeyError, ValueError)


def test_an_error_says_what_happened_what_the_service_said_and_what_to_do() -> None:
    error = RateLimitError(
        "Too many.", remedy="Wait.", code="Throttling", status=429, request_id="r-1"
    )
    assert str(error) == "Too many. [code=Throttling, status=429, request_id=r-1] Wait."
    assert str(QwenRerankError("Just this.")) == "Just this."


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling_whole(kind: type[QwenRerankError]) -> None:
    error = kind("What.", remedy="How.", code="C", status=7, request_id="r", retry_after=1.5)
    loaded = pickle.loads(pickle.dumps(error))
    assert type(loaded) is kind
    assert (str(loaded), loaded.retry_after) == (str(error), 1.5)

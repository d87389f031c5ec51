"""A small random Qwen3 reranker, and a way to act while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from qwen_rerank import LocalScorer

During = Callable[[LocalScorer, Callable[[int], None]], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a causal model like Qwen3-Reranker."""
    from tests.support import tiny_qwen

    return str(tiny_qwen.save(tmp_path_factory.mktemp("causal")))


@pytest.fixture(scope="session")
def shared(folder: str) -> LocalScorer:
    """A scorer in float32 on the CPU, whatever the machine has."""
    return LocalScorer(folder, device="cpu", dtype="float32")


@pytest.fixture
def scorer(folder: str) -> Iterator[LocalScorer]:
    """A scorer that computes each text by itself, and that a test may break."""
    with LocalScorer(folder, device="cpu", dtype="float32", batch_tokens=1) as scorer:
        yield scorer


@pytest.fixture
def during() -> During:
    """Calls a function with the number of tokens whenever the decoder computes some."""

    @contextmanager
    def during(scorer: LocalScorer, act: Callable[[int], None]) -> Iterator[None]:
        assert scorer._loaded is not None
        layer: Any = scorer._loaded.runner._decoder._network.layers[0]
        heads = layer.heads

        def acting(hidden: Any, rotary: Any) -> Any:
            act(len(hidden))
            return heads(hidden, rotary)

        layer.heads = acting
        try:
            yield
        finally:
            layer.heads = heads

    return during

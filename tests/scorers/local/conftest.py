"""A small random Qwen3 reranker, and a way to act in the middle of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from qwen_rerank import LocalScorer

During = Callable[[LocalScorer, Callable[[int], None]], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal model, as Qwen3-Reranker is."""
    from tests.support import tiny_qwen

    return str(tiny_qwen.save(tmp_path_factory.mktemp("causal")))


@pytest.fixture(scope="session")
def shared(folder: str) -> LocalScorer:
    """In float32 on the CPU, whatever there is."""
    return LocalScorer(folder, device="cpu", dtype="float32")


@pytest.fixture
def scorer(folder: str) -> Iterator[LocalScorer]:
    """One that computes each text by itself, and that a test may break."""
    with LocalScorer(folder, device="cpu", dtype="float32", batch_tokens=1) as scorer:
        yield scorer


@pytest.fixture
def during() -> During:
    """Calls a function with the number of tokens whenever they pass through the first layer."""

    @contextmanager
    def during(scorer: LocalScorer, act: Callable[[int], None]) -> Iterator[None]:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            act(len(args[0]))

        assert scorer._loaded is not None
        mlp = scorer._loaded.ranker._decoder._model.layers[0].mlp
        handle = mlp.register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    return during

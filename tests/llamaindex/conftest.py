"""The postprocessor's method, as itself and as its asynchronous twin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore

from llamaindex_qwen_rerank import QwenRerank


@pytest.fixture(params=["sync", "async"])
def postprocess(request: pytest.FixtureRequest) -> Callable[..., list[NodeWithScore]]:
    """postprocess_nodes, and apostprocess_nodes in a loop of its own."""

    def call(rerank: QwenRerank, nodes: list[NodeWithScore], **kwargs: Any) -> list[NodeWithScore]:
        if request.param == "sync":
            return rerank.postprocess_nodes(nodes, **kwargs)
        return asyncio.run(rerank.apostprocess_nodes(nodes, **kwargs))

    return call

"""PostprocessorTests: what holds for a LlamaIndex node postprocessor that reranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from qwen_rerank.testing.contract.rankers import Ranked, Ranker, RankerTests

__all__ = ["PostprocessorTests"]

_RETRIEVAL_SCORE = 0.5


class _Adapter:
    def __init__(self, postprocessor: BaseNodePostprocessor) -> None:
        self._postprocessor = postprocessor

    def make(self, id: str, text: str, extra: dict[str, Any]) -> NodeWithScore:
        node = TextNode(id_=id, text=text, metadata=extra, excluded_embed_metadata_keys=[*extra])
        node.excluded_llm_metadata_keys = [*extra]
        return NodeWithScore(node=node, score=_RETRIEVAL_SCORE)

    def rank(self, query: str, documents: list[NodeWithScore]) -> Sequence[NodeWithScore]:
        return self._postprocessor.postprocess_nodes(documents, query_str=query)

    async def arank(self, query: str, documents: list[NodeWithScore]) -> Sequence[NodeWithScore]:
        return await self._postprocessor.apostprocess_nodes(documents, query_str=query)

    def read(self, document: NodeWithScore) -> Ranked:
        node = document.node
        return Ranked(node.node_id, node.get_content(), node.metadata, document.score)


class PostprocessorTests(RankerTests):
    """Tests of a LlamaIndex postprocessor that reranks. Override the fixture `postprocessor`.

    Example:
        >>> class TestMyPostprocessor(PostprocessorTests):
        ...     @pytest.fixture
        ...     def postprocessor(self) -> BaseNodePostprocessor:
        ...         return MyPostprocessor()
    """

    @pytest.fixture
    def postprocessor(self) -> BaseNodePostprocessor:
        """A new postprocessor."""
        raise NotImplementedError("Override the fixture `postprocessor` and return one.")

    @pytest.fixture
    def ranker(self, postprocessor: BaseNodePostprocessor) -> Ranker:
        """The adapter for LlamaIndex."""
        return _Adapter(postprocessor)

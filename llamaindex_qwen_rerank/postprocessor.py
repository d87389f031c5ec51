"""QwenRerank: a node postprocessor that puts nodes in a Qwen reranker's order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from pydantic import model_validator

from qwen_rerank import Ranking, Record, RerankSettings
from qwen_rerank.checks import check_query
from qwen_rerank.engine import offloaded
from qwen_rerank.records import SourceFields, place_ids

__all__ = ["QwenRerank"]

RETRIEVAL_SCORE = "retrieval_score"
"""The metadata key under which `keep_retrieval_score` keeps the first stage's score."""

_dispatcher = get_dispatcher(__name__)


class QwenRerank(RerankSettings, BaseNodePostprocessor):
    """Puts nodes in the order of their relevance to the query, best first.

    The options are those of `RerankSettings`, and two more. `rerank_field` names metadata keys, or
    `"content"`, or is a function from `NodeWithScore` to text.

    Attributes:
        metadata_mode: Which metadata go into a node's content: by default those that the
            embedding model sees too.
        keep_retrieval_score: Whether the first stage's score is kept, in
            `metadata["retrieval_score"]`, out of the LLM's and the embedding model's sight.

    Example:
        >>> rerank = QwenRerank(model="qwen3-rerank", top_n=5)
        >>> engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[rerank])
    """

    metadata_mode: MetadataMode = MetadataMode.EMBED
    keep_retrieval_score: bool = False

    content_field: ClassVar[str] = "content"

    @model_validator(mode="before")
    @classmethod
    def _without_class_name(cls, data: Any) -> Any:
        # Every dump of LlamaIndex's has it.
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if key != "class_name"}
        return data

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serializes the component."""
        return "QwenRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._step(nodes, query) as step:
            step.finish(self.engine.rerank(query, self._records(nodes), self.top_n))
        return step.nodes

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._step(nodes, query) as step:
            records = await offloaded(len(nodes), self._records, nodes)
            step.finish(await self.engine.arerank(query, records, self.top_n))
        return step.nodes

    @contextmanager
    def _step(self, nodes: list[NodeWithScore], query: str) -> Iterator[_Step]:
        """Tell both of LlamaIndex's ways of watching when the step starts and ends, always."""
        step = _Step(self.keep_retrieval_score)
        model, top_n = self.engine.scorer.model, len(nodes) if self.top_n is None else self.top_n
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield step
                event.on_end(payload={EventPayload.NODES: step.nodes, **step.facts})
        finally:
            _dispatcher.event(ReRankEndEvent(nodes=step.nodes, tags=step.facts))

    def _records(self, nodes: list[NodeWithScore]) -> list[Record]:
        ids = place_ids(scored.node.node_id for scored in nodes)
        return [
            Record(id_, self._fields(scored), scored.score, source=scored)
            for id_, scored in zip(ids, nodes, strict=True)
        ]

    def _fields(self, scored: NodeWithScore) -> SourceFields:
        return SourceFields(scored.node.metadata, self.content_field, self._content, scored.node)

    def _content(self, node: BaseNode) -> str:
        return node.get_content(self.metadata_mode)


class _Step:
    """One reranking: its result, empty where it failed, and the facts to report."""

    def __init__(self, keep_retrieval_score: bool) -> None:
        self._keep = keep_retrieval_score
        self.nodes: list[NodeWithScore] = []
        self.facts: dict[str, Any] = {}

    def finish(self, ranking: Ranking) -> None:
        self.facts = ranking.facts
        self.nodes = [
            NodeWithScore(
                node=_with_retrieval_score(record.source) if self._keep else record.source.node,
                score=record.score,
            )
            for record in ranking
        ]


def _query(query_bundle: QueryBundle | None) -> str:
    query = "" if query_bundle is None else query_bundle.query_str
    if not isinstance(query, str):  # which the events would not take
        check_query(query)
    return query


def _with_retrieval_score(scored: NodeWithScore) -> BaseNode:
    """A copy of the node that holds the score; of the same id."""
    node = scored.node
    return node.model_copy(
        update={
            "metadata": {**node.metadata, RETRIEVAL_SCORE: scored.score},
            "excluded_llm_metadata_keys": _hiding(node.excluded_llm_metadata_keys),
            "excluded_embed_metadata_keys": _hiding(node.excluded_embed_metadata_keys),
        }
    )


def _hiding(excluded: list[str]) -> list[str]:
    return excluded if RETRIEVAL_SCORE in excluded else [*excluded, RETRIEVAL_SCORE]

"""QwenRerank: a node postprocessor that reranks nodes with a Qwen model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, Unpack, cast

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from pydantic import model_validator

from llamaindex_qwen_rerank.items import has_image, item_of_node, item_of_query
from qwen_rerank.copying import copy_with
from qwen_rerank.inputs.allowed_media import AllowedMedia
from qwen_rerank.inputs.content import text_of
from qwen_rerank.inputs.fields import FieldAccess
from qwen_rerank.options import CallArguments
from qwen_rerank.ranking.candidates import Candidates
from qwen_rerank.ranking.engine import MANY, offloaded
from qwen_rerank.ranking.result import RankedIndices
from qwen_rerank.settings import PluginSettings
from qwen_rerank.validation import finite_float, list_of

__all__ = ["QwenRerank"]

_dispatcher = get_dispatcher(__name__)


if TYPE_CHECKING:  # either can be passed; it is a MetadataMode from then on
    _MetadataMode: TypeAlias = MetadataMode | Literal["all", "embed", "llm", "none"]
else:
    _MetadataMode = MetadataMode


class QwenRerank(PluginSettings, BaseNodePostprocessor):
    """Reranks nodes by their relevance to the query, best first.

    The options are the ones in `PluginSettings`, and `metadata_mode`. In `rerank_field`,
    `"content"` is the node's content, every other name is a metadata key, and a function gets the
    `NodeWithScore`. The image or video of a node or a query is part of its content, and the model
    must accept it. Values that are kept in a node's metadata are hidden from the LLM and the
    embedding model.

    Attributes:
        metadata_mode: Which metadata is part of a node's content; by default the metadata that the
            embedding model sees.

    Example:
        >>> rerank = QwenRerank(model="qwen3-rerank", top_n=5)
        >>> engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[rerank])
    """

    metadata_mode: _MetadataMode = MetadataMode.EMBED

    content_field: ClassVar[str] = "content"

    @model_validator(mode="before")
    @classmethod
    def _without_class_name(cls, data: Any) -> Any:
        # LlamaIndex adds it to every dump.
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if key != "class_name"}
        return data

    @classmethod
    def class_name(cls) -> str:
        """The component's name in LlamaIndex's serialized form."""
        return "QwenRerank"

    def postprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,
        query_str: str | None = None,
        **options: Unpack[CallArguments],
    ) -> list[NodeWithScore]:
        """Rerank the nodes.

        Args:
            nodes: The retrieved nodes, which are not changed.
            query_bundle: What they should be relevant to.
            query_str: The same as text, instead of a bundle.
            options: `top_n` and `min_score` for this call, instead of the postprocessor's own.

        Returns:
            At most `top_n` copies, best first, each with its relevance score.

        Raises:
            QwenRerankError: See `RerankEngine.rerank`.
            ValueError: You pass the query twice.
        """
        return self._postprocess_nodes(nodes, _bundle(query_bundle, query_str), **options)

    async def apostprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,
        query_str: str | None = None,
        **options: Unpack[CallArguments],
    ) -> list[NodeWithScore]:
        """The same as `postprocess_nodes`, without blocking the event loop."""
        return await self._apostprocess_nodes(nodes, _bundle(query_bundle, query_str), **options)

    def _postprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,
        **options: Unpack[CallArguments],
    ) -> list[NodeWithScore]:
        engine, top_n = self._for_call(options)
        nodes = _nodes(nodes)
        self._warn_of_few(len(nodes), top_n, _MORE)
        query = item_of_query(query_bundle)
        with self._step(nodes, text_of(query), top_n) as step:
            ranking = engine.rank(query, self._candidates(nodes), top_n)
            step.facts, step.nodes = ranking.facts, self._ranked(nodes, ranking)
        return step.nodes

    @_dispatcher.span  # LlamaIndex does so for _postprocess_nodes alone, which is abstract
    async def _apostprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,
        **options: Unpack[CallArguments],
    ) -> list[NodeWithScore]:
        engine, top_n = self._for_call(options)
        nodes = _nodes(nodes)
        self._warn_of_few(len(nodes), top_n, _MORE)
        query = await offloaded(has_image(query_bundle), item_of_query, query_bundle)
        with self._step(nodes, text_of(query), top_n) as step:
            is_long = engine.takes_long(len(nodes))
            candidates = await offloaded(is_long, self._candidates, nodes)
            ranking = await engine.arank(query, candidates, top_n)
            is_long = len(ranking.indices) > MANY
            step.facts = ranking.facts
            step.nodes = await offloaded(is_long, self._ranked, nodes, ranking)
        return step.nodes

    @contextmanager
    def _step(self, nodes: list[NodeWithScore], query: str, top_n: int | None) -> Iterator[_Step]:
        """Report the step's start and end to LlamaIndex's callbacks and instrumentation."""
        step = _Step()
        model, top_n = self.engine.scorer.model, len(nodes) if top_n is None else top_n
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

    def _candidates(self, nodes: list[NodeWithScore]) -> Candidates:
        ids = [scored.node.node_id for scored in nodes]
        return Candidates(self.reader.read(nodes, ids), ids)

    def _field_access(self) -> FieldAccess[Any]:
        allowed = AllowedMedia.of(self.allowed_media)
        return FieldAccess(
            lambda name: (
                (
                    lambda scored: item_of_node(
                        scored.node, cast(MetadataMode, self.metadata_mode), allowed
                    )
                )
                if name == self.content_field
                else lambda scored: scored.node.metadata.get(name)
            ),
            lambda scored: (self.content_field, *scored.node.metadata),
            noun="node",
        )

    def _ranked(self, nodes: list[NodeWithScore], ranking: RankedIndices) -> list[NodeWithScore]:
        """The ranking's nodes with their scores; a node is copied if metadata is added to it."""
        chosen = list(map(nodes.__getitem__, ranking.indices))
        scores = ranking.scores_or(scored.score for scored in chosen)
        rows = zip(chosen, scores, self._kept(nodes, ranking), strict=True)
        return [
            copy_with(_plain(scored), {"node": _with_metadata(scored.node, kept), "score": score})
            for scored, score, kept in rows
        ]

    def _retrieval_score(self, document: NodeWithScore) -> float | None:
        return finite_float(document.score)


_MORE = "Let the first stage return more, with similarity_top_k=, whose default is 2."


def _bundle(query_bundle: QueryBundle | None, query_str: str | None) -> QueryBundle | None:
    """Return the query in the form that was passed; LlamaIndex accepts only one of them."""
    if query_str is None:
        return query_bundle
    if query_bundle is not None:
        raise ValueError("Cannot specify both query_str and query_bundle")
    return QueryBundle(query_str)


def _plain(scored: NodeWithScore) -> NodeWithScore:
    """Return the node with its score as LlamaIndex's own class, also for a subclass."""
    is_plain = type(scored) is NodeWithScore
    return scored if is_plain else NodeWithScore(node=scored.node, score=scored.score)


def _nodes(nodes: Iterable[NodeWithScore]) -> list[NodeWithScore]:
    remedy = "Wrap each node: NodeWithScore(node=node)."
    return list_of("nodes", nodes, NodeWithScore, remedy)


class _Step:
    """The result of one call, empty if it failed, and the facts to report."""

    def __init__(self) -> None:
        self.nodes: list[NodeWithScore] = []
        self.facts: dict[str, Any] = {}


def _with_metadata(node: BaseNode, added: Mapping[str, Any]) -> BaseNode:
    """The node, or a copy with this metadata added and hidden from models."""
    if not added:
        return node
    return node.model_copy(
        update={
            "metadata": {**node.metadata, **added},
            "excluded_llm_metadata_keys": _merged(node.excluded_llm_metadata_keys, added),
            "excluded_embed_metadata_keys": _merged(node.excluded_embed_metadata_keys, added),
        }
    )


def _merged(keys: list[str], others: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((*keys, *others)))

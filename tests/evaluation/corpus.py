"""A small corpus that the service ranks perfectly: each text names the score it gets."""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from llama_index.core.base.base_retriever import BaseRetriever as LlamaIndexBaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

QUERIES = {"q1": "What do penguins eat?", "q2": "Who steers a ship?"}

TEXTS = {"a": "score=0.1", "b": "score=0.2", "c": "score=0.9", "d": "score=0.5"}

RETRIEVED = {"q1": ["a", "b", "c"], "q2": ["d", "c"]}
"""What the first stage returns. The relevant document is third and second."""

JUDGEMENTS = {"q1": {"c": 1}, "q2": {"c": 1, "d": 0}}

RR_BEFORE = (1 / 3 + 1 / 2) / 2
"""The mean reciprocal rank of the first stage."""

BY_TEXT = {QUERIES[query_id]: ids for query_id, ids in RETRIEVED.items()}


class LangChainSearch(BaseRetriever):
    """A LangChain retriever. Documents are judged by their metadata key "doc"."""

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return [
            Document(id=f"passage {id_}", page_content=TEXTS[id_], metadata={"doc": id_})
            for id_ in BY_TEXT[query]
        ]


class LlamaIndexSearch(LlamaIndexBaseRetriever):
    """A LlamaIndex retriever."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=TextNode(id_=id_, text=TEXTS[id_]), score=1 / rank)
            for rank, id_ in enumerate(BY_TEXT[query_bundle.query_str], start=1)
        ]

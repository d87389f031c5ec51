"""The sample corpus, a help centre in English and Chinese, and embeddings to index it with.

The embeddings are averages of the word vectors in the wordllama package, so the examples run
without a key and without a network. Use your own embedding model in your application.
"""

from __future__ import annotations

import csv
import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Passage:
    """A passage of the help centre. `language` is `"en"` or `"zh"`."""

    id: str
    title: str
    text: str
    language: str


@dataclass(frozen=True)
class Query:
    """A question to the help centre. `language` is `"en"` or `"zh"`."""

    id: str
    text: str
    language: str


@dataclass(frozen=True)
class HelpCentre:
    """The corpus.

    Attributes:
        passages: The passages by id.
        queries: The queries by id.
        gains: For each query id, the gains of the passages that help, in either language: 3
            answers the query, 2 answers a part of it, 1 is related. All others have a gain of 0.
    """

    passages: dict[str, Passage]
    queries: dict[str, Query]
    gains: dict[str, dict[str, int]]


def load() -> HelpCentre:
    """Load the corpus from its files."""
    passages = [Passage(**entry) for entry in _json_lines("passages.jsonl")]
    queries = [Query(**entry) for entry in _json_lines("queries.jsonl")]
    gains: dict[str, dict[str, int]] = defaultdict(dict)
    with (DATA / "qrels.tsv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            gains[row["query_id"]][row["passage_id"]] = int(row["gain"])
    return HelpCentre(
        passages={passage.id: passage for passage in passages},
        queries={query.id: query for query in queries},
        gains=dict(gains),
    )


def _json_lines(name: str) -> Iterator[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


class LangChainVectors(Embeddings):
    """The word vectors as LangChain embeddings."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def embed_query(self, text: str) -> list[float]:
        return embed([text])[0]


class LlamaIndexVectors(BaseEmbedding):
    """The word vectors as LlamaIndex embeddings."""

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return embed(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def embed(texts: list[str]) -> list[list[float]]:
    """The average word vector of each text, with 256 dimensions."""
    vectors: list[list[float]] = word_vectors().embed(texts).tolist()
    return vectors


@cache
def word_vectors() -> Any:
    """The word vectors bundled with wordllama, loaded once per process."""
    logging.basicConfig(level=logging.WARNING)  # importing wordllama turns on INFO logs for all
    import wordllama

    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

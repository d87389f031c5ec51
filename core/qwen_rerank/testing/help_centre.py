"""A small collection to try things on: the help centre of a fictional maker of heat pumps.

83 passages and 24 queries in English and Chinese, with judgements. Written for this project, and
under the same license.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from qwen_rerank.text.word_vectors import offline_vectors

__all__ = ["HelpCentre", "HelpPassage", "HelpQuery", "average_word_vectors"]


@dataclass(frozen=True)
class HelpPassage:
    """A passage of the help centre. `language` is `"en"` or `"zh"`."""

    id: str
    title: str
    text: str
    language: str


@dataclass(frozen=True)
class HelpQuery:
    """A question to the help centre. `language` is `"en"` or `"zh"`."""

    id: str
    text: str
    language: str


@dataclass(frozen=True)
class HelpCentre:
    """The passages, the queries and what is relevant.

    Attributes:
        passages: The passages by id.
        queries: The queries by id.
        gains: For each query id, the gains of the passages that help, in either language: 3
            answers the query, 2 answers a part of it, 1 is related. All others have a gain of 0.
    """

    passages: dict[str, HelpPassage]
    queries: dict[str, HelpQuery]
    gains: dict[str, dict[str, int]]

    @classmethod
    def load(cls) -> HelpCentre:
        """Read the collection from the files in this package."""
        passages = [HelpPassage(**entry) for entry in _json_lines("passages.jsonl")]
        queries = [HelpQuery(**entry) for entry in _json_lines("queries.jsonl")]
        gains: dict[str, dict[str, int]] = defaultdict(dict)
        for row in csv.DictReader(_lines("qrels.tsv"), delimiter="\t"):
            gains[row["query_id"]][row["passage_id"]] = int(row["gain"])
        return cls(
            passages={passage.id: passage for passage in passages},
            queries={query.id: query for query in queries},
            gains=dict(gains),
        )


def average_word_vectors(texts: Sequence[str]) -> list[list[float]]:
    """Embed texts without a key or a network. Use your own embedding model in your application.

    Args:
        texts: The texts, at least one.

    Returns:
        The average word vector of each text, scaled to length 1; 256 numbers per text. Zeros if the
        text has no tokens. The vectors are those of the wordllama package.

    Raises:
        MissingDependencyError: The extra `embedded` is not installed.
    """
    vectors: list[list[float]] = offline_vectors().directions(texts).tolist()
    return vectors


def _json_lines(name: str) -> Iterator[dict[str, Any]]:
    return map(json.loads, _lines(name))


def _lines(name: str) -> list[str]:
    return (files(__package__) / "data" / name).read_text(encoding="utf-8").splitlines()

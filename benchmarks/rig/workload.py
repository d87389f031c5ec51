"""What every client sends, and what it must get back. Needs nothing but Python."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

__all__ = ["KEY", "PATH", "QUERY", "TOP_N", "best", "documents", "everything", "many", "score_of"]

KEY = "sk-benchmark"
PATH = "/api/v1/services/rerank/text-rerank/text-rerank"
QUERY = "How do I reset the password of my account?"
TOP_N = 10

_PASSAGES = Path(__file__).resolve().parents[2] / "examples" / "data" / "passages.jsonl"


def documents(count: int) -> Sequence[str]:
    """Up to 500 documents.

    They have 60 tokens each, or where there are more than 100, 40: with the query's share of 10,
    500 of those fit in one request, as the peers need it.
    """
    return _documents(500, words=31)[:count] if count > 100 else _documents(100, words=48)[:count]


def many() -> Sequence[str]:
    """5,000 documents: 314,000 tokens, the query's share included."""
    return _documents(5_000, words=42)


@cache
def _documents(count: int, words: int) -> Sequence[str]:
    """Different pieces of the example's English prose, of so many words, a third more or less."""
    prose, chance = _prose(), random.Random(words)
    found: dict[str, None] = {}
    while len(found) < count:
        length = words + chance.randint(-words // 3, words // 3)
        start = chance.randrange(len(prose) - length)
        found[" ".join(prose[start : start + length])] = None
    return tuple(found)


def _prose() -> list[str]:
    passages = map(json.loads, _PASSAGES.read_text(encoding="utf-8").splitlines())
    return " ".join(each["text"] for each in passages if each["language"] == "en").split()


def everything() -> Iterator[str]:
    """All texts that are sent."""
    yield QUERY
    yield from (*documents(100), *documents(500), *many())


def score_of(text: str) -> float:
    """The score that the service gives a document: by its text alone, so that all can check it."""
    return zlib.crc32(text.encode()) / 2**32


def best(texts: Sequence[str], top_n: int) -> list[str]:
    """The documents that a right answer holds, best first."""
    return sorted(texts, key=score_of, reverse=True)[:top_n]

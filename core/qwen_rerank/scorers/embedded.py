"""Ranking offline: wordllama's bundled word vectors, blended with a lexical score."""

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

# Anserini's defaults for BM25 over passages, which is what reaches a reranker. Lucene's, 1.2 and
# 0.75, gave a worse order in benchmarks/ranking.py.
_K1 = 0.9
_B = 0.4

# Added to the idf: candidates share the query's topic, which is why they are candidates, and the
# idf alone would give the very words of that topic next to no weight.
_BASE_WEIGHT = 1.0

# Scripts that put no spaces between words: ideographs, hiragana, katakana (without the middle dot).
_UNSPACED = (
    "\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W_{_UNSPACED}]+")


class EmbeddedScorer(Scorer):
    """Ranks with no key, no download and no network: a default to try things with.

    It is not a Qwen model and no substitute for one. It takes milliseconds on a CPU and improves
    somewhat on the order that BM25 gives (`benchmarks/ranking.py` measures how much); it knows a
    paraphrase only by the average of its words' vectors, and those know little beyond English.

        score = 0.3 · max(0, cosine) + 0.7 · lexical

    The cosine is that of the average word vectors (256 dimensions, from the `wordllama` package) of
    query and text, the first 20,000 characters of each; 0 where one of them has no tokens.
    The lexical part is BM25 as a share of what the query's terms could reach at most:

        lexical = Σ w(t) · tf / (tf + k1 · (1 - b + b · length / average length)) / Σ w(t)
        w(t) = 1 + idf(t), k1 = 0.9, b = 0.4

    over the distinct terms of the query. Chinese and Japanese are split in characters and pairs of
    characters, everything else in words, regardless of case and width and of English endings.

    Scores lie in [0, 1). Unlike those of other scorers they are not pointwise: idf and average
    length are those of the texts in the same call, so the score of a text depends on which others
    came along. Equal texts of one call have equal scores.

    Raises:
        MissingDependencyError: wordllama, the vectors it bundles, or PyStemmer is not installed.
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
        """False: see above."""
        return False

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query, and against each other's terms.

        Args:
            query: The query. One without a single word or known token gives every text 0.
            texts: The texts, of any length.

        Returns:
            One score in [0, 1) a text. The usage counts texts and seconds; nothing is billed.
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
    """The share of the attainable BM25 weight that each text reaches, in [0, 1)."""
    stem = _stemmer()
    wanted = dict.fromkeys(_terms(query, stem))
    documents = [list(_terms(text, stem)) for text in texts]
    found = [Counter(filter(wanted.__contains__, terms)) for terms in documents]
    weights = _weights(wanted, found)
    attainable = sum(weights.values()) or 1.0
    average = sum(map(len, documents)) / max(len(documents), 1) or 1.0
    return [
        _reached(counts, weights, len(terms) / average) / attainable
        for counts, terms in zip(found, documents, strict=True)
    ]


def _weights(wanted: Iterable[str], found: Sequence[Counter[str]]) -> dict[str, float]:
    """The weight of each term: 1 + its idf over the texts."""
    holding = Counter(term for counts in found for term in counts)

    def idf(n: int) -> float:
        return math.log1p((len(found) - n + 0.5) / (n + 0.5))

    return {term: _BASE_WEIGHT + idf(holding[term]) for term in wanted}


def _reached(counts: Counter[str], weights: dict[str, float], relative_length: float) -> float:
    """The sum of the terms' weights, each approached as the term is repeated."""
    half = _K1 * (1 - _B + _B * relative_length)
    return sum(weights[term] * tf / (tf + half) for term, tf in counts.items())


def _terms(text: str, stem: Callable[[str], str]) -> Iterator[str]:
    """The stems of a text; where the script has no spaces, its characters and pairs of them."""
    for match in _RUN.finditer(normalize("NFKC", text).casefold()):
        run = match.group()
        if match["unspaced"] is None:
            yield stem(run)
        else:
            yield from run
            yield from map("".join, pairwise(run))


def _stemmer() -> Callable[[str], str]:
    """A stemmer of its own for each call: one can't be shared between threads, and costs 1 µs."""
    try:
        from Stemmer import Stemmer
    except ImportError as error:
        raise MissingDependencyError(
            f"EmbeddedScorer needs the PyStemmer package ({error}).",
            remedy='Install it: pip install "qwen-rerank[embedded]"',
        ) from error
    stem: Callable[[str], str] = Stemmer("english").stemWord
    return stem

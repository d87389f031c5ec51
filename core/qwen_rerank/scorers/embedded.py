"""Offline reranking: word vectors, optionally a sentence encoder, and a lexical score."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import mul
from typing import Any, Literal, TypeAlias, get_args

from qwen_rerank.errors import MissingDependencyError
from qwen_rerank.inputs.content import checked_texts
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.text.normalization import normalize
from qwen_rerank.text.sentence_encoder import sentence_encoder
from qwen_rerank.text.word_vectors import offline_vectors
from qwen_rerank.validation import check_choice, check_query, check_share

__all__ = ["EmbeddedScorer", "Encoder"]

Encoder: TypeAlias = Literal["wordllama", "use"]
"""What the cosines are computed with."""

# The weights below are no optimum of one collection: each gains on all those of
# benchmarks/ranking.py, and so do its neighbors.
_COSINE_WEIGHT = 0.3
_LEXICAL_WEIGHT = 0.7
_PRIOR = 0.2
_PRIOR_CONSTANT = 5

# Anserini's defaults for BM25 over passages, which is what a reranker gets.
_K1 = 0.9
_B = 0.4

# Added to the idf. All candidates share the query's topic, so the idf alone would give the words of
# that topic next to no weight.
_BASE_WEIGHT = 1.0

# About the mean length of the vectors of the words in English queries.
_AVERAGE_LENGTH = 9.7

# The weight of a character or a pair of characters. A word has several of them.
_CHARACTER_WEIGHT = 0.3

# Documents to rerank are shorter, and extracting the terms of this many takes a second or two.
_LEXICAL_CHARACTERS = 1_000_000

# Scripts without spaces between words: ideographs, hiragana, katakana (without the middle dot),
# Thai, Lao, Myanmar and Khmer letters with their marks.
_UNSPACED = (
    "\u3005\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3"
)

# Marks within words: accents, vowel points of Hebrew and Arabic, and all of the Indic scripts
# except the danda. To Python they are not parts of words.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff"

_LETTERS = rf"[^\W_{_UNSPACED}]"
_RUN = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*")


class EmbeddedScorer(Scorer):
    """Reranks without a key, a download or a network.

    It is not a Qwen model, and no substitute for one. It takes milliseconds on a CPU and improves
    on the order of BM25 and of simple vectors (`benchmarks/ranking.py` measures by how much).
    Behind a strong embedding model, use a reranking model: this one knows less than that does.

        score = (0.3 · cosine + 0.7 · lexical) · (1 - prior + prior · 6 / (5 + rank))

    The cosine is that of the average word vectors (256 dimensions, from the `wordllama` package) of
    the first 20,000 characters of query and text; 0 if it is negative or if one of them has no
    tokens. These vectors know little beyond English. With `encoder="use"`, it is the mean of that
    cosine and the one of Google's Universal Sentence Encoder (multilingual, version 3), for the
    first 2,000 characters. That finds paraphrases, also across its 16 languages (Arabic, Chinese,
    Dutch, English, French, German, Italian, Japanese, Korean, Polish, Portuguese, Russian, Spanish,
    Thai and Turkish, and traditional Chinese). A new text takes ten to twenty times as long; the
    vectors of the last 16,384 texts are kept, which takes 39 MB.

    The lexical part is BM25, as a share of the maximum for the query's terms, over the first
    1,000,000 characters:

        lexical = Σ w(t) · tf / (tf + k1 · (1 - b + b · length / average length)) / Σ w(t)
        w(t) = background(t) · (1 + idf(t)), k1 = 0.9, b = 0.4

    summed over the distinct terms of the query. `idf` is over the texts in the call. `background`
    says how much a word matters in any text: it is the length of its word vector, divided by 9.7.
    Training made it short for words like "the". Chinese, Japanese, Thai, Lao, Khmer and Burmese are
    split into characters and pairs of characters, with a background of 0.3, everything else into
    words. Case, width and English endings don't matter.

    The prior is the trust in the first stage, which often knows better about texts that are nearly
    equal here. `rank` is a text's rank in retrieval, from 1, so the first text, or the only one,
    keeps its full score. If your documents are in no order, pass `prior=None`.

    Scores are in [0, 1). They are not pointwise: idf and average length depend on the other texts.
    Equal texts in a call have equal scores.

    Args:
        encoder: `"wordllama"`, or `"use"` for the sentence encoder as well, which needs the extra
            `multilingual`.
        prior: The largest share of a score, in [0, 1], that a low rank in retrieval takes away.
            None or 0 for scores that don't depend on the order.

    Raises:
        InvalidInputError: There is no such encoder, or `prior` is not a number from 0 to 1.
        MissingDependencyError: A package is not installed. The message names the extra.
    """

    def __init__(self, encoder: Encoder = "wordllama", *, prior: float | None = _PRIOR) -> None:
        check_choice("encoder", encoder, get_args(Encoder))
        check_share("prior", prior)
        self._encoder = encoder
        self._prior = prior or 0.0
        if encoder == "use":  # first: its extra has the other packages too
            sentence_encoder()
        offline_vectors()
        _stemmer()

    @property
    def model(self) -> str:
        """`"embedded"`, or `"embedded-use"` with that encoder."""
        return "embedded" if self._encoder == "wordllama" else f"embedded-{self._encoder}"

    @property
    def pointwise(self) -> bool:
        """False: idf and average length depend on the other texts."""
        return False

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The class, the model and the prior."""
        return (*super().fingerprint, self._prior)

    @property
    def uses_order(self) -> bool:
        """Whether there is a prior."""
        return self._prior > 0

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query.

        Args:
            query: The query. If it has no words and no known tokens, all scores are 0.
            texts: Texts of any length, best first in retrieval.

        Returns:
            One score in [0, 1) per text. The usage counts texts and seconds; nothing is billed.

        Raises:
            InvalidInputError: The query is blank or not a string, or the texts are not strings.
        """
        check_query(query)
        texts = checked_texts(texts)
        start = time.perf_counter()
        relevance = map(_relevance, self._cosines(query, texts), _lexical(query, texts))
        values = list(map(mul, relevance, _trust(texts, self._prior)))
        usage = Usage(texts_sent=len(texts), seconds=time.perf_counter() - start, cost=0.0)
        return Scores(values, usage)

    def _cosines(self, query: str, texts: Sequence[str]) -> list[float]:
        cosines = offline_vectors().cosines(query, texts)
        if self._encoder == "wordllama":
            return cosines
        others = sentence_encoder().cosines(query, texts)
        return [(one + other) / 2 for one, other in zip(cosines, others, strict=True)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(encoder={self._encoder!r}, prior={self._prior})"


def _relevance(cosine: float, lexical: float) -> float:
    return _COSINE_WEIGHT * cosine + _LEXICAL_WEIGHT * lexical


def _trust(texts: Sequence[str], prior: float) -> Iterator[float]:
    """Return the share of its score that each text keeps: less, the later it comes."""
    ranks = {text: rank for rank, text in enumerate(dict.fromkeys(texts), 1)}
    for text in texts:
        yield 1 - prior + prior * (_PRIOR_CONSTANT + 1) / (_PRIOR_CONSTANT + ranks[text])


def _lexical(query: str, texts: Sequence[str]) -> list[float]:
    """Return each text's share of the maximum BM25 weight, in [0, 1)."""
    stem = _stemmer()
    backgrounds = _background_weights(query, stem)
    documents = [list(_terms(text, stem)) for text in texts]
    counts = [Counter(filter(backgrounds.__contains__, terms)) for terms in documents]
    weights = _weights(backgrounds, counts)
    maximum = sum(weights.values()) or 1.0
    average = sum(map(len, documents)) / max(len(documents), 1) or 1.0
    return [
        _bm25(frequencies, weights, len(terms) / average) / maximum
        for frequencies, terms in zip(counts, documents, strict=True)
    ]


def _background_weights(query: str, stem: Callable[[str], str]) -> dict[str, float]:
    """Return how much each term of the query says, whatever the texts are."""
    vectors = offline_vectors()
    weights: dict[str, float] = {}
    for match in _runs(query):
        run = match.group()
        if match["unspaced"] is None:
            weight, term = vectors.length(run) / _AVERAGE_LENGTH, stem(run)
            weights[term] = max(weight, weights.get(term, 0.0))
        else:
            weights |= dict.fromkeys(_characters_and_pairs(run), _CHARACTER_WEIGHT)
    return weights


def _weights(backgrounds: Mapping[str, float], counts: Sequence[Counter[str]]) -> dict[str, float]:
    """Return the weight of each term: its background weight, times 1 + its idf over the texts."""
    document_frequencies = Counter(term for frequencies in counts for term in frequencies)

    def idf(n: int) -> float:
        return math.log1p((len(counts) - n + 0.5) / (n + 0.5))

    return {
        term: background * (_BASE_WEIGHT + idf(document_frequencies[term]))
        for term, background in backgrounds.items()
    }


def _bm25(frequencies: Counter[str], weights: dict[str, float], relative_length: float) -> float:
    """Return the weighted sum of the term frequencies, each saturating towards 1."""
    half = _K1 * (1 - _B + _B * relative_length)
    return sum(weights[term] * tf / (tf + half) for term, tf in frequencies.items())


def _terms(text: str, stem: Callable[[str], str]) -> Iterator[str]:
    """Return the stems of a text; in scripts without spaces, its characters and character pairs."""
    for match in _runs(text):
        run = match.group()
        if match["unspaced"] is None:
            yield stem(run)
        else:
            yield from _characters_and_pairs(run)


def _runs(text: str) -> Iterator[re.Match[str]]:
    """Return the words of a text, and its runs of scripts without spaces."""
    return _RUN.finditer(normalize("NFKC", text[:_LEXICAL_CHARACTERS]).casefold())


def _characters_and_pairs(run: str) -> Iterator[str]:
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

"""FakeScorer: scores that a test can predict."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import checked_texts
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.validation import check_query, is_finite

__all__ = ["FakeScorer", "score_of"]

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_STATED = re.compile(r"score=(-?\d+(?:\.\d+)?)")


def score_of(query: str, document: str | Mapping[str, str]) -> float:
    """Return the score that `FakeScorer` and `LoopbackDashScope` give to a document.

    Args:
        query: The query.
        document: A text; or an object as qwen3-vl-rerank takes it, with a text or an address.

    Returns:
        The number after "score=" in the document, as in "A text. score=0.7". Without one, the share
        of the query's words, separated by white space and in any case, that the document has. Each
        Chinese character is a word.
    """
    text = document if isinstance(document, str) else " ".join(document.values())
    if stated := _STATED.search(text):
        return float(stated[1])
    words = _words(query)
    return len(words & _words(text)) / max(1, len(words))


def _words(text: str) -> set[str]:
    return set(_CHINESE.sub(r" \g<0> ", text.lower()).split())


class FakeScorer(Scorer):
    """Scores texts by a simple formula, for your own tests: offline, free and always the same.

    A text's score is the one in `scores`; else the number after "score=" in the text; else the
    share of the query's words that the text contains, in any case. Words end at white space.

    Args:
        scores: The scores of some texts.

    Raises:
        InvalidInputError: A score is not a finite number.

    Example:
        >>> FakeScorer().score("what krill eat", ["krill eat algae", "score=0.9"]).values
        [0.6666666666666666, 0.9]
    """

    def __init__(self, scores: Mapping[str, float] | None = None) -> None:
        if not isinstance(scores, Mapping | None):
            raise InvalidInputError(
                f"scores must be numbers by text, got {type(scores).__name__}.",
                remedy='Pass for example {"Penguins eat krill.": 0.9}.',
            )
        self._scores = dict(scores or {})
        for text, score in self._scores.items():
            if not is_finite(score):
                raise InvalidInputError(f"The score of {text!r:.40} is {score!r}, not a number.")

    @property
    def model(self) -> str:
        """Always `"fake"`."""
        return "fake"

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """The class, and the scores that were passed."""
        return (*super().fingerprint, *sorted(self._scores.items()))

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query; see `Scorer.score`."""
        check_query(query)
        texts = checked_texts(texts)
        start = time.perf_counter()
        values = [float(self._scores.get(text, score_of(query, text))) for text in texts]
        seconds = time.perf_counter() - start
        return Scores(values, Usage(texts_sent=len(texts), seconds=seconds, cost=0.0))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """The same as `score`, after other tasks had a turn."""
        await asyncio.sleep(0)
        return self.score(query, texts)

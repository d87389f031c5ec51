"""Signs in the scores that a model does not rerank, although it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["doubt_about"]

_MIDDLE = (0.45, 0.55)
_SHARE = 0.95
_MIN_SCORES = 8
"""If so many scores or more, and this share of them, are in the middle, the model did not decide.

These numbers are a rule of thumb. A reranker that answers with the probability of "yes" gives about
0.5 if it knows nothing.
"""

_MIN_TEXTS = 3
"""Two texts of a query may well have the same score."""


def doubt_about(scores: Iterable[Sequence[float]]) -> str | None:
    """Return what is suspicious about a model's scores, and its likely cause; None if nothing is.

    Args:
        scores: The scores of each query's texts.
    """
    of_queries = [of_query for of_query in scores if len(of_query) >= _MIN_TEXTS]
    if of_queries and all(max(each) - min(each) < 1e-6 for each in of_queries):
        return (
            "All texts of a query have the same score. The model is probably not a reranker, or it "
            "was loaded without its trained head, as when a server converts another type of model."
        )
    values = [score for of_query in of_queries for score in of_query]
    low, high = _MIDDLE
    in_the_middle = sum(low <= score <= high for score in values)
    if len(values) >= _MIN_SCORES and in_the_middle >= _SHARE * len(values):
        return (
            f"Nearly all scores are between {low} and {high}, as if the model could not decide. It "
            "probably runs without its prompt template, like Qwen3-Reranker in vLLM without "
            "--hf_overrides and --chat-template, or it is not a reranker. See docs/scorers.md."
        )
    return None

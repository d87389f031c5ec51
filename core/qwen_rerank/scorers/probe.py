"""A query and eight texts that any reranker must get right."""

from __future__ import annotations

from qwen_rerank.errors import BadResponseError
from qwen_rerank.scorers.base import Scorer, Scores

__all__ = ["QUERY", "TEXTS", "check_relevant_first"]

QUERY = "What is the capital of France?"
TEXTS = (
    "The capital of France is Paris.",
    "Penguins are birds that cannot fly.",
    "Add the flour, then knead the dough for ten minutes.",
    "The invoice is due within thirty days.",
    "A guitar has six strings.",
    "Rain is expected on Tuesday afternoon.",
    "The patch fixes a memory leak in the parser.",
    "Photosynthesis turns light into chemical energy.",
)
"""A text that answers the query, then seven that don't. Random scores pass one time in eight."""


def check_relevant_first(scorer: Scorer, scores: Scores) -> Scores:
    """Return the scores of `TEXTS` if the first is above all others.

    Raises:
        BadResponseError: It is not.
    """
    relevant, best_of_others = scores.values[0], max(scores.values[1:])
    if relevant > best_of_others:
        return scores
    raise BadResponseError(
        f"{scorer!r} scores a text that answers the query {relevant:.4g}, but an unrelated text "
        f"{best_of_others:.4g}.",
        remedy="The model is probably not a reranker, or it runs without its prompt template, like "
        "Qwen3-Reranker in vLLM without --hf_overrides and --chat-template. See docs/scorers.md.",
    )

"""One ranking that any reranker must get right."""

from __future__ import annotations

from qwen_rerank.errors import BadResponseError
from qwen_rerank.scorers.base import Scorer, Scores

__all__ = ["QUERY", "TEXTS", "check_probe"]

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
"""One text that answers the query, and seven that do not: chance passes once in eight times."""


def check_probe(scorer: Scorer, scores: Scores) -> Scores:
    """The scores that the scorer gave `TEXTS`, if the first is above each of the others.

    Raises:
        BadResponseError: It is not.
    """
    relevant, best_of_others = scores.values[0], max(scores.values[1:])
    if relevant > best_of_others:
        return scores
    raise BadResponseError(
        f"{scorer!r} gives a text that answers the query {relevant:.4g}, and one that has "
        f"nothing to do with it {best_of_others:.4g}.",
        remedy="The model is probably no reranker; or it runs without its prompt template, as "
        "Qwen3-Reranker does in vLLM without --hf_overrides and --chat-template: see "
        "docs/scorers.md.",
    )

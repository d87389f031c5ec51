"""Usage: what a ranking cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a ranking cost. Add usages with `+`, or with `sum(usages, Usage())`.

    Attributes:
        requests: Requests that returned scores.
        tokens: Tokens billed, as reported by the service, or processed by a model in this process.
            0 if tokens are not counted.
        texts_sent: Texts that were scored. A text scored by two scorers counts twice.
        duplicate_texts: Texts that were not scored because an equal text was.
        retries: Attempts after the first one, for all requests.
        seconds: Time spent scoring, in seconds.
        cache_hits: Texts whose score came from a CachedScorer's store.
        skipped_by_cascade: Texts that the second scorer of a CascadeScorer did not score.
        truncated: Texts, and the query if it was too long, of which the scorer read only the
            beginning, because of a model's limit. A server's own truncation is not counted.
        cost: Estimated cost in US dollars at list prices; None if a price is not known.
    """

    requests: int = 0
    tokens: int = 0
    texts_sent: int = 0
    duplicate_texts: int = 0
    retries: int = 0
    seconds: float = 0.0
    cache_hits: int = 0
    skipped_by_cascade: int = 0
    truncated: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return Usage(**sums, cost=_sum_of_costs(self, other))


_COUNTS = tuple(f.name for f in fields(Usage) if f.name != "cost")


def _sum_of_costs(*usages: Usage) -> float | None:
    costs = [
        usage.cost
        for usage in usages
        if usage.cost is not None or usage.requests or usage.tokens or usage.texts_sent
    ]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None

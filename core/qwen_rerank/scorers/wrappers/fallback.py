"""FallbackScorer and KeepOrder: a service that fails need not fail the search."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from qwen_rerank.errors import (
    BadResponseError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.inputs.content import MULTIMODAL, Item, Modality
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.wrappers.wrapper import Way, Wrapper
from qwen_rerank.validation import check_seconds

__all__ = ["FallbackScorer", "KeepOrder"]

_log = logging.getLogger(__name__)

_PASSING = (RateLimitError, RequestTimeoutError, ServiceError, BadResponseError)
"""What another scorer may well not run into: neither bad input nor a key that is refused."""


class FallbackScorer(Wrapper):
    """Asks the next scorer where one fails, after whatever retries that one makes by itself.

    All texts of a call have their scores from one scorer, and `Scores.model`, so `Ranking.model`
    too, says from which one; None stands for the first. Scores of different models are on different
    scales: a `min_score` that fits the first may not fit the others. The last resort can be
    `KeepOrder()`, for which no `min_score` counts.

    Each failure that is passed by is logged with its type, code, status and request id. When the
    last scorer fails too, or one in another way, that error is raised, with a note of those before.

    Args:
        first: The scorer to ask first.
        others: The ones to ask after it, in this order; at least one.
        on: The types of the errors that are passed by. By default RateLimitError,
            RequestTimeoutError, ServiceError and BadResponseError.
        cooldown: Seconds for which a scorer that has failed is not asked, unless it is the last;
            longer where the service asked for more. None to ask it in every call.

    Raises:
        InvalidInputError: No other scorer, something in `on` that is no type of exceptions, or a
            cooldown that is no number of seconds above 0.
    """

    def __init__(
        self,
        first: Scorer,
        *others: Scorer,
        on: Iterable[type[Exception]] = _PASSING,
        cooldown: float | None = None,
    ) -> None:
        super().__init__(first, *others)
        if not others:
            raise InvalidInputError(
                "FallbackScorer needs a scorer to fall back on.",
                remedy="Pass one after the first, for example KeepOrder().",
            )
        if cooldown is not None:
            check_seconds("cooldown", cooldown)
        self._first = first
        self._on = _checked_types(on)
        self._cooldown = cooldown
        self._rests_until: dict[int, float] = {}

    @property
    def model(self) -> str:
        """That of the first scorer."""
        return self._first.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """That of the first scorer: a CachedScorer keeps the scores of no other."""
        return self._first.fingerprint

    @property
    def pointwise(self) -> bool:
        """Whether the first scorer is: see `fingerprint`."""
        return self._first.pointwise

    async def _score(self, query: Item, texts: Sequence[Item], way: Way) -> Scores:
        *before, last = self._scorers
        failures: list[str] = []
        try:
            for place, scorer in enumerate(before):
                if self._rests(place):
                    failures.append(f"{scorer.model} was not asked, as it had failed before")
                    continue
                try:
                    scores = await way.ask(scorer, query, texts)
                    self._rests_until.pop(place, None)
                    return self._named(scores, scorer)
                except self._on as error:
                    self._rest(place, error)
                    failures.append(_told(scorer, error))
                    _log.warning("%s: the next scorer is asked.", failures[-1])
            return self._named(await way.ask(last, query, texts), last)
        except Exception as error:
            for failure in failures:
                error.add_note(f"Before that, {failure}.")
            raise

    def _rests(self, place: int) -> bool:
        """Whether that scorer is not asked. After its rest one call tries, the others still not."""
        until = self._rests_until.get(place)
        if until is None or self._cooldown is None:
            return False
        now = monotonic()
        if now >= until:
            self._rests_until[place] = now + self._cooldown
        return now < until

    def _rest(self, place: int, error: Exception) -> None:
        if self._cooldown is not None:
            asked = error.retry_after if isinstance(error, QwenRerankError) else None
            self._rests_until[place] = monotonic() + max(self._cooldown, asked or 0.0)

    def _named(self, scores: Scores, scorer: Scorer) -> Scores:
        """The scores, with the name of their model, unless they might as well be the first's."""
        if scorer.fingerprint == self.fingerprint:
            return scores
        return replace(scores, model=scores.model or scorer.model)

    def __getstate__(self) -> dict[str, Any]:
        # Elsewhere the clock is another one, and the scorer may well be reached.
        return {**self.__dict__, "_rests_until": {}}


class KeepOrder(Scorer):
    """Leaves the records in retrieval order, with the scores that they came with.

    The last scorer of a FallbackScorer, where results in the retriever's order are better than
    none. The engine applies no `min_score`, `blend` or `diversity` to what it leaves as it is;
    `top_n` counts as ever.
    """

    @property
    def model(self) -> str:
        """Always `"keep-order"`."""
        return "keep-order"

    @property
    def pointwise(self) -> bool:
        """False: a text's place depends on the others."""
        return False

    @property
    def modalities(self) -> frozenset[Modality]:
        """All: it reads nothing."""
        return MULTIMODAL

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Give the texts falling numbers from 1 to above 0, which stand for their order alone."""
        count = len(texts)
        values = [(count - place) / count for place in range(count)]
        return Scores(values, Usage(cost=0.0), unranked=True)

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """The same as `score`."""
        return self.score(query, texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _checked_types(on: Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    kinds = tuple(on) if isinstance(on, Iterable) else ()
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return kinds
    raise InvalidInputError(
        f"on must be the types of some exceptions, got {on!r}.",
        remedy="Pass for example on=(RateLimitError, ServiceError).",
    )


def _told(scorer: Scorer, error: Exception) -> str:
    """Who failed and how, without the error's message, which may quote anything."""
    facts = [type(error).__name__]
    if isinstance(error, QwenRerankError):
        named = {"code": error.code, "status": error.status, "request_id": error.request_id}
        facts += [f"{name}={value}" for name, value in named.items() if value is not None]
    return f"{scorer.model} failed ({', '.join(facts)})"

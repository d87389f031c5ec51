"""FallbackScorer and KeepOrder: search goes on when a service fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, get_args

from qwen_rerank.errors import (
    BadResponseError,
    InvalidInputError,
    QwenRerankError,
    RateLimitError,
    RequestTimeoutError,
    ServiceError,
)
from qwen_rerank.inputs.content import Item, Modality, checked_texts
from qwen_rerank.scorers.base import Scorer, Scores, Usage
from qwen_rerank.scorers.wrappers.wrapper import Runner, Wrapper
from qwen_rerank.validation import check_seconds

__all__ = ["FallbackScorer", "KeepOrder"]

_log = logging.getLogger(__name__)

_RECOVERABLE = (RateLimitError, RequestTimeoutError, ServiceError, BadResponseError)
"""Errors that another scorer may not run into, unlike bad input or a refused key."""


class FallbackScorer(Wrapper):
    """Calls the next scorer if one fails, after any retries of its own.

    All scores of a call come from one scorer. `Scores.model` (and `Ranking.model`) names it; None
    stands for the first. Models score on different scales, so a `min_score` that suits the first
    may not suit the others. To never fail, end with `KeepOrder()`, to which no `min_score` applies.

    Each failure is logged with its type, code, status and request id. If the last scorer fails too,
    or an error is not in `on`, that error is raised, with a note for each failure before it.

    Args:
        first: The scorer to call first.
        others: The scorers to call after it, in this order; at least one.
        on: The types of errors to fall back on. By default RateLimitError, RequestTimeoutError,
            ServiceError and BadResponseError.
        cooldown: Seconds for which a failed scorer is skipped, or longer if the service asks for
            more. The last scorer is never skipped. None to call a failed scorer again every time.
        clock: Returns the time in seconds. For tests.

    Raises:
        InvalidInputError: There is no other scorer, `on` holds something other than exception
            types, or `cooldown` is not a number above 0.
    """

    def __init__(
        self,
        first: Scorer,
        *others: Scorer,
        on: Iterable[type[Exception]] = _RECOVERABLE,
        cooldown: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(first, *others)
        if not others:
            raise InvalidInputError(
                "FallbackScorer needs at least two scorers.",
                remedy="Pass another one after the first, for example KeepOrder().",
            )
        if cooldown is not None:
            check_seconds("cooldown", cooldown)
        self._first = first
        self._on = _checked_types(on)
        self._cooldown = cooldown
        self._clock = clock
        self._skipped_until: dict[int, float] = {}

    @property
    def model(self) -> str:
        """The model of the first scorer."""
        return self._first.model

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The fingerprint of the first scorer: a CachedScorer keeps the scores of no other."""
        return self._first.fingerprint

    @property
    def pointwise(self) -> bool:
        """Whether the first scorer is pointwise; see `fingerprint`."""
        return self._first.pointwise

    async def _score(self, query: Item, texts: Sequence[Item], runner: Runner) -> Scores:
        *others, last = self._scorers
        failures: list[str] = []
        try:
            for index, scorer in enumerate(others):
                if self._is_skipped(index):
                    failures.append(f"{scorer.model} was skipped after an earlier failure")
                    continue
                try:
                    scores = await runner.score_top(scorer, query, texts)
                    self._skipped_until.pop(index, None)
                    return self._with_model(scores, scorer)
                except self._on as error:
                    self._skip(index, error)
                    failures.append(_failure(scorer, error))
                    _log.warning("%s. Falling back to the next scorer.", failures[-1])
            return self._with_model(await runner.score_top(last, query, texts), last)
        except Exception as error:
            for failure in failures:
                error.add_note(f"Before that, {failure}.")
            raise

    def _is_skipped(self, index: int) -> bool:
        """Whether to skip the scorer. After the cooldown, one call tries it; others still skip."""
        until = self._skipped_until.get(index)
        if until is None or self._cooldown is None:
            return False
        now = self._clock()
        if now >= until:
            self._skipped_until[index] = now + self._cooldown
        return now < until

    def _skip(self, index: int, error: Exception) -> None:
        if self._cooldown is not None:
            retry_after = error.retry_after if isinstance(error, QwenRerankError) else None
            seconds = max(self._cooldown, retry_after or 0.0)
            self._skipped_until[index] = self._clock() + seconds

    def _with_model(self, scores: Scores, scorer: Scorer) -> Scores:
        """The scores with the name of their model, unless they equal the first scorer's."""
        if scorer.fingerprint == self.fingerprint:
            return scores
        return replace(scores, model=scores.model or scorer.model)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine has another clock, and may well reach the service.
        return {**self.__dict__, "_skipped_until": {}}


class KeepOrder(Scorer):
    """Keeps the documents in retrieval order, with the scores they came with.

    Use it as the last scorer of a FallbackScorer, if results in the retriever's order are better
    than none. `min_score`, `blend` and `diversity` are not applied to them; `top_n` is.
    """

    @property
    def model(self) -> str:
        """Always `"keep-order"`."""
        return "keep-order"

    @property
    def pointwise(self) -> bool:
        """False: a value says where a text stands among the others."""
        return False

    @property
    def uses_order(self) -> bool:
        """True: a value says nothing else."""
        return True

    @property
    def modalities(self) -> frozenset[Modality]:
        """All of them: it reads nothing."""
        return frozenset(get_args(Modality))

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Return values that fall from 1 to just above 0. They only stand for the order."""
        count = len(checked_texts(texts))
        values = [(count - index) / count for index in range(count)]
        return Scores(values, Usage(cost=0.0), unranked=True)

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Like `score`."""
        return self.score(query, texts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _checked_types(on: Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    types = tuple(on) if isinstance(on, Iterable) else ()
    if types and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        return types
    raise InvalidInputError(
        f"on must hold exception types, got {on!r}.",
        remedy="Pass for example on=(RateLimitError, ServiceError).",
    )


def _failure(scorer: Scorer, error: Exception) -> str:
    """Which scorer failed and how. The error's message is left out: it may quote anything."""
    facts = [type(error).__name__]
    if isinstance(error, QwenRerankError):
        details = {"code": error.code, "status": error.status, "request_id": error.request_id}
        facts += [f"{name}={value}" for name, value in details.items() if value is not None]
    return f"{scorer.model} failed ({', '.join(facts)})"

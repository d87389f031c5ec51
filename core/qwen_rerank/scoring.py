"""The one door to any model: texts go in, one relevance score a text comes out."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

__all__ = ["Scorer", "Scores", "Usage", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a ranking cost. Two usages add up, and so does `sum(usages, Usage())`.

    Attributes:
        requests: Requests that were answered with scores.
        tokens: Tokens billed, as the service reports them, or computed by a model in this process.
            0 where nothing is counted.
        texts_sent: Texts that were scored.
        texts_saved: Texts that were not scored, because an equal one was.
        retries: Repeated attempts, after a failure.
        seconds: Time spent scoring, in seconds.
    """

    requests: int = 0
    tokens: int = 0
    texts_sent: int = 0
    texts_saved: int = 0
    retries: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)))


@dataclass(frozen=True, slots=True)
class Scores:
    """One relevance score for each text, in the texts' order, and what they cost."""

    values: list[float]
    usage: Usage = Usage()


class Scorer(ABC):
    """Gives one relevance score to each text: the only thing a new model has to implement.

    A scorer splits what it gets to its own limits, and either scores every text or raises. Scores
    are pointwise: that of one text does not depend on which others came along, unless the scorer's
    own documentation says otherwise. Higher is more relevant; [0, 1] unless documented.

    A scorer is safe to use from many threads and many event loops. Used in a `with` or
    `async with` block, it is closed at the end of it.
    """

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's name, for traces and messages."""

    @abstractmethod
    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query.

        Args:
            query: The query; not blank.
            texts: The texts; none blank, at least one, usually no two equal.

        Returns:
            As many scores as texts, in the same order, all of them finite.

        Raises:
            QwenRerankError: Any failure. A partial result is never returned.
        """

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """The same as `score`; in a worker thread, unless a scorer has something better."""
        return await asyncio.to_thread(self.score, query, texts)

    def close(self) -> None:  # noqa: B027 (most scorers hold nothing)
        """Release what the scorer holds. It can't be used afterwards. Does nothing by default."""

    async def aclose(self) -> None:
        """The same as `close`, from an event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A scorer is shared, not duplicated, when the component that holds it is copied.
        return self

    def __copy__(self) -> Self:
        return self


def sigmoid(logit: float) -> float:
    """The probability, in [0, 1], that a logit stands for, however large it is."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)

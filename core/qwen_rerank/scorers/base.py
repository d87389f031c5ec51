"""The one door to any model: texts go in, one relevance score a text comes out."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from qwen_rerank.errors import BadResponseError, InvalidInputError
from qwen_rerank.inputs.content import TEXT_ONLY, Modality
from qwen_rerank.validation import is_finite

__all__ = [
    "Passage",
    "Scorer",
    "Scores",
    "Usage",
    "can_score_top",
    "check_scorer",
    "checked",
    "sigmoid",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a ranking cost. Two usages add up, and so does `sum(usages, Usage())`.

    Attributes:
        requests: Requests that were answered with scores.
        tokens: Tokens billed, as the service reports them, or computed by a model in this process.
            0 where nothing is counted.
        texts_sent: Texts that were scored; one that two scorers scored counts twice.
        duplicate_texts: Texts that were not scored, because an equal one was.
        retries: Repeated attempts, after a failure.
        seconds: Time spent scoring, in seconds.
        cache_hits: Texts that were not scored, because a CachedScorer had their score.
        skipped_by_cascade: Texts that the second scorer of a CascadeScorer did not have to score.
        cost: An estimate in US dollars, by list prices; None where a price is not known.
    """

    requests: int = 0
    tokens: int = 0
    texts_sent: int = 0
    duplicate_texts: int = 0
    retries: int = 0
    seconds: float = 0.0
    cache_hits: int = 0
    skipped_by_cascade: int = 0
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


class Passage(NamedTuple):
    """A part of a text, as character offsets: `text[start:end]`."""

    start: int
    end: int

    def of(self, text: str) -> str:
        """The part of this text."""
        return text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Scores:
    """One relevance score for each text, in the texts' order, and what they cost.

    A scorer of a single model gives the first two. The others are for scorers that wrap scorers.

    Attributes:
        values: The scores.
        usage: What they cost.
        model: The name of the model that gave them; None for the scorer's own.
        passages: For each text the part of it that its score is of; None for the whole text.
        tiers: For each text how many scorers preferred others to it, where not all texts were
            scored by the same ones. A lower tier ranks first, whatever the scores, and only those
            of tier 0 are shown. None where all are of tier 0.
        unranked: Whether no model gave the scores, and the texts should stay as they came.
        indices: For each score the index of its text, best first, where `score_top` gave only the
            best. None where there is one score per text.
    """

    values: list[float]
    usage: Usage = Usage()
    model: str | None = None
    passages: list[Passage | None] | None = None
    tiers: list[int] | None = None
    unranked: bool = False
    indices: list[int] | None = None


class Scorer(ABC):
    """Gives one relevance score to each text: the only thing a new model has to implement.

    A scorer splits what it gets to its own limits, and either scores every text or raises. Higher
    is more relevant; [0, 1] unless documented.

    A scorer is safe to use from many threads and many event loops. Used in a `with` or
    `async with` block, it is closed at the end of it.
    """

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's name, for traces and messages."""

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """All that a score depends on but the query and the text, of numbers and strings.

        Two scorers of one fingerprint share a cache. It is the class and the model, unless a scorer
        has options that change its scores.
        """
        return (type(self).__qualname__, self.model)

    @property
    def pointwise(self) -> bool:
        """Whether the score of a text is the same whichever others come along, as most are."""
        return True

    @property
    def modalities(self) -> frozenset[Modality]:
        """What queries and documents may hold: texts only, unless a scorer takes `Content` too."""
        return TEXT_ONLY

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

    def score_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        """Score at least the best `top_n` texts; by default all of them, as `score` does.

        A scorer whose service can leave out the rest overrides this together with `score`. The
        engine calls it where nothing needs the other scores.

        Args:
            query: See `score`, as for the texts and the errors.
            texts: The texts.
            top_n: How many of the best scores are needed, at least 1.

        Returns:
            One score per text, or the best `top_n` with their `indices`.
        """
        return self.score(query, texts)

    async def ascore_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        """The same as `score_top`, without blocking the event loop."""
        return await self.ascore(query, texts)

    def close(self) -> None:  # noqa: B027 (most scorers hold nothing)
        """Release what the scorer holds. It can't be used afterwards. Does nothing by default."""

    async def aclose(self) -> None:
        """The same as `close`, from an event loop."""
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r})"

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


def check_scorer(scorer: object, wanted: str) -> None:
    """Raise InvalidInputError, which begins with what is wanted, unless it is a scorer."""
    if not isinstance(scorer, Scorer):
        raise InvalidInputError(
            f"{wanted}, got {type(scorer).__name__}.", remedy="Pass for example DashScopeScorer()."
        )


def checked(scores: Scores, expected: int, model: str, top_n: int | None = None) -> Scores:
    """The scores as floats, if there is a finite number for each text.

    Args:
        scores: What the scorer returned.
        expected: How many texts it got.
        model: Its name, for messages.
        top_n: How many of the best scores `score_top` was asked for; None if it was `score`.

    Raises:
        BadResponseError: There is not; it names the model.
    """
    if not isinstance(scores, Scores):
        raise BadResponseError(
            f"{model} gave {type(scores).__name__}, not Scores.",
            remedy="The scorer should return Scores(values), with a list of floats.",
        )
    if scores.indices is not None:
        expected = _checked_top(scores, expected, model, top_n)
    _check_count(scores.values, expected, model)
    for values in (scores.tiers, scores.passages):
        if values is not None:
            _check_count(values, expected, model)
    if set(map(type, scores.values)) <= {float} and all(map(math.isfinite, scores.values)):
        return scores
    for index, value in enumerate(scores.values):
        if not is_finite(value):
            raise BadResponseError(f"{model} gave text {index} the score {value!r}.")
    return replace(scores, values=list(map(float, scores.values)))


def _checked_top(scores: Scores, expected: int, model: str, top_n: int | None) -> int:
    """How many scores there must be where only the best were asked for."""
    indices = scores.indices or []
    if top_n is None:
        raise BadResponseError(f"{model} gave {len(indices)} scores for {expected} texts.")
    known = range(expected)
    if len({*indices}) < len(indices) or not all(index in known for index in indices):
        raise BadResponseError(f"{model} gave scores of texts that it did not get, or repeated.")
    return min(top_n, expected)


def can_score_top(scorer: Scorer) -> bool:
    """Whether its `score_top` may be called: not where a subclass overrides `score` alone."""
    own = next(vars(kind) for kind in type(scorer).__mro__ if "score" in vars(kind))
    return "score_top" in own and type(scorer).score is not Scorer.score


def _check_count(values: Sequence[Any], expected: int, model: str) -> None:
    if not isinstance(values, Sequence):
        raise BadResponseError(
            f"{model} gave its scores as {type(values).__name__}.",
            remedy="The scorer should return a list; arrays have tolist().",
        )
    if len(values) != expected:
        raise BadResponseError(f"{model} gave {len(values)} scores for {expected} texts.")


def sigmoid(logit: float) -> float:
    """The probability, in [0, 1], that a logit stands for, however large it is."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)

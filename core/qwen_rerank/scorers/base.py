"""The interface every model implements: texts in, one relevance score per text out."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from qwen_rerank.errors import BadResponseError, InvalidInputError
from qwen_rerank.inputs.content import TEXT_ONLY, Modality
from qwen_rerank.text.chunking import Passage
from qwen_rerank.threads import to_thread
from qwen_rerank.usage import Usage
from qwen_rerank.validation import is_finite

if TYPE_CHECKING:
    from qwen_rerank.scorers.probe import CheckReport, Problem

__all__ = [
    "Passage",
    "Scorer",
    "Scores",
    "Usage",
    "can_score_top",
    "check_scorer",
    "checked",
    "class_name",
    "probabilities",
    "sigmoid",
]


_NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Scores:
    """One relevance score per text, in the order of the texts, and what they cost.

    A scorer of a single model sets `values` and `usage`. The other attributes are for scorers that
    wrap scorers, and for `score_top`.

    Attributes:
        values: The scores.
        usage: What they cost.
        model: The name of the model that gave the scores; None for the scorer's own model.
        passages: For each text, the passage that its score belongs to; None for the whole text.
        tiers: For each text, how many scorers ranked other texts above it, if not all texts were
            scored by the same scorers. A lower tier ranks first, whatever the scores, and only
            scores of tier 0 are shown. None if all texts are in tier 0.
        unranked: Whether the scores come from no model, so that the texts should keep their order.
        indices: For each score, the index of its text, best first, if `score_top` returned only the
            best scores. None if there is one score per text.
        tie_breakers: For each score, a number that ranks it among equal scores, the highest first.
            If scores are the probabilities of logits, these are the logits: the probabilities of 38
            and 45 both round to 1. None if equal scores are ties.
    """

    values: list[float]
    usage: Usage = _NO_USAGE
    model: str | None = None
    passages: list[Passage | None] | None = None
    tiers: list[int] | None = None
    unranked: bool = False
    indices: list[int] | None = None
    tie_breakers: list[float] | None = None


class Scorer(ABC):
    """The base class of all scorers. A new model only has to implement `model` and `score`.

    A scorer splits its input into requests that fit its own limits. It scores every text or raises.
    A higher score is more relevant; scores are in [0, 1] unless a scorer documents otherwise.

    You can use a scorer from many threads and event loops at once. Use it in a `with` or
    `async with` block to close it at the end.
    """

    @property
    @abstractmethod
    def model(self) -> str:
        """The name of the model, for traces and messages."""

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """Everything that a score depends on besides the query and the text.

        A tuple of strings, numbers and None. Scorers with the same fingerprint share a cache. By
        default it is the class and the model. Add to it any option that changes the scores.
        """
        return (class_name(type(self)), self.model)

    @property
    def pointwise(self) -> bool:
        """Whether the score of a text does not depend on the other texts in the call. True here."""
        return True

    @property
    def uses_order(self) -> bool:
        """Whether a score depends on the order of the texts, which is then that of retrieval.

        False here. If it is True, texts come best first, as the first stage found them: several
        lists are fused by their ranks. A text that several documents share stands where the first
        of them does.
        """
        return False

    @property
    def modalities(self) -> frozenset[Modality]:
        """What queries and documents may hold. By default only text, so no `Content`."""
        return TEXT_ONLY

    @abstractmethod
    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts against the query.

        Args:
            query: The query; not blank.
            texts: At least one text, none of them blank; usually no two are equal. They are in
                retrieval order, except if they come from several lists and `uses_order` is False.

        Returns:
            One finite score per text, in the order of the texts.

        Raises:
            QwenRerankError: The scorer failed. A partial result is never returned.
        """

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """Like `score`, without blocking the event loop. By default it runs in a worker thread."""
        return await to_thread(self.score, query, texts)

    def score_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        """Score the texts, and return at least the best `top_n` scores. By default it returns all.

        The engine calls it if it needs no other scores. Override it together with `score` if your
        service can return only the best scores.

        Args:
            query: As for `score`; so are the errors raised.
            texts: As for `score`.
            top_n: How many of the best scores are needed; at least 1.

        Returns:
            One score per text, or the best `top_n` scores with their `indices`.
        """
        return self.score(query, texts)

    async def ascore_top(self, query: str, texts: Sequence[str], top_n: int) -> Scores:
        """Like `score_top`, without blocking the event loop."""
        return await self.ascore(query, texts)

    def check(self) -> CheckReport:
        """Check that the scorer ranks: that it scores answers above texts that don't answer.

        A model that runs without its prompt, or that is not a reranker, returns scores that look
        normal and mean nothing. Call this whenever you set up a scorer. It scores six queries with
        eight texts each, and asks again in other ways to find the cause of a failure.

        Returns:
            The scores, and what they cost.

        Raises:
            BadResponseError: An answer does not score above all other texts, or the scores don't
                depend on the instruction. The message says what is probably wrong.
            QwenRerankError: See `score`.
        """
        from qwen_rerank.scorers import probe

        report = probe.check(self)
        report.raise_for_problem()
        return report

    async def acheck(self) -> CheckReport:
        """The same as `check`, without blocking the event loop."""
        from qwen_rerank.scorers import probe

        report = await probe.acheck(self)
        report.raise_for_problem()
        return report

    def _with_instruct(self, instruct: str) -> Scorer | None:
        """The same scorer with another instruction; None if it has none."""
        return None

    def _variants_to_check(self) -> Mapping[Problem, Scorer]:
        """Scorers that would pass a check that this one fails, by what is wrong with this one."""
        return {}

    def _remedy_for(self, problem: Problem) -> str:
        """What to do about a problem that a check found."""
        from qwen_rerank.scorers.probe import REMEDIES

        return REMEDIES[problem]

    def share_rates(self, processes: int) -> None:  # noqa: B027 (most scorers have no rates)
        """Divide the scorer's rates by the number of processes that use the same account.

        Does nothing by default.

        Args:
            processes: How many processes have a scorer like this one, at least 1.
        """

    def close(self) -> None:  # noqa: B027 (most scorers hold nothing)
        """Release what the scorer holds; you can't use it afterwards. Does nothing by default."""

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        await to_thread(self.close)

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
        # Copies of a component share its scorer.
        return self

    def __copy__(self) -> Self:
        return self


def class_name(kind: type[Scorer]) -> str:
    """Return the full name of a scorer's class, for fingerprints.

    Every script runs as the module `__main__`, so the script's path stands in for it.
    """
    module = kind.__module__
    if module == "__main__":
        module = getattr(sys.modules[module], "__file__", None) or module
    return f"{module}.{kind.__qualname__}"


def check_scorer(scorer: object, expected: str) -> None:
    """Raise InvalidInputError unless the object is a scorer. The message begins with `expected`."""
    if not isinstance(scorer, Scorer):
        raise InvalidInputError(
            f"{expected}, got {type(scorer).__name__}.",
            remedy="Pass a Scorer such as DashScopeScorer().",
        )


def checked(scores: Scores, expected: int, model: str, top_n: int | None = None) -> Scores:
    """Check that there is one finite number per text, and return the scores as floats.

    Args:
        scores: What the scorer returned.
        expected: The number of texts.
        model: The name of the model, for the message.
        top_n: The `top_n` passed to `score_top`; None if `score` was called.

    Raises:
        BadResponseError: The scores are not valid. The error has their usage.
    """
    try:
        return _validated(scores, expected, model, top_n)
    except BadResponseError as error:
        error.usage = scores.usage if isinstance(scores, Scores) else None
        raise


def _validated(scores: Scores, expected: int, model: str, top_n: int | None) -> Scores:
    if not isinstance(scores, Scores):
        raise BadResponseError(
            f"{model} returned {type(scores).__name__} instead of Scores.",
            remedy="Return Scores(values) with a list of floats from the scorer.",
        )
    if scores.indices is not None:
        expected = _checked_top(scores, expected, model, top_n)
    _check_count(scores.values, expected, model)
    for values in (scores.tiers, scores.passages, scores.tie_breakers):
        if values is not None:
            _check_count(values, expected, model)
    if scores.tie_breakers is not None and not _are_finite_floats(scores.tie_breakers):
        scores = replace(scores, tie_breakers=_finite_floats(scores.tie_breakers, model))
    if _are_finite_floats(scores.values):
        return scores
    return replace(scores, values=_finite_floats(scores.values, model))


def _are_finite_floats(values: Sequence[float]) -> bool:
    return set(map(type, values)) <= {float} and all(map(math.isfinite, values))


def _finite_floats(values: Sequence[float], model: str) -> list[float]:
    for index, value in enumerate(values):
        if not is_finite(value):
            raise BadResponseError(f"{model} returned the score {value!r} for text {index}.")
    return list(map(float, values))


def _checked_top(scores: Scores, expected: int, model: str, top_n: int | None) -> int:
    """Check the indices of the best scores, and return how many scores there must be."""
    indices = scores.indices or []
    if top_n is None:
        raise BadResponseError(f"{model} returned {len(indices)} scores for {expected} texts.")
    known = range(expected)
    if len({*indices}) < len(indices) or not all(index in known for index in indices):
        raise BadResponseError(f"{model} returned indices that are out of range or repeated.")
    return min(top_n, expected)


def can_score_top(scorer: Scorer) -> bool:
    """Whether `score_top` may be called: not if a subclass overrides only `score`."""
    own = next(vars(kind) for kind in type(scorer).__mro__ if "score" in vars(kind))
    return "score_top" in own and type(scorer).score is not Scorer.score


def _check_count(values: Sequence[Any], expected: int, model: str) -> None:
    if not isinstance(values, Sequence):
        raise BadResponseError(
            f"{model} returned its scores as {type(values).__name__} instead of a list.",
            remedy="Return a list from the scorer; arrays have tolist().",
        )
    if len(values) != expected:
        raise BadResponseError(f"{model} returned {len(values)} scores for {expected} texts.")


def probabilities(logits: Scores) -> Scores:
    """Turn scores that are logits into probabilities, without making different logits tie."""
    values = list(map(sigmoid, logits.values))
    return replace(logits, values=values, tie_breakers=logits.values)


def sigmoid(logit: float) -> float:
    """Return the probability, in [0, 1], for a logit of any size."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)
    return odds / (1 + odds)

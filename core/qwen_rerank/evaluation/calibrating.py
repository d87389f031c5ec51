"""Choose a min_score from judgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.comparing import best_first_run
from qwen_rerank.evaluation.first_stage import AnyRun
from qwen_rerank.evaluation.packages import import_optional
from qwen_rerank.evaluation.runs import Judgements, Run, judgements_by_query
from qwen_rerank.validation import check_whole, is_finite

if TYPE_CHECKING:
    from qwen_rerank.evaluation.drawing import Plot

__all__ = ["Calibration", "Interval", "calibrate"]

_MAX_BETA = 1e100
"""Beyond this, squares overflow. Only recall counts long before."""


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """A min_score, and what it does to the documents that were ranked.

    Attributes:
        min_score: The score that a document needs in order to be kept.
        precision: The share of relevant documents among those that are kept.
        recall: The share of the relevant documents in the run that are kept.
        min_score_interval: Where the same criterion would put min_score with other queries.
        precision_interval: The precision of this min_score with other queries.
        recall_interval: The recall of this min_score with other queries.
        criterion: How min_score was chosen, in words.
        queries: How many queries have judgements and scores.
        relevant: How many of their documents are relevant.
        kept_relevant: How many of the documents that are kept are relevant.
        others: How many are not, or are not judged.
        kept: How many of all of them are kept.
        curve: For each score in the run, highest first: the score as min_score, the precision, and
            the recall.
        rounds: How many bootstrap samples the intervals come from.
    """

    min_score: float
    precision: float
    recall: float
    min_score_interval: Interval
    precision_interval: Interval
    recall_interval: Interval
    criterion: str
    queries: int
    relevant: int
    kept_relevant: int
    others: int
    kept: int
    curve: Sequence[tuple[float, float, float]]
    rounds: int

    @property
    def code(self) -> str:
        """The line of code that uses it."""
        return f"QwenRerank(min_score={self.min_score!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the curve, ready for JSON."""
        values = asdict(self)
        del values["curve"]
        return {**values, "code": self.code}

    def plot(self) -> Plot:
        """Plot precision and recall by min_score, with the one that was chosen.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        from qwen_rerank.evaluation.plots import plot_calibration

        return plot_calibration(self)

    def __str__(self) -> str:
        rows = (
            ("min_score", repr(self.min_score), self.min_score_interval),
            ("precision", f"{self.precision:.3f}", self.precision_interval),
            ("recall", f"{self.recall:.3f}", self.recall_interval),
        )
        lines = [
            f"{name:<10} {value:>6}   95% interval {low:.3f} to {high:.3f}"
            for name, value, (low, high) in rows
        ]
        documents = self.relevant + self.others
        keeps_all = "It keeps every document: these scores do not separate the relevant ones."
        return "\n".join(
            [
                *lines,
                f"Chosen for {self.criterion}: keeps {self.kept} of {documents} documents, "
                f"{self.kept_relevant} of them relevant; {self.relevant} of the {documents} are "
                f"relevant. Queries: {self.queries}.",
                *([keeps_all] if self.kept == documents else []),
                f"Intervals: {self.rounds:,} bootstrap samples of the queries.",
                "",
                self.code,
            ]
        )


def calibrate(
    run: AnyRun,
    judgements: Judgements,
    *,
    recall: float | None = None,
    beta: float = 1.0,
    rounds: int = 1_000,
    seed: int = 0,
) -> Calibration:
    """Choose the min_score that separates relevant documents from the others.

    By default it maximizes F1, the harmonic mean of precision and recall, over the documents of all
    queries together. Recall counts the relevant documents in the run: no min_score can bring back
    the others. Documents without a judgement count as not relevant, as in the measures.

    The intervals are percentiles of a bootstrap over the queries (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, section 13.3), because the documents of one query are
    not independent.

    Args:
        run: The reranked run, with scores; see `compare`. Use many candidates per query, from the
            scorer and the instruction that you will use.
        judgements: The gains of documents by query id; or rows, such as ir_measures.Qrel.
        recall: Instead of maximizing F1, choose the highest min_score that keeps this share of the
            relevant documents, above 0 and at most 1.
        beta: How many times as important recall is as precision, above 0; not used with `recall`.
        rounds: How many bootstrap samples to draw, at least 1.
        seed: The seed of the samples. The same seed gives the same intervals.

    Raises:
        InvalidInputError: An argument is invalid, or the run has no scores of relevant documents
            or of others.
        MissingDependencyError: numpy is not installed.
    """
    check_whole("rounds", rounds, at_least=1)
    check_whole("seed", seed, at_least=0)
    if not is_finite(beta) or beta <= 0:
        raise InvalidInputError(f"beta must be above 0, got {beta!r}.", remedy="Pass 1.")
    if recall is not None and not (is_finite(recall) and 0 < recall <= 1):
        raise InvalidInputError(
            f"recall must be above 0 and at most 1, got {recall!r}.", remedy="Pass 0.95."
        )
    np = import_optional("numpy", "Calibration")
    scored = _Scored.of(np, best_first_run(run), judgements_by_query(judgements))
    criterion = _Criterion(recall, beta)
    return _calibration(np, scored, criterion, rounds, np.random.default_rng(seed))


@dataclass(frozen=True)
class _Scored:
    """The scored documents of all queries, highest score first, as arrays.

    Attributes:
        scores: The scores.
        gains: Which documents are relevant, as 0 or 1.
        query_numbers: The number of each document's query.
        ends: The positions of the last documents of each score: where the list can be cut.
        queries: How many queries there are.
    """

    scores: Any
    gains: Any
    query_numbers: Any
    ends: Any
    queries: int

    @classmethod
    def of(cls, np: Any, run: Run, judgements: Mapping[str, Mapping[str, int]]) -> _Scored:
        rows = list(_rows(run, judgements))
        relevant = sum(gain for _, gain, _ in rows)
        if not 0 < relevant < len(rows):
            raise InvalidInputError(
                f"The run has {relevant} scores of relevant documents and {len(rows) - relevant} "
                "of others, so there is nothing to separate.",
                remedy="Pass a run with scores, and judgements of its queries and documents.",
            )
        rows.sort(key=lambda row: -row[0])
        scores, gains, numbers = (np.array(column) for column in zip(*rows, strict=True))
        if (scores < 0).all() and (scores == np.round(scores)).all():
            raise InvalidInputError(
                "The run has ranks instead of scores.", remedy="Pass a run in TREC's format."
            )
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        return cls(scores, gains, numbers, ends, int(numbers.max()) + 1)

    def curve(self, np: Any, counts: Any) -> tuple[Any, Any]:
        """Return precision and recall at each end, where each query counts `counts` times."""
        weights = counts[self.query_numbers]
        kept = np.cumsum(weights)[self.ends]
        found = np.cumsum(weights * self.gains)[self.ends]
        return found / np.maximum(kept, 1), found / max(found[-1], 1)

    @property
    def thresholds(self) -> Any:
        """The number halfway from the score at each end to the next score below it."""
        at_ends = self.scores[self.ends]
        halfway = at_ends.copy()
        halfway[:-1] = at_ends[:-1] / 2 + at_ends[1:] / 2  # the sum could overflow
        return halfway

    def short_threshold(self, at: int) -> float:
        """Return the threshold with as few digits, at least two, as keep the same documents."""
        at_ends = self.scores[self.ends]
        lowest, below = float(at_ends[at]), float((*at_ends, float("-inf"))[at + 1])
        halfway = float(self.thresholds[at])
        shorter = (float(f"{halfway:.{digits}g}") for digits in range(2, 17))
        return next((each for each in shorter if below < each <= lowest), lowest)


def _rows(
    run: Run, judgements: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[float, int, int]]:
    """Yield the score, the relevance (0 or 1) and the number of the query of each document."""
    judged = [query_id for query_id in run if query_id in judgements]
    for number, query_id in enumerate(judged):
        gains = judgements[query_id]
        for document_id, score in run[query_id].items():
            if score is not None:
                yield float(score), int(gains.get(document_id, 0) > 0), number


@dataclass(frozen=True)
class _Criterion:
    """Chooses a point on a curve of precision and recall."""

    recall: float | None
    beta: float

    def best(self, np: Any, precision: Any, recall: Any) -> int:
        """Return the index of the point; of equal ones, that with the highest min_score."""
        if self.recall is not None:
            return int(np.argmax(recall >= self.recall - 1e-9))
        weight = min(self.beta, _MAX_BETA) ** 2
        bottom = np.maximum(weight * precision + recall, 1e-12)
        return int(np.argmax((1 + weight) * precision * recall / bottom))

    def __str__(self) -> str:
        if self.recall is not None:
            return f"the highest min_score with a recall of at least {self.recall:g}"
        return f"the highest F{self.beta:g}"


def _calibration(
    np: Any, scored: _Scored, criterion: _Criterion, rounds: int, generator: Any
) -> Calibration:
    once = np.ones(scored.queries, dtype=int)
    precision, recall = scored.curve(np, once)
    best = criterion.best(np, precision, recall)
    relevant = int(scored.gains.sum())
    intervals = _intervals(np, scored, criterion, best, rounds, generator)
    curve = zip(scored.scores[scored.ends], precision, recall, strict=True)
    return Calibration(
        min_score=scored.short_threshold(best),
        precision=float(precision[best]),
        recall=float(recall[best]),
        min_score_interval=intervals[0],
        precision_interval=intervals[1],
        recall_interval=intervals[2],
        criterion=str(criterion),
        queries=scored.queries,
        relevant=relevant,
        kept_relevant=round(float(recall[best]) * relevant),
        others=len(scored.scores) - relevant,
        kept=int(scored.ends[best]) + 1,
        curve=[(float(score), float(p), float(r)) for score, p, r in curve],
        rounds=rounds,
    )


def _intervals(
    np: Any, scored: _Scored, criterion: _Criterion, best: int, rounds: int, generator: Any
) -> list[Interval]:
    """Return the intervals of the threshold, and of precision and recall at the best point."""
    thresholds = scored.thresholds
    samples: list[tuple[Any, Any, Any]] = []
    while len(samples) < rounds:
        drawn = generator.integers(0, scored.queries, scored.queries)
        precision, recall = scored.curve(np, np.bincount(drawn, minlength=scored.queries))
        if recall[-1]:  # else no query with a relevant document was drawn: draw again
            at = criterion.best(np, precision, recall)
            samples.append((thresholds[at], precision[best], recall[best]))
    lows, highs = np.percentile(samples, (2.5, 97.5), axis=0)
    return [Interval(float(low), float(high)) for low, high in zip(lows, highs, strict=True)]

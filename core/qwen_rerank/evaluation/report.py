"""Report: what was measured, by run, measure and query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation import plots, tables
from qwen_rerank.evaluation.measuring import parsed
from qwen_rerank.evaluation.packages import needed
from qwen_rerank.evaluation.runs import Run
from qwen_rerank.evaluation.significance import randomisation_test
from qwen_rerank.scorers.base import Usage

if TYPE_CHECKING:
    import pandas
    from ir_measures import Measure

    from qwen_rerank.evaluation.drawing import Plot

__all__ = ["DEFAULT_MEASURES", "Comparison", "Report"]

DEFAULT_MEASURES = ("nDCG@10", "RR", "R@10")
"""The order of the first ten by their gains; the first relevant one's place; how many are found."""

T = TypeVar("T")

_NO_CHANGE = 1e-9
"""What two values may differ by and be the same: rounding."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run beside another by one measure.

    Attributes:
        measure: The measure's name.
        baseline: The name of the run to compare with.
        run: The name of the run that is compared.
        before: The baseline's mean over the queries.
        after: The run's mean over the queries.
        better: Queries whose value is higher than in the baseline.
        same: Queries whose value is the same.
        worse: Queries whose value is lower.
        p_value: See `randomisation_test`.
    """

    measure: str
    baseline: str
    run: str
    before: float
    after: float
    better: int
    same: int
    worse: int
    p_value: float

    @property
    def gain(self) -> float:
        """How much the mean has risen; negative where it has fallen."""
        return self.after - self.before


@dataclass(frozen=True, repr=False)
class Report:
    """What was measured. `str()` and a notebook's cell show it as a table.

    Where a method takes a run and a baseline, they are the second and the first run by default.

    Attributes:
        runs: The runs by their names; the first is what the others are compared with. `compare` and
            `perfect` take them again, in their order whatever the scores are.
        values: By run, measure and query id the value.
        judgements: By query id the gains of documents, for the queries that were measured.
        queries: Those queries' texts by their ids; "" where the text is not known.
        usage: What reranking cost; None where that is not known.
        notes: What to know of the figures: what was left out, or counted as nothing.
        rounds: Rounds of the randomisation test.
        seed: What its signs are drawn from.
    """

    runs: Mapping[str, Run]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    judgements: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, str]
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    rounds: int = 10_000
    seed: int = 0

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(next(iter(self.values.values())))

    def mean(self, measure: str | Measure, run: str) -> float:
        """The mean over the queries.

        Raises:
            InvalidInputError: There is no such measure or run.
        """
        return fmean(self._values(measure, run).values())

    def gains(
        self, measure: str | Measure, run: str | None = None, baseline: str | None = None
    ) -> dict[str, float]:
        """By query id how much higher the run's value is than the baseline's, highest first.

        Raises:
            InvalidInputError: There is no such measure or run, or only one run.
        """
        baseline, run = self._pair(run, baseline)
        before, after = self._values(measure, baseline), self._values(measure, run)
        gains = {query_id: after[query_id] - before[query_id] for query_id in before}
        return dict(sorted(gains.items(), key=lambda item: -item[1]))

    def comparison(
        self, measure: str | Measure, run: str | None = None, baseline: str | None = None
    ) -> Comparison:
        """The run beside the baseline, with a paired randomisation test.

        Raises:
            InvalidInputError: There is no such measure or run, or only one run.
        """
        baseline, run = self._pair(run, baseline)
        gains = self.gains(measure, run, baseline)
        # In the queries' order, whatever the gains are, so that the same signs meet the same ones.
        differences = [gains[query_id] for query_id in self.queries]
        better = sum(gain > _NO_CHANGE for gain in differences)
        worse = sum(gain < -_NO_CHANGE for gain in differences)
        return Comparison(
            measure=self._measure(measure),
            baseline=baseline,
            run=run,
            before=self.mean(measure, baseline),
            after=self.mean(measure, run),
            better=better,
            same=len(differences) - better - worse,
            worse=worse,
            p_value=randomisation_test(differences, rounds=self.rounds, seed=self.seed),
        )

    def comparisons(self) -> list[Comparison]:
        """Every run but the first beside the first, by every measure."""
        baseline, *others = self.runs
        return [
            self.comparison(measure, run, baseline) for measure in self.measures for run in others
        ]

    def only(self, query_ids: Iterable[str]) -> Report:
        """The report of a part of the queries, such as those in one language; without the usage.

        Raises:
            InvalidInputError: A query that was not measured, or none at all.
        """
        wanted = dict.fromkeys(map(str, query_ids))
        if unknown := [id_ for id_ in wanted if id_ not in self.queries]:
            raise InvalidInputError(f"The query {unknown[0]!r} was not measured.")
        if not wanted:
            raise InvalidInputError("There is no query to report.")
        return replace(
            self,
            runs={name: _part(run, wanted) for name, run in self.runs.items()},
            values={
                name: {measure: _part(values, wanted) for measure, values in by_measure.items()}
                for name, by_measure in self.values.items()
            },
            judgements=_part(self.judgements, wanted),
            queries=_part(self.queries, wanted),
            usage=None,
            notes=(f"{len(wanted)} of {len(self.queries)} queries.",),
        )

    def to_dict(self) -> dict[str, Any]:
        """The means, the comparisons, every query's values and the usage, as JSON has them."""
        return {
            "runs": list(self.runs),
            "queries": len(self.queries),
            "measures": {
                measure: {run: self.mean(measure, run) for run in self.runs}
                for measure in self.measures
            },
            "comparisons": [{**asdict(found), "gain": found.gain} for found in self.comparisons()],
            "per_query": self.values,
            "usage": None if self.usage is None else asdict(self.usage),
            "notes": list(self.notes),
        }

    def to_pandas(self) -> pandas.DataFrame:
        """A row a query, by its id; a column a measure and run.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pd = needed("pandas", "A data frame")
        columns = {
            (measure, run): self.values[run][measure]
            for measure in self.measures
            for run in self.runs
        }
        frame: pandas.DataFrame = pd.DataFrame(columns, index=list(self.queries))
        frame.columns.names = ["measure", "run"]
        return frame.rename_axis("query")

    def plot_gains(
        self,
        measure: str | Measure | None = None,
        run: str | None = None,
        baseline: str | None = None,
    ) -> Plot:
        """A bar a query: how much the run gains on the baseline.

        Args:
            measure: The measure; the first if None.
            run: The run; the second if None.
            baseline: The run to compare with; the first if None.

        Raises:
            InvalidInputError: There is no such measure or run, or only one run.
            MissingDependencyError: matplotlib is not installed.
        """
        return plots.gains(self, self.comparison(measure or self.measures[0], run, baseline))

    def plot_ranks(
        self,
        query_id: str,
        run: str | None = None,
        baseline: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        top: int = 10,
    ) -> Plot:
        """For one query, a line a document from its place in the baseline to that in the run.

        Args:
            query_id: The query's id.
            run: The run; the second if None.
            baseline: The run to compare with; the first if None.
            labels: By document id what to call it, such as its title; the id itself otherwise.
            top: Documents are shown that are among the first so many in either run.

        Raises:
            InvalidInputError: The query was not measured; there is no such run, or only one; `top`
                is no whole number of at least 1.
            MissingDependencyError: matplotlib is not installed.
        """
        query_id = str(query_id)
        if query_id not in self.queries:
            raise InvalidInputError(f"The query {query_id!r} was not measured.")
        baseline, run = self._pair(run, baseline)
        return plots.ranks(self, query_id, baseline, run, labels or {}, top)

    def plot_scores(self, run: str | None = None) -> Plot:
        """How the scores of relevant documents are distributed, and those of the others.

        Args:
            run: The run; the last if None.

        Raises:
            InvalidInputError: The run has no scores, or none of relevant documents.
            MissingDependencyError: matplotlib is not installed.
        """
        return plots.scores(self, self._known(run or list(self.runs)[-1]))

    def __str__(self) -> str:
        return tables.as_text(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.runs)}: {', '.join(self.measures)})"

    def _repr_html_(self) -> str:
        return tables.as_html(self)

    def _values(self, measure: str | Measure, run: str) -> Mapping[str, float]:
        return self.values[self._known(run)][self._measure(measure)]

    def _measure(self, measure: str | Measure) -> str:
        """The name by which the measure is known here, where it may have several, as MRR has."""
        name = str(measure)
        if name not in self.measures:
            (name,) = map(str, parsed([measure]))
        if name not in self.measures:
            raise InvalidInputError(
                f"{name} was not measured.", remedy=f"There are {', '.join(self.measures)}."
            )
        return name

    def _pair(self, run: str | None, baseline: str | None) -> tuple[str, str]:
        names = list(self.runs)
        if len(names) < 2:
            raise InvalidInputError(f"There is no run beside {names[0]!r} to compare.")
        return self._known(baseline or names[0]), self._known(run or names[1])

    def _known(self, run: str) -> str:
        if run in self.runs:
            return run
        raise InvalidInputError(
            f"There is no run {run!r}.", remedy=f"There are {', '.join(self.runs)}."
        )


def _part(whole: Mapping[str, T], wanted: Iterable[str]) -> dict[str, T]:
    return {query_id: whole[query_id] for query_id in wanted if query_id in whole}

"""The result of an evaluation: values by run, measure and query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.html import PageContent, page
from qwen_rerank.evaluation.measuring import parse_measures
from qwen_rerank.evaluation.packages import import_optional
from qwen_rerank.evaluation.plots import RankChanges, plot_gains, plot_scores
from qwen_rerank.evaluation.runs import Run, texts_by_id
from qwen_rerank.evaluation.significance import Comparison, compare_values
from qwen_rerank.evaluation.tables import (
    Row,
    as_html,
    as_text,
    baseline_row,
    caption,
    comparison_row,
)
from qwen_rerank.scorers.base import Passage, Usage
from qwen_rerank.validation import check_whole

if TYPE_CHECKING:
    import pandas
    from ir_measures import Measure

    from qwen_rerank.evaluation.drawing import Plot

__all__ = ["DEFAULT_MEASURES", "Report"]

DEFAULT_MEASURES = ("nDCG@10", "RR", "R@10")
"""The order of the top ten by gain, the rank of the first relevant document, and the share of
relevant documents in the top ten."""

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Report:
    """The values of measures. `str()` and a notebook cell show them as a table.

    Methods that take a run and a baseline use the second and the first run by default.

    Attributes:
        runs: The runs by name; the others are compared with the first. You can pass them to
            `compare` and `perfect` again: they keep their order, whatever the scores are.
        values: The values by run, measure and query id.
        judgements: The gains of documents, by the ids of the measured queries.
        queries: The texts of the measured queries by id; "" if a text is not known.
        usage: What reranking cost; None if that is not known.
        notes: What was left out, or counts as 0.
        rounds: How many rounds the randomisation test runs.
        seed: The seed of its random signs.
        passages: The passages that scores belong to, by run, query id and document id, where the
            texts were chunked.
    """

    runs: Mapping[str, Run]
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    judgements: Mapping[str, Mapping[str, int]]
    queries: Mapping[str, str]
    usage: Usage | None = None
    notes: tuple[str, ...] = ()
    rounds: int = 10_000
    seed: int = 0
    passages: Mapping[str, Mapping[str, Mapping[str, Passage]]] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the measures."""
        return tuple(next(iter(self.values.values())))

    def mean(self, measure: str | Measure, run: str) -> float:
        """Return the mean over the queries.

        Raises:
            InvalidInputError: The report does not have the measure or the run.
        """
        return fmean(self._values(measure, run).values())

    def gains(
        self, measure: str | Measure, run: str | None = None, baseline: str | None = None
    ) -> dict[str, float]:
        """Return how much higher each query's value is than in the baseline, highest first.

        Raises:
            InvalidInputError: The report does not have the measure or the run, or has only one run.
        """
        baseline, run = self._baseline_and_run(run, baseline)
        before, after = self._values(measure, baseline), self._values(measure, run)
        gains = {query_id: after[query_id] - before[query_id] for query_id in before}
        return dict(sorted(gains.items(), key=lambda item: -item[1]))

    def comparison(
        self, measure: str | Measure, run: str | None = None, baseline: str | None = None
    ) -> Comparison:
        """Compare the run with the baseline, with a paired randomisation test.

        Raises:
            InvalidInputError: The report does not have the measure or the run, or has only one run.
        """
        baseline, run = self._baseline_and_run(run, baseline)
        return compare_values(
            self._measure_name(measure),
            (baseline, self._values(measure, baseline)),
            (run, self._values(measure, run)),
            rounds=self.rounds,
            seed=self.seed,
        )

    def comparisons(self) -> list[Comparison]:
        """Compare every other run with the first, by every measure."""
        baseline, *others = self.runs
        return [
            self.comparison(measure, run, baseline) for measure in self.measures for run in others
        ]

    def only(self, query_ids: Iterable[str]) -> Report:
        """Return the report of some of the queries, such as those in one language, without usage.

        Raises:
            InvalidInputError: A query was not measured, or there are no queries.
        """
        if isinstance(query_ids, str) or not isinstance(query_ids, Iterable):
            raise InvalidInputError(f"query_ids must be a list of ids, got {query_ids!r:.60}.")
        wanted = dict.fromkeys(map(str, query_ids))
        for query_id in wanted:
            self._check_measured(query_id)
        if not wanted:
            raise InvalidInputError("There is no query to report.")
        return replace(
            self,
            runs={name: _select(run, wanted) for name, run in self.runs.items()},
            values={
                name: {measure: _select(values, wanted) for measure, values in by_measure.items()}
                for name, by_measure in self.values.items()
            },
            judgements=_select(self.judgements, wanted),
            queries=_select(self.queries, wanted),
            usage=None,
            passages={name: _select(each, wanted) for name, each in self.passages.items()},
            notes=(f"{len(wanted)} of {len(self.queries)} queries.",),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the means, comparisons, values per query, usage and notes, ready for JSON."""
        return {
            "runs": list(self.runs),
            "queries": len(self.queries),
            "measures": {
                measure: {run: self.mean(measure, run) for run in self.runs}
                for measure in self.measures
            },
            "comparisons": [
                {**asdict(comparison), "gain": comparison.gain} for comparison in self.comparisons()
            ],
            "per_query": self.values,
            "usage": None if self.usage is None else asdict(self.usage),
            "notes": list(self.notes),
        }

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with one row per query id, and one column per measure and run.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        pd = import_optional("pandas", "A data frame")
        columns = {
            (measure, run): self.values[run][measure]
            for measure in self.measures
            for run in self.runs
        }
        frame: pandas.DataFrame = pd.DataFrame(columns, index=list(self.queries))
        frame.columns.names = ["measure", "run"]
        return frame.rename_axis("query")

    def to_html(
        self,
        *,
        documents: Mapping[str, str] | None = None,
        languages: Mapping[str, str] | None = None,
        depth: int = 50,
        title: str = "Reranking report",
    ) -> str:
        """Return a page to look at every query: what moved, and why.

        The page is one file that loads nothing, so you can open it from disk, store it or send it.
        It has the table of means, histograms, a table of the queries to sort and filter, and the
        rankings of each query side by side. Save it with
        `Path("report.html").write_text(report.to_html(), encoding="utf-8")`.

        Args:
            documents: The texts of documents by id. Without them, the page has only their ids.
            languages: The languages of queries by id, to filter by. By default, queries are
                grouped by their script, such as Latin.
            depth: How many documents of each ranking to include, at least 1.
            title: The heading.

        Raises:
            InvalidInputError: An argument is invalid.
        """
        check_whole("depth", depth, at_least=1)
        if not isinstance(title, str):
            raise InvalidInputError(f"title must be a string, got {title!r:.60}.")
        return page(
            PageContent(
                title=title,
                summary=self._sections(),
                sentences=self._caption(),
                runs=self.runs,
                values=self.values,
                judgements=self.judgements,
                queries=self.queries,
                documents=texts_by_id(documents or {}, "documents"),
                passages=self.passages,
                languages=None if languages is None else texts_by_id(languages, "languages"),
                depth=depth,
            )
        )

    def plot_gains(
        self,
        measure: str | Measure | None = None,
        run: str | None = None,
        baseline: str | None = None,
    ) -> Plot:
        """Plot one bar per query: how much the run gains on the baseline.

        Args:
            measure: The measure; None for the first.
            run: The run; None for all others, one panel each.
            baseline: The run to compare with; None for the first.

        Raises:
            InvalidInputError: The report does not have the measure or the run, or has only one run.
            MissingDependencyError: matplotlib is not installed.
        """
        baseline, second = self._baseline_and_run(run, baseline)
        compared = []
        for name in self._others(baseline) if run is None else [second]:
            comparison = self.comparison(measure or self.measures[0], name, baseline)
            compared.append((comparison, self.gains(comparison.measure, name, baseline)))
        return plot_gains(compared)

    def plot_ranks(
        self,
        query_id: str,
        run: str | None = None,
        baseline: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        top: int = 10,
    ) -> Plot:
        """Plot one line per document of a query, from its rank in the baseline to its rank in the
        run, or through its ranks in all other runs.

        Args:
            query_id: The id of the query.
            run: The run; None for all others.
            baseline: The run to compare with; None for the first.
            labels: What to call documents, such as their titles, by id; by default their ids.
            top: How many of the first documents of each run to show.

        Raises:
            InvalidInputError: The query was not measured; the report does not have the run, or has
                only one run; or `top` is not an integer of at least 1.
            MissingDependencyError: matplotlib is not installed.
        """
        query_id = str(query_id)
        self._check_measured(query_id)
        baseline, second = self._baseline_and_run(run, baseline)
        names = [baseline, *(self._others(baseline) if run is None else [second])]
        return RankChanges(
            query_id=query_id,
            query=self.queries[query_id],
            rankings={name: self.runs[name].get(query_id, {}) for name in names},
            gains=self.judgements[query_id],
            labels=texts_by_id(labels or {}, "labels"),
            top=top,
        ).plot()

    def plot_scores(self, run: str | None = None) -> Plot:
        """Plot the score distributions of relevant documents and of all others.

        Args:
            run: The run; None for the last.

        Raises:
            InvalidInputError: The run has no scores, or no scores of relevant documents.
            MissingDependencyError: matplotlib is not installed.
        """
        name = self._run_name(run or list(self.runs)[-1])
        relevant: list[float] = []
        others: list[float] = []
        for query_id, ranking in self.runs[name].items():
            gains = self.judgements[query_id]
            for document_id, score in ranking.items():
                if score is not None:
                    (relevant if gains.get(document_id, 0) > 0 else others).append(score)
        return plot_scores(name, relevant, others)

    def __str__(self) -> str:
        return as_text(self._sections(), self._caption())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.runs)}: {', '.join(self.measures)})"

    def _repr_html_(self) -> str:
        return as_html(self._sections(), self._caption())

    def _sections(self) -> list[list[Row]]:
        """Return each measure's table rows, the first run's first."""
        baseline, *others = self.runs
        return [
            [
                baseline_row(measure, baseline, self.mean(measure, baseline)),
                *(comparison_row(self.comparison(measure, run, baseline)) for run in others),
            ]
            for measure in self.measures
        ]

    def _caption(self) -> list[str]:
        return list(
            caption(
                list(self.runs),
                queries=len(self.queries),
                measures=len(self.measures),
                notes=self.notes,
            )
        )

    def _values(self, measure: str | Measure, run: str) -> Mapping[str, float]:
        return self.values[self._run_name(run)][self._measure_name(measure)]

    def _measure_name(self, measure: str | Measure) -> str:
        """Return the name the report has for a measure that may have several, such as MRR."""
        name = str(measure)
        if name not in self.measures:
            (name,) = map(str, parse_measures([measure]))
        if name not in self.measures:
            raise InvalidInputError(
                f"{name} was not measured.", remedy=f"Choose one of {', '.join(self.measures)}."
            )
        return name

    def _baseline_and_run(self, run: str | None, baseline: str | None) -> tuple[str, str]:
        names = list(self.runs)
        if len(names) < 2:
            raise InvalidInputError(
                f"{names[0]!r} is the only run; there is no other to compare it with."
            )
        return self._run_name(baseline or names[0]), self._run_name(run or names[1])

    def _others(self, baseline: str) -> list[str]:
        return [name for name in self.runs if name != baseline]

    def _run_name(self, run: str) -> str:
        if isinstance(run, str) and run in self.runs:
            return run
        raise InvalidInputError(
            f"There is no run {run!r}.", remedy=f"Choose one of {', '.join(self.runs)}."
        )

    def _check_measured(self, query_id: str) -> None:
        if query_id not in self.queries:
            raise InvalidInputError(f"The query {query_id!r} was not measured.")


def _select(by_query: Mapping[str, T], wanted: Iterable[str]) -> dict[str, T]:
    return {query_id: by_query[query_id] for query_id in wanted if query_id in by_query}

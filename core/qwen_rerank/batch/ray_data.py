"""Rerank a Ray Data dataset on a pool of actors. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from qwen_rerank.batch.many import rerank_many
from qwen_rerank.batch.work import OnError
from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.inputs.fields import RerankField
from qwen_rerank.ranking.engine import RerankEngine
from qwen_rerank.ranking.records import Record
from qwen_rerank.ranking.result import Ranking
from qwen_rerank.scorers.base import Scorer, check_scorer
from qwen_rerank.usage import Usage
from qwen_rerank.validation import check_choice, check_top_n, check_whole

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

__all__ = ["Concurrency", "UsageTotal", "imported_ray", "rerank_dataset"]

Concurrency: TypeAlias = int | tuple[int, int]
"""A number of actors, or the least and the most of a pool that grows and shrinks."""

_TEXT = "text"
"""The field of a record that has a document which is a text."""


class UsageTotal:
    """What a job has cost, summed over all actors.

    It counts every call, also those that were repeated because a node was lost. It lives as long as
    the driver, in an actor on the driver's node. Ray must be running.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
    """

    def __init__(self) -> None:
        ray = imported_ray()
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        self._sum = ray.remote(_Sum).options(num_cpus=0, scheduling_strategy=here).remote()

    def add(self, usage: Usage) -> None:
        """Add what a batch has cost. It does not wait."""
        self._sum.add.remote(usage)

    @property
    def value(self) -> Usage:
        """The total so far."""
        total: Usage = imported_ray().get(self._sum.value.remote())
        return total


class _Sum:
    """The actor of a `UsageTotal`."""

    def __init__(self) -> None:
        self._usage = Usage()

    def add(self, usage: Usage) -> None:
        self._usage += usage

    def value(self) -> Usage:
        return self._usage


def rerank_dataset(
    ds: Dataset,
    scorer: Callable[[], Scorer],
    *,
    query: str = "query",
    documents: str = "documents",
    rerank_field: RerankField = _TEXT,
    top_n: int | None = None,
    concurrency: Concurrency = 1,
    num_cpus: float = 0,
    num_gpus: float | None = None,
    on_error: OnError = "raise",
    batch_size: int = 16,
    max_concurrency: int = 8,
    usage: UsageTotal | None = None,
) -> Dataset:
    """Rerank the documents of each row of a Ray Data dataset.

    It is a `map_batches` over a pool of actors, each with a scorer of its own. Like every Ray Data
    transformation, it starts when the result is consumed. Rows that were being scored on a lost
    node are scored again on another one.

    Args:
        ds: A row per query, with the query and the list of its documents: texts, or mappings.
        scorer: A class or a function without arguments that creates the scorer in the actor, such
            as `EmbeddedScorer` or `lambda: DashScopeScorer("qwen3-rerank")`. An API key should come
            from the environment of the nodes. The scorer's `requests_per_minute` and
            `tokens_per_minute` are the whole job's: each actor gets an equal share, or all actors
            share them through the scorer's `rates_store`.
        query: The column with the query.
        documents: The column with the list of documents.
        rerank_field: Where the text of a document is that is a mapping; see `RerankEngine`.
        top_n: How many documents of each row to keep, at least 1; None for all.
        concurrency: The number of actors, or the least and the most of them.
        num_cpus: How many CPUs an actor reserves. The default suits scorers that wait for a service
            or a GPU. With more, leave CPUs free: without one, Ray can neither read nor write, and
            waits. A job that continues from a checkpoint needs another one.
        num_gpus: How many GPUs an actor reserves, such as 1 for LocalScorer; None for none.
        on_error: `"raise"` fails the job at the first row that can't be ranked. `"keep"` adds a
            column `error`, None for rows that were ranked; other rows keep their documents.
        batch_size: How many rows an actor gets at once, at least 1.
        max_concurrency: How many of them it scores at the same time, at least 1.
        usage: Adds up what the job costs; None not to count it.

    Returns:
        A dataset with the same rows. `documents` is in the order of the scores and cut to `top_n`,
        and `relevance_scores` has their scores: None for documents without text, which come last.

    Raises:
        InvalidInputError: An argument is invalid.
        MissingDependencyError: The extra `ray` is not installed.
    """
    pool = _pool(concurrency)
    check_top_n(top_n)
    check_whole("batch_size", batch_size, at_least=1)
    check_whole("max_concurrency", max_concurrency, at_least=1)
    check_choice("on_error", on_error, get_args(OnError))
    if not callable(scorer) or isinstance(scorer, Scorer):
        raise InvalidInputError(
            f"scorer must be a class or a function that creates a scorer, got {scorer!r}.",
            remedy="Pass for example EmbeddedScorer, or lambda: DashScopeScorer().",
        )
    settings = _Settings(
        scorer=scorer,
        processes=max(concurrency) if isinstance(concurrency, tuple) else concurrency,
        query=query,
        documents=documents,
        rerank_field=rerank_field,
        top_n=top_n,
        on_error=on_error,
        max_concurrency=max_concurrency,
        usage=usage,
    )
    return ds.map_batches(
        _Actor,
        fn_constructor_args=(settings,),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
    )


def _pool(concurrency: Concurrency) -> Any:
    """Return Ray's description of the pool of actors."""
    strategy = imported_ray().data.ActorPoolStrategy
    least, most = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    for size in (least, most):
        check_whole("concurrency", size, at_least=1)
    return strategy(size=most) if least == most else strategy(min_size=least, max_size=most)


@dataclass(frozen=True, slots=True)
class _Settings:
    """The arguments of `rerank_dataset` that an actor needs."""

    scorer: Callable[[], Scorer]
    processes: int
    query: str
    documents: str
    rerank_field: RerankField
    top_n: int | None
    on_error: OnError
    max_concurrency: int
    usage: UsageTotal | None


class _Actor:
    """Reranks batches of rows with a scorer of its own."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        scorer = settings.scorer()
        check_scorer(scorer, "scorer must create a Scorer")
        scorer.share_rates(settings.processes)
        self._engine = RerankEngine(scorer, rerank_field=settings.rerank_field, missing="keep")

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        settings = self._settings
        columns = (batch.column(name).to_pylist() for name in (settings.query, settings.documents))
        rows = [(query, list(documents or [])) for query, documents in zip(*columns, strict=True)]
        with rerank_many(
            self._engine,
            ((str(index), query, _records(docs)) for index, (query, docs) in enumerate(rows)),
            top_n=settings.top_n,
            on_error=settings.on_error,
            max_concurrency=settings.max_concurrency,
        ) as rankings:
            try:
                results = [result for _, result in rankings]
            finally:
                if settings.usage is not None:
                    settings.usage.add(rankings.usage)
        return self._table(batch, [documents for _, documents in rows], results)

    def _table(
        self,
        batch: pyarrow.Table,
        documents: Sequence[list[Any]],
        results: Sequence[Ranking | Exception],
    ) -> pyarrow.Table:
        import pyarrow as pa

        name = self._settings.documents
        field = batch.schema.field(name)
        ordered = [
            [own[int(record.id)] for record in result] if isinstance(result, Ranking) else own
            for own, result in zip(documents, results, strict=True)
        ]
        scores = [
            [record.score for record in result] if isinstance(result, Ranking) else None
            for result in results
        ]
        table = batch.set_column(
            batch.schema.get_field_index(name), field, pa.array(ordered, field.type)
        )
        table = table.append_column("relevance_scores", pa.array(scores, pa.list_(pa.float64())))
        if self._settings.on_error == "raise":
            return table
        errors = [str(result) if isinstance(result, Exception) else None for result in results]
        return table.append_column("error", pa.array(errors, pa.string()))


def _records(documents: Sequence[Any]) -> list[Record]:
    """Return a record per document, whose id is its index."""
    return [
        Record(str(index), document if isinstance(document, Mapping) else {_TEXT: document})
        for index, document in enumerate(documents)
    ]


def imported_ray() -> Any:
    """Return the package ray.

    Raises:
        MissingDependencyError: The extra `ray` is not installed.
    """
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"Working with Ray needs the package {error.name} ({error}).",
            remedy='Install it: pip install "qwen-rerank[ray]"',
        ) from error
    return ray

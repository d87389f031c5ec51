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

_SCORES, _ERROR = "relevance_scores", "error"
"""The columns that are added."""


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
        ds: A row per query, with the query and the list of its documents: texts, or mappings. The
            list can also be a NumPy array, as pandas reads it from Parquet.
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
        `relevance_scores`, and `error` with `on_error="keep"`, replace columns with that name, so
        that a dataset can be reranked again.

    Raises:
        InvalidInputError: An argument is invalid. While the result is consumed, Ray raises it if
            the dataset does not have a column, or if documents are not a list.
        MissingDependencyError: The extra `ray` is not installed.
    """
    pool = _pool(concurrency)
    _check_columns(query=query, documents=documents)
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
    sizes = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    for size in sizes:
        check_whole("concurrency", size, at_least=1)
    if len(sizes) != 2 or sizes[0] > sizes[1]:
        raise InvalidInputError(
            f"concurrency must be a number of actors, or the least and the most, got {sizes}.",
            remedy="Pass for example concurrency=(1, 4).",
        )
    least, most = sizes
    return strategy(size=most) if least == most else strategy(min_size=least, max_size=most)


def _check_columns(**columns: str) -> None:
    """Raise InvalidInputError unless each column has a name that no other one has."""
    others = [_SCORES, _ERROR]
    for argument, name in columns.items():
        if not isinstance(name, str) or name in others:
            raise InvalidInputError(
                f"{argument} must be the name of a column, and not {', '.join(map(repr, others))}, "
                f"got {name!r}."
            )
        others.append(name)


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
        self._engine: RerankEngine | Exception
        try:
            self._engine = _engine(settings)
        except Exception as error:  # raised later: Ray would hide it in its report of a dead actor
            self._engine = error

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        if isinstance(self._engine, Exception):
            raise self._engine
        settings = self._settings
        queries = _column(batch, settings.query).to_pylist()
        column = _column(batch, settings.documents)
        documents = [_listed(value, settings.documents) for value in column.to_pylist()]
        type_ = _result_type(column.type, documents, settings.documents)
        with rerank_many(
            self._engine,
            (
                (str(index), query, _records(own or ()))
                for index, (query, own) in enumerate(zip(queries, documents, strict=True))
            ),
            top_n=settings.top_n,
            on_error=settings.on_error,
            max_concurrency=settings.max_concurrency,
        ) as rankings:
            try:
                results = [result for _, result in rankings]
            finally:
                if settings.usage is not None:
                    settings.usage.add(rankings.usage)
        return self._table(batch, type_, documents, results)

    def _table(
        self,
        batch: pyarrow.Table,
        type_: pyarrow.DataType,
        documents: Sequence[list[Any] | None],
        results: Sequence[Ranking | Exception],
    ) -> pyarrow.Table:
        import pyarrow as pa

        ordered = [
            [own[int(record.id)] for record in result]
            if own and isinstance(result, Ranking)
            else own
            for own, result in zip(documents, results, strict=True)
        ]
        scores = [
            [record.score for record in result] if isinstance(result, Ranking) else None
            for result in results
        ]
        table = _with_column(batch, self._settings.documents, pa.array(ordered, type_))
        table = _with_column(table, _SCORES, pa.array(scores, pa.list_(pa.float64())))
        if self._settings.on_error == "raise":
            return table
        errors = [str(result) if isinstance(result, Exception) else None for result in results]
        return _with_column(table, _ERROR, pa.array(errors, pa.string()))


def _engine(settings: _Settings) -> RerankEngine:
    scorer = settings.scorer()
    check_scorer(scorer, "scorer must create a Scorer")
    scorer.share_rates(settings.processes)
    return RerankEngine(scorer, rerank_field=settings.rerank_field, missing="keep")


def _column(table: pyarrow.Table, name: str) -> pyarrow.ChunkedArray:
    if name not in table.column_names:
        names = ", ".join(map(repr, table.column_names))
        raise InvalidInputError(f"The dataset has no column {name!r}; it has {names}.")
    return table.column(name)


def _with_column(table: pyarrow.Table, name: str, values: pyarrow.Array) -> pyarrow.Table:
    """Return the table with a column, in the place of the one with that name if there is one."""
    index = table.schema.get_field_index(name)
    if index < 0:
        return table.append_column(name, values)
    return table.set_column(index, name, values)


def _listed(value: Any, name: str) -> list[Any] | None:
    """Return the documents of a row; Ray makes NumPy arrays of some columns."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is not None and not isinstance(value, list | tuple):
        raise _not_lists(name, f"{value!r:.60}")
    return None if value is None else list(value)


def _not_lists(name: str, got: str) -> InvalidInputError:
    return InvalidInputError(
        f"The column {name!r} must have lists of documents, got {got}.",
        remedy="Pass the name of the column with the lists, and a list also for one document.",
    )


def _result_type(
    type_: pyarrow.DataType, documents: Sequence[list[Any] | None], name: str
) -> pyarrow.DataType:
    """Return the type of the reranked documents: that of the column, unless top_n can't cut it."""
    import pyarrow as pa

    if pa.types.is_map(type_):
        raise _not_lists(name, str(type_))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(type_.value_field)
    if pa.types.is_nested(type_) or pa.types.is_null(type_):
        return type_
    try:
        return pa.array(documents).type
    except pa.ArrowException as error:
        raise InvalidInputError(
            f"The documents in the column {name!r} have different types, so they can't be a column "
            f"of the result: {error}.",
            remedy="Pass only texts, or only mappings whose fields have the same types.",
        ) from error


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

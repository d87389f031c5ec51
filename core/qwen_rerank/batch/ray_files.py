"""Runs, queries and corpora in files as Ray Data datasets. Needs the extra `ray`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_rerank.batch.candidates import read_entries
from qwen_rerank.batch.journal import ScoredIds
from qwen_rerank.batch.ray_data import imported_ray
from qwen_rerank.batch.run_file import write_run
from qwen_rerank.datasets import parse_line, read_lines, template_reader, text_parser
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.templates import is_template
from qwen_rerank.validation import check_top_n

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

__all__ = ["QUERIES_PER_BLOCK", "Files", "read_candidates", "write_rows", "write_trec"]

Files: TypeAlias = str | PathLike[str] | Sequence[str | PathLike[str]]
"""A file, or several; for Parquet, also a folder or a URI such as `s3://…`."""

QUERIES_PER_BLOCK = 64
"""How many queries a block has: what an actor gets at once, and what is checkpointed together."""

_PAIR_COLUMNS = ["query_id", "document_id", "rank"]
"""What a run in Parquet must have."""

_ROWS = 10_000
"""How many rows a table has that a task yields."""


def read_candidates(
    run: Files,
    *,
    queries: Files | None = None,
    corpus: Files | None = None,
    fields: Sequence[str] | None = None,
    depth: int | None = None,
    num_partitions: int | None = None,
) -> Dataset:
    """Join a run with the texts of its queries and documents, for `rerank_dataset`.

    Each file is read by one task, and Parquet by many, so large runs and corpora should be split
    into several files. All nodes must be able to read them. The joins are Ray Data's `groupby`.
    Texts in JSON Lines candidates take precedence over those in `corpus` and `queries`.

    Args:
        run: Runs in TREC's or MS MARCO's format; JSON Lines candidates, as `qwen-rerank run` takes
            them; or Parquet with the columns `query_id`, `document_id` and `rank`, which is least
            for the best. The documents of a query can be in several files.
        queries: The texts of the queries, in BEIR's JSON Lines, tab-separated, or Parquet with the
            columns `_id` and `text`, and perhaps `title`.
        corpus: The texts of the documents, in the same formats.
        fields: The fields or columns that make up the text of a document, or one format string of
            them; None for `title` and `text`.
        depth: How many documents of each query to take, from the first; None for all.
        num_partitions: How many parts the data is divided into for the joins, each of which must
            fit in the memory of a worker; None for Ray's default.

    Returns:
        A row per query: `query_id`, `query` and `documents`, a list of `{"id": …, "text": …}` in
        the order of the run.

    Raises:
        InvalidInputError: `depth` or the name of a file is invalid. While the result is consumed,
            Ray raises it if a line is invalid, or a query or document has no text.
        MissingDependencyError: The extra `ray` is not installed.
    """
    imported_ray()
    check_top_n(depth, "depth")
    pairs = _pairs(run, depth, num_partitions)
    if corpus is not None:
        pairs = pairs.union(_texts(corpus, fields, "document_id", "text"))
        pairs = _map_groups(pairs, "document_id", _with_text, num_partitions)
    if queries is not None:
        pairs = pairs.union(_texts(queries, None, "query_id", "query"))
    tasks = _map_groups(pairs, "query_id", partial(_task_row, depth=depth), num_partitions)
    return tasks.repartition(target_num_rows_per_block=QUERIES_PER_BLOCK)


def write_trec(ds: Dataset, path: str | PathLike[str], tag: str, *, overwrite: bool = False) -> int:
    """Write a dataset that `rerank_dataset` returned as a run in TREC's format.

    The rows go through this process one batch at a time. The file is written as a whole or not at
    all.

    Args:
        ds: Rows with `query_id`, `documents` with ids, and `relevance_scores`.
        path: The file.
        tag: The last column, which names the run.
        overwrite: Whether to replace a file that exists.

    Returns:
        The number of queries.

    Raises:
        InvalidInputError: The file exists.
        OSError: The file can't be written.
    """
    return write_rows(ds.iter_rows(), Path(path), tag, overwrite=overwrite)


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, tag: str, *, overwrite: bool) -> int:
    """Write rows as `write_trec` does, and return their number."""
    count = 0

    def rankings() -> Iterator[tuple[str, ScoredIds]]:
        nonlocal count
        for row in rows:
            ids = [document["id"] for document in row["documents"]]
            scores = row["relevance_scores"]
            count += 1
            if scores is None:  # the row failed, and keeps its order
                scores = [None] * len(ids)
            yield row["query_id"], list(zip(ids, scores, strict=True))

    write_run(path, tag, rankings(), overwrite=overwrite)
    return count


def _pairs(run: Files, depth: int | None, num_partitions: int | None) -> Dataset:
    """Return a row per query and document, with all columns of `_schema`."""
    if not _is_parquet(run):
        return _read(run, partial(_pair_rows, depth=depth))
    data = imported_ray().data.read_parquet(_paths(run), columns=_PAIR_COLUMNS)
    pairs = data.map_batches(_checked_pairs, batch_format="pyarrow")
    if depth is None:
        return pairs
    return _map_groups(pairs, "query_id", partial(_first, depth=depth), num_partitions)


def _texts(files: Files, fields: Sequence[str] | None, id_column: str, text: str) -> Dataset:
    """Return a row per text, with all columns of `_schema`."""
    if not _is_parquet(files):
        return _read(files, partial(_text_rows, fields=fields, id_column=id_column, text=text))
    columns = partial(_text_columns, fields=fields, id_column=id_column, text=text)
    data = imported_ray().data.read_parquet(_paths(files))
    return data.map_batches(columns, batch_format="pyarrow")


def _read(files: Files, rows: Callable[[str], Iterator[Mapping[str, Any]]]) -> Dataset:
    """Read each file in a task of its own."""
    paths = _paths(files)
    data = imported_ray().data.from_items([{"path": path} for path in paths])
    return data.repartition(len(paths)).map_batches(
        partial(_tables, rows=rows), batch_size=1, batch_format="pyarrow"
    )


def _tables(
    batch: pyarrow.Table, rows: Callable[[str], Iterator[Mapping[str, Any]]]
) -> Iterator[pyarrow.Table]:
    import pyarrow as pa

    for path in batch.column("path").to_pylist():
        source = rows(path)
        while part := list(islice(source, _ROWS)):
            yield pa.Table.from_pylist(part, _schema())


def _pair_rows(path: str, depth: int | None) -> Iterator[Mapping[str, Any]]:
    for entry in read_entries(Path(path)):
        documents = islice(entry.documents.items(), depth)
        for rank, (document_id, text) in enumerate(documents, start=1):
            yield {
                "query_id": entry.query_id,
                "query": entry.query,
                "document_id": document_id,
                "rank": rank,
                "text": text,
            }


def _text_rows(
    path: str, fields: Sequence[str] | None, id_column: str, text: str
) -> Iterator[Mapping[str, Any]]:
    parse = text_parser(path, fields)
    for number, line in read_lines(path):
        id_, value = parse_line(path, number, parse, line)
        yield {id_column: id_, text: value}


def _text_columns(
    batch: pyarrow.Table, fields: Sequence[str] | None, id_column: str, text: str
) -> pyarrow.Table:
    import pyarrow as pa

    if fields is not None and len(fields) == 1 and is_template(fields[0]):
        texts = list(map(template_reader(fields[0]), batch.to_pylist()))
    else:
        names = [name for name in fields or ("title", "text") if name in batch.column_names]
        values = [batch.column(name).to_pylist() for name in names]
        texts = [
            "\n".join(part for part in parts if part and part.strip())
            for parts in zip(*values, strict=True)
        ]
    ids = list(map(str, _column(batch, "_id").to_pylist()))
    return _completed(pa.table({id_column: ids, text: texts}))


def _checked_pairs(table: pyarrow.Table) -> pyarrow.Table:
    """Return the rows of a run, unless one lacks something. Where a column is missing, all do."""
    for name in _PAIR_COLUMNS:
        if table.column(name).null_count:
            row = next(row for row in table.to_pylist() if row[name] is None)
            raise InvalidInputError(f"A row of the run has no {name}: {row}.")
    return _completed(table)


def _column(table: pyarrow.Table, name: str) -> pyarrow.ChunkedArray:
    if name not in table.column_names:
        names = ", ".join(map(repr, table.column_names))
        raise InvalidInputError(f"There is no column {name!r} in Parquet; there are {names}.")
    return table.column(name)


def _completed(table: pyarrow.Table) -> pyarrow.Table:
    """Return the table with all columns of `_schema`."""
    import pyarrow as pa

    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in _schema()
    ]
    return pa.Table.from_arrays(columns, schema=_schema())


def _schema() -> Any:
    """The columns of the rows that are joined: pairs have a rank, texts do not."""
    import pyarrow as pa

    return pa.schema(
        {
            "query_id": pa.string(),
            "query": pa.string(),
            "document_id": pa.string(),
            "rank": pa.int64(),
            "text": pa.string(),
        }
    )


def _map_groups(
    rows: Dataset,
    key: str,
    function: Callable[[pyarrow.Table], pyarrow.Table],
    num_partitions: int | None,
) -> Dataset:
    """Map the rows with the same key together, and combine the results.

    Otherwise each result stays a chunk of its own, which is slow, and is written as a row group.
    """
    results = rows.groupby(key, num_partitions).map_groups(function, batch_format="pyarrow")
    return results.map_batches(_combined, batch_size=None, batch_format="pyarrow")


def _combined(batch: pyarrow.Table) -> pyarrow.Table:
    return batch.combine_chunks()


def _with_text(group: pyarrow.Table) -> pyarrow.Table:
    """Give all pairs of a document its text."""
    rows = group.to_pylist()
    pairs = [row for row in rows if row["rank"] is not None]
    text = _only(rows[0]["document_id"], [row["text"] for row in rows if row["rank"] is None])
    for pair in pairs:
        if pair["text"] is None:
            pair["text"] = text
    return _table(pairs, group)


def _first(pairs: pyarrow.Table, depth: int | None) -> pyarrow.Table:
    """Return the first pairs of a query. Several files can have pairs with the same rank."""
    return pairs.sort_by([("rank", "ascending"), ("document_id", "ascending")])[:depth]


def _task_row(group: pyarrow.Table, depth: int | None) -> pyarrow.Table:
    """Return the row of a query, or none if the run does not have it."""
    import pyarrow as pa

    rows = group.to_pylist()
    query_id = rows[0]["query_id"]
    pairs = _first(group.filter(group["rank"].is_valid()), depth).to_pylist()
    texts = [pair["query"] for pair in pairs if pair["query"] is not None]
    query = _only(query_id, texts or [row["query"] for row in rows if row["rank"] is None])
    if pairs:
        _check(query_id, query, pairs)
    documents = [{"id": pair["document_id"], "text": pair["text"]} for pair in pairs]
    tasks = [{"query_id": query_id, "query": query, "documents": documents}]
    document = pa.struct({"id": pa.string(), "text": pa.string()})
    columns = {"query_id": pa.string(), "query": pa.string(), "documents": pa.list_(document)}
    return pa.Table.from_pylist(tasks if pairs else [], pa.schema(columns))


def _only(id_: str, texts: Iterable[str | None]) -> str | None:
    """Return the text that an id has, or None; raise if it has several."""
    different = set(texts)
    if len(different) > 1:
        raise InvalidInputError(f"The id {id_!r} has several texts.", remedy="Keep one of them.")
    return next(iter(different), None)


def _check(query_id: str, query: str | None, pairs: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless the query and its documents have texts, and each document is there once."""
    if query is None:
        raise InvalidInputError(
            f"There is no text for query {query_id!r}.", remedy="Add it to queries=…."
        )
    if not query.strip():
        raise InvalidInputError(
            f"The text of query {query_id!r} is blank.", remedy="Add the text, or remove the query."
        )
    listed = set()
    for pair in pairs:
        id_ = pair["document_id"]
        if pair["text"] is None:
            raise InvalidInputError(
                f"There is no text for {id_!r}, which the run lists for query {query_id!r}.",
                remedy="Pass the corpus=… that the run comes from.",
            )
        if id_ in listed:
            raise InvalidInputError(f"{id_!r} is listed twice for query {query_id!r}.")
        listed.add(id_)


def _table(rows: list[Any], like: pyarrow.Table) -> pyarrow.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, like.schema)


def _paths(files: Files) -> list[str]:
    listed: Iterable[str | PathLike[str]]
    listed = [files] if isinstance(files, str | PathLike) else files
    paths = [str(path) for path in listed]
    if not paths:
        raise InvalidInputError("There are no files to read.")
    return [path if "://" in path else str(Path(path).absolute()) for path in paths]


def _is_parquet(files: Files) -> bool:
    return all(path.endswith(".parquet") or Path(path).is_dir() for path in _paths(files))

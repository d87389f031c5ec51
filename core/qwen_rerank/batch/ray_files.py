"""Runs, queries and corpora in files as Ray Data datasets. Needs the extra `ray`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_rerank.batch.candidates import read_entries
from qwen_rerank.batch.journal import ScoredIds
from qwen_rerank.batch.ray_data import imported_ray
from qwen_rerank.batch.run_file import check_can_write, write_run
from qwen_rerank.datasets import COLUMN, entry_parser, parse_line, read_lines, text_parser
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.validation import check_top_n, check_whole

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

_NOUNS = {"query_id": "query", "document_id": "document"}
"""What a column with ids is of."""

_ROWS = 10_000
"""How many rows a table has that a task yields."""


def read_candidates(
    run: Files,
    *,
    queries: Files | None = None,
    corpus: Files | None = None,
    fields: str | Sequence[str] | None = None,
    depth: int | None = None,
    num_partitions: int | None = None,
) -> Dataset:
    """Join a run with the texts of its queries and documents, for `rerank_dataset`.

    Each file is read by one task, and Parquet by many, so large runs and corpora should be split
    into several files. All nodes must be able to read them. The joins are Ray Data's `groupby`.
    Texts in JSON Lines candidates take precedence over those in `corpus` and `queries`.

    Args:
        run: Runs in TREC's or MS MARCO's format; JSON Lines candidates, as `qwen-rerank run` takes
            them; or Parquet with the columns `query_id`, `document_id` and `rank`, a whole number
            that is least for the best. The documents of a query can be in several files.
        queries: The texts of the queries, in BEIR's JSON Lines, tab-separated, or Parquet with
            BEIR's fields as columns.
        corpus: The texts of the documents, in the same formats.
        fields: The field or column with the text of a document, several, or a format string of
            them; None for `title` and `text`, as in `datasets.read_texts`.
        depth: How many documents of each query to take, from the first; None for all.
        num_partitions: How many parts the data is divided into for the joins, each of which must
            fit in the memory of a worker, at least 1; None for Ray's default.

    Returns:
        A row per query: `query_id`, `query` and `documents`, a list of `{"id": …, "text": …}` in
        the order of the run.

    Raises:
        InvalidInputError: An argument is invalid, or a file is not there. While the result is
            consumed, Ray raises it if a line or a row is invalid, or a query or document has no
            text.
        MissingDependencyError: The extra `ray` is not installed.
    """
    imported_ray()
    check_top_n(depth, "depth")
    if num_partitions is not None:
        check_whole("num_partitions", num_partitions, at_least=1)
    entry_parser(fields)  # raises if they are invalid
    for files in (run, queries, corpus):
        if files is not None:
            _is_parquet(files)  # raises if they are not there
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
        tag: The last column, which names the run, without white space.
        overwrite: Whether to replace a file that exists.

    Returns:
        The number of queries.

    Raises:
        InvalidInputError: The file exists, or the tag is invalid, so nothing was reranked; or a row
            does not have what a line of the run needs, or a query has several rows.
        OSError: The file can't be written.
    """
    check_can_write(Path(path), (), overwrite=overwrite)
    if not isinstance(tag, str) or not _is_column(tag):
        raise InvalidInputError(
            f"tag must be a word, because it is a column of the run, got {tag!r}."
        )
    queries, _ = write_rows(ds.iter_rows(), Path(path), tag, overwrite=overwrite)
    return queries


def write_rows(
    rows: Iterable[Mapping[str, Any]], path: Path, tag: str, *, overwrite: bool
) -> tuple[int, int]:
    """Write rows as `write_trec` does; return how many, and how many documents lack a score."""
    written: set[str] = set()
    unscored = 0

    def rankings() -> Iterator[tuple[str, ScoredIds]]:
        nonlocal unscored
        for row in rows:
            query_id, ranking = _ranking(row)
            if query_id in written:
                raise InvalidInputError(f"Two rows have the query id {query_id!r}.")
            written.add(query_id)
            unscored += sum(score is None for _, score in ranking)
            yield query_id, ranking

    write_run(path, tag, rankings(), overwrite=overwrite)
    return len(written), unscored


def _ranking(row: Mapping[str, Any]) -> tuple[str, ScoredIds]:
    """Return the query of a row, and its documents with their scores."""
    try:
        query_id = str(row["query_id"])
        ids = [document["id"] for document in row["documents"] or ()]
        scores = row["relevance_scores"]
        if scores is None:  # the row failed, and keeps its order
            scores = [None] * len(ids)
        ranking = [(str(id_), score) for id_, score in zip(ids, scores, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            "A run needs rows with query_id, documents with an id each, and as many "
            f"relevance_scores, got {dict(row)!r:.200}.",
            remedy="Pass what rerank_dataset returned for rows of read_candidates.",
        ) from error
    for id_ in (row["query_id"], *ids):
        if id_ is None or not _is_column(str(id_)):
            raise InvalidInputError(
                f"The id {id_!r} can't be a column of a run (query {query_id!r}).",
                remedy="Use ids without white space, or write Parquet: ds.write_parquet(…).",
            )
    return query_id, ranking


def _is_column(text: str) -> bool:
    return re.fullmatch(COLUMN, text) is not None


def _pairs(run: Files, depth: int | None, num_partitions: int | None) -> Dataset:
    """Return a row per query and document, with all columns of `_schema`."""
    if not _is_parquet(run):
        return _read(run, partial(_pair_rows, depth=depth))
    data = imported_ray().data.read_parquet(_paths(run), columns=_PAIR_COLUMNS)
    pairs = data.map_batches(_checked_pairs, batch_format="pyarrow")
    if depth is None:
        return pairs
    return _map_groups(pairs, "query_id", partial(_first, depth=depth), num_partitions)


def _texts(files: Files, fields: str | Sequence[str] | None, id_column: str, text: str) -> Dataset:
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
        yield _schema().empty_table()  # Ray can't group a dataset without any columns
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
    path: str, fields: str | Sequence[str] | None, id_column: str, text: str
) -> Iterator[Mapping[str, Any]]:
    parse = text_parser(path, fields)
    for number, line in read_lines(path):
        id_, value = parse_line(path, number, parse, line)
        yield {id_column: id_, text: value}


def _text_columns(
    batch: pyarrow.Table, fields: str | Sequence[str] | None, id_column: str, text: str
) -> pyarrow.Table:
    import pyarrow as pa

    parse = entry_parser(fields)
    entries = []
    for row in _without_vectors(batch).to_pylist():
        try:
            entries.append(parse(row))
        except ValueError as error:
            raise InvalidInputError(
                f"A row with the text of a {_NOUNS[id_column]}: {error}."
            ) from error
    columns = zip(*entries, strict=True) if entries else ((), ())
    return _completed(pa.table(dict(zip((id_column, text), columns, strict=True))))


def _without_vectors(table: pyarrow.Table) -> pyarrow.Table:
    """Return the columns that can have texts. Embeddings are slow to read as Python numbers."""
    from pyarrow import types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    vectors = [
        field.name
        for field in table.schema
        if any(is_kind(field.type) for is_kind in kinds)
        and types.is_floating(field.type.value_type)
    ]
    return table.drop_columns(vectors)


def _checked_pairs(table: pyarrow.Table) -> pyarrow.Table:
    """Return the rows of a run, unless one lacks something. Where a column is missing, all do."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if missing := [name for name in _PAIR_COLUMNS if name not in table.column_names]:
        names = ", ".join(map(repr, table.column_names))
        raise InvalidInputError(f"The run has no column {missing[0]!r}; it has {names}.")
    try:
        pairs = _completed(table)
    except pa.ArrowException as error:
        raise InvalidInputError(f"A column of the run has another type: {error}.") from error
    for name in _PAIR_COLUMNS:
        column = pairs.column(name)
        if column.null_count:
            row = next(row for row in table.to_pylist() if row[name] is None)
            raise InvalidInputError(f"A row of the run has no {name}: {row}.")
        if name == "rank":
            continue
        if pa.types.is_floating(table.column(name).type):
            raise InvalidInputError(
                f"The column {name!r} of the run has floats, not strings or integers.",
                remedy="Convert it; pandas makes floats of integers where one is missing.",
            )
        is_id = pc.match_substring_regex(column, f"^{COLUMN}$")
        if bad := column.filter(pc.invert(is_id)).to_pylist():
            raise InvalidInputError(
                f"The {name} {bad[0]!r} is blank or has white space, unlike ids in TREC's format."
            )
    return pairs


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
    listed = [files] if isinstance(files, str | PathLike) else files
    if not isinstance(listed, Sequence) or not all(isinstance(p, str | PathLike) for p in listed):
        raise InvalidInputError(f"Files must be a path or a list of paths, got {files!r:.60}.")
    if not listed:
        raise InvalidInputError("There are no files to read.")
    return list(map(_checked_path, map(str, listed)))


def _checked_path(path: str) -> str:
    """Return the path, absolute unless it is a URI; raise if there is nothing to read."""
    if "://" in path:
        return path
    local = Path(path)
    if not local.exists():
        raise InvalidInputError(f"There is no file {path}.")
    if local.is_dir() and next(local.rglob("*.parquet"), None) is None:
        raise InvalidInputError(
            f"There are no Parquet files in the folder {path}.",
            remedy="Pass a list of its files if they have another format.",
        )
    return str(local.absolute())


def _is_parquet(files: Files) -> bool:
    paths = _paths(files)
    tables = [
        path
        for path in paths
        if "://" in path or path.lower().endswith(".parquet") or Path(path).is_dir()
    ]
    if tables and len(tables) < len(paths):
        other = next(path for path in paths if path not in tables)
        raise InvalidInputError(
            f"{tables[0]} is Parquet, and {other} is not.", remedy="Pass files of one kind."
        )
    return bool(tables)

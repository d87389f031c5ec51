"""Rerank a run in files on Ray, and continue where an earlier attempt stopped."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

from qwen_rerank.batch.candidates import no_candidates
from qwen_rerank.batch.journal import Journal
from qwen_rerank.batch.ray_data import Concurrency, UsageTotal, imported_ray, rerank_dataset
from qwen_rerank.batch.ray_files import QUERIES_PER_BLOCK, read_candidates, write_rows
from qwen_rerank.batch.run import RunFiles, keeping_refused
from qwen_rerank.batch.run_file import already_exists
from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.base import Scorer
from qwen_rerank.usage import Usage

__all__ = ["CPUS", "RayRun", "checkpointed", "rerank_run_on_ray"]

CPUS = 2
"""How many CPUs a job needs: one to read, and one to leave out what an earlier attempt has done."""

_logger = logging.getLogger(__name__)

_FOLDER = ".ray"
"""What is appended to the name of the result for the folder with the state of the job."""

_KEEPS_REFUSED = "keep_refused"
"""The file in it that says that a query may have kept its order."""

_COLUMNS = ["query_id", "documents.list.element.id", "relevance_scores"]
"""What the result needs of what was reranked, as Parquet names nested columns."""

_PARTITION_BYTES = 2**26
"""How much of the inputs is joined at once. In memory, it is several times as much."""


class RayRun(NamedTuple):
    """What came of a job.

    Attributes:
        queries: How many queries the result has.
        unscored: How many of their documents have no score, because they have no text, or because
            the content inspection refused their query.
        usage: What this attempt has cost.
    """

    queries: int
    unscored: int
    usage: Usage


def rerank_run_on_ray(
    scorer: Callable[[], Scorer],
    files: RunFiles,
    *,
    fields: Sequence[str] | None = None,
    depth: int | None = None,
    top_n: int | None = None,
    keep_refused: bool = False,
    concurrency: Concurrency = 1,
    num_gpus: float | None = None,
    max_concurrency: int = 8,
) -> RayRun:
    """Rerank a run with an actor pool, write the result, and delete the state of the job.

    The run is first joined with its texts, in Parquet next to the result. Ray Data checkpoints what
    is reranked, so that an interrupted job can go on. Ray must be running, and all nodes must see
    the files under the same names.

    Args:
        scorer: Creates the scorer, here and in each actor.
        files: The files.
        fields: The fields that make up the text of a document in the corpus.
        depth: How many documents of each query to rerank, from the first; None for all.
        top_n: How many documents of each query to keep; None for all.
        keep_refused: Whether a query that the service's content inspection refuses keeps its
            order; otherwise it fails the job.
        concurrency: The number of actors, or the least and the most of them.
        num_gpus: How many GPUs an actor reserves; None for none.
        max_concurrency: How many queries an actor scores at the same time.

    Returns:
        What is in the result, and what this attempt has cost.

    Raises:
        InvalidInputError: A file is invalid, the state belongs to other files or options or was
            changed, or there is a folder in its place.
        QwenRerankError: A query failed. Ray raises an error of its own type around it.
    """
    ray = imported_ray()
    folder = files.out.absolute().with_name(f"{files.out.name}{_FOLDER}")
    with scorer() as example:
        fingerprint, model = example.fingerprint, example.model
    options = {
        "engine": "ray",
        "scorer": fingerprint,
        "field": fields,
        "depth": depth,
        "top_n": top_n,
        **_digests(files),
    }
    if folder.exists() and not files.journal.exists():
        raise InvalidInputError(
            f"{folder} exists and does not belong to this job, whose state would be there.",
            remedy="Move it away, or choose another file for the result.",
        )
    with closing(Journal(files.journal, options, restart=files.restart)) as journal:
        if files.restart:
            shutil.rmtree(folder, ignore_errors=True)
        joined, reranked = folder / "candidates", folder / "reranked"
        if files.would_replace and not (joined.exists() and _ids(joined) == _ids(reranked)):
            raise already_exists(files.out)
        _check_refused(folder / _KEEPS_REFUSED, keep_refused)
        _warn_of_waiting({"CPU": CPUS, "GPU": num_gpus or 0}, ray.cluster_resources())
        if not joined.exists():
            try:
                _join(files, fields, depth, joined)
            except BaseException:  # nothing is paid for yet, and the files may be changed
                shutil.rmtree(folder, ignore_errors=True)
                journal.remove()
                raise
        if keep_refused:
            (folder / _KEEPS_REFUSED).touch()
        queries, _ = _ids(joined), _ids(reranked)  # raises if they are corrupted
        usage = UsageTotal()
        with checkpointed(folder / "checkpoints", "query_id"):
            # Ray reads small files together; what one block has is checkpointed together.
            tasks = ray.data.read_parquet(str(joined))
            ds = rerank_dataset(
                tasks.repartition(target_num_rows_per_block=QUERIES_PER_BLOCK),
                partial(keeping_refused, scorer) if keep_refused else scorer,
                top_n=top_n,
                concurrency=concurrency,
                num_gpus=num_gpus,
                max_concurrency=max_concurrency,
                usage=usage,
            )
            # Writing waits for no CPU: what is not written is paid for again after a failure.
            ds.write_parquet(str(reranked), mode="append", ray_remote_args={"num_cpus": 0.1})
        _check_whole(folder, queries, _ids(reranked))
        tag = "-".join(model.split())
        written, unscored = write_rows(_rows(reranked), files.out, tag, overwrite=files.overwrite)
        result = RayRun(written, unscored, usage.value)
        journal.remove()  # before the state: half of it would be taken for an interrupted job's
        shutil.rmtree(folder)
    return result


def _join(files: RunFiles, fields: Sequence[str] | None, depth: int | None, joined: Path) -> None:
    """Write the candidates and their texts to a folder, as a whole or not at all."""
    part = joined.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    candidates = read_candidates(
        files.candidates,
        queries=files.queries,
        corpus=files.corpus,
        fields=fields,
        depth=depth,
        num_partitions=_partitions(files),
    )
    candidates.write_parquet(str(part))
    if not _ids(part):
        raise no_candidates(files.candidates)
    part.rename(joined)


def _check_refused(mark: Path, keep_refused: bool) -> None:
    if mark.exists() and not keep_refused:
        raise InvalidInputError(
            "An earlier attempt kept the order of the queries that the content inspection refused.",
            remedy="Continue with keep_refused=True, or start over with restart=True.",
        )


def _check_whole(folder: Path, joined: list[str], reranked: list[str]) -> None:
    """Raise unless each query was reranked once. Ray Data trusts the files of earlier attempts."""
    if joined != reranked:
        lost, others = Counter(joined) - Counter(reranked), Counter(reranked) - Counter(joined)
        raise InvalidInputError(
            f"{folder} was changed by something else: {lost.total():,} of {len(joined):,} queries "
            f"are missing from what was reranked, and {others.total():,} are there in addition.",
            remedy="Start over with restart=True, which pays for all of them again.",
        )


def _ids(folder: Path) -> list[str]:
    """Return the sorted ids of the queries in a folder of Parquet, which need not exist."""
    return sorted(row["query_id"] for row in _rows(folder, ["query_id"]))


def checkpointed(folder: Path | str, id_column: str) -> Any:
    """Return a context in which Ray Data checkpoints what it reads and writes.

    In it, a pipeline that reads Parquet and writes Parquet skips the rows that an earlier attempt
    has written. Ray Data keeps the ids in memory, one per row; that is one per query here.

    Args:
        folder: Where the checkpoints are. All nodes must see it under the same name. Ray Data
            also takes URIs such as `s3://…`.
        id_column: The column that identifies a row.
    """
    imported_ray()
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    context = DataContext.get_current().copy()
    context.checkpoint_config = CheckpointConfig(
        id_column=id_column, checkpoint_path=str(folder), delete_checkpoint_on_success=False
    )
    return DataContext.current(context)


def _rows(folder: Path, columns: Sequence[str] = _COLUMNS) -> Iterator[dict[str, Any]]:
    """Read what was reranked, without the texts. It all has to come to this process."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    for path in sorted(folder.glob("*.parquet")):
        try:
            with ParquetFile(path) as file:
                for batch in file.iter_batches(columns=list(columns)):
                    yield from batch.to_pylist()
        except ArrowException as error:
            raise InvalidInputError(
                f"{path} is corrupted: {error}.",
                remedy="Start over with restart=True, which pays for all queries again.",
            ) from error


def _warn_of_waiting(needed: Mapping[str, float], there: Mapping[str, float]) -> None:
    """Log what the cluster lacks: Ray waits for it in silence, as the cluster may grow."""
    for name, count in needed.items():
        if there.get(name, 0) < count:
            _logger.warning(
                "The job needs %g %s, and the Ray cluster has %g. It waits until there are more.",
                count, name, there.get(name, 0),
            )  # fmt: skip


def _partitions(files: RunFiles) -> int:
    """Return how many parts to divide the data into for the joins."""
    paths = (files.candidates, files.queries, files.corpus)
    return max(1, sum(path.stat().st_size for path in paths if path) // _PARTITION_BYTES)


def _digests(files: RunFiles) -> dict[str, str]:
    """Return the SHA-256 of each input file, by the argument that names the file."""
    named = {"candidates": files.candidates, "queries": files.queries, "corpus": files.corpus}
    digests = {}
    for name, path in named.items():
        if path is not None:
            with path.open("rb") as file:
                digests[name] = file_digest(file, "sha256").hexdigest()
    return digests

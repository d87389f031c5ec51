"""What a driver does that is killed, and the one that continues."""

from __future__ import annotations

from functools import partial

import ray

from qwen_rerank.batch import checkpointed, rerank_dataset
from tests.support.scorers import Paid


def rerank(folder: str) -> None:
    """Rerank what is in `in`, a few rows at a time, and append the result to `out`."""
    with checkpointed(f"{folder}/checkpoints", "id"):
        ds = ray.data.read_parquet(f"{folder}/in").repartition(target_num_rows_per_block=4)
        scorer = partial(Paid, f"{folder}/paid", seconds=0.05)
        ds = rerank_dataset(ds, scorer, batch_size=4, max_concurrency=2)
        ds.write_parquet(f"{folder}/out", mode="append")

"""Batches computed at the same time on a CPU, each in a thread whose operations use one core.

Cores that share one operation wait for each other at its end. With a batch per core they don't.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from threading import Barrier
from typing import TypeVar

import torch

from qwen_rerank.scorers.local.decoder import Decoder

__all__ = ["gain_of_threads", "map_in_threads", "worth_splitting"]

T = TypeVar("T")
R = TypeVar("R")

_PROBE_LENGTHS = 64, 192  # tokens of the sequences of a batch, which differ as those of texts do
_PROBE_ROUNDS = 5

_LEAST_GAIN = 1.05
"""Less is within the noise of the measurement, and batches at the same time take more memory."""


def map_in_threads(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Call the function with each item in threads of one core each; results in the items' order."""
    threads = min(threads, len(items))
    default = torch.get_num_threads()
    started = Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(threads, "qwen-rerank-batch", initializer=start) as pool:
        try:
            results = pool.map(function, items)
        except BaseException:  # not all threads could be started
            started.abort()
            raise
        started.wait()
        # The call above also sets the default of threads that begin to use torch later.
        torch.set_num_threads(default)
        yield from results


def gain_of_threads(decoder: Decoder, threads: int) -> float:
    """Measure how many times as fast equal batches are in threads as in one batch on all cores.

    It measures in a thread, as calls compute in one. With more threads than cores, the cores that
    wait for an operation's end spin for less long, which decides what is faster.

    Returns:
        The ratio of the medians of five rounds, or 1.0 if it is below 1.05.
    """
    with ThreadPoolExecutor(1, "qwen-rerank-probe") as pool:
        gain = pool.submit(_measured_gain, decoder.first_layers(2), threads).result()
    return gain if gain >= _LEAST_GAIN else 1.0


def _measured_gain(decoder: Decoder, threads: int) -> float:
    cache = decoder.prefix_cache(range(8))
    batch = [range(length) for length in _PROBE_LENGTHS]
    compute = partial(decoder.logits, cache)
    together, apart = [], []
    for _ in range(1 + _PROBE_ROUNDS):
        start = time.perf_counter()
        decoder.logits(cache, batch * threads)
        middle = time.perf_counter()
        list(map_in_threads(compute, [batch] * threads, threads))
        together.append(middle - start)
        apart.append(time.perf_counter() - middle)
    return median(together[1:]) / median(apart[1:])  # the first round warms up


def worth_splitting(batches: Sequence[int], threads: int, gain: float) -> bool:
    """Whether the batches are computed sooner in threads.

    Args:
        batches: The tokens of each batch, in the order in which the threads take them.
        threads: How many threads there are.
        gain: What the threads gain if all of them have the same to do.
    """
    busy = [0] * threads
    for tokens in batches:
        busy[busy.index(min(busy))] += tokens
    return sum(busy) * gain > max(busy) * threads

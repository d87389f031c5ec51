"""Several devices that share the sequences of a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from threading import Event

from qwen_rerank.scorers.local.batching import BatchRunner
from qwen_rerank.scorers.local.prompt import Tokens
from qwen_rerank.scorers.local.worker import Worker

__all__ = ["DeviceGroup", "shares"]


class DeviceGroup:
    """Runs each call on several devices at once, in one thread per device. Not thread-safe.

    Args:
        runners: One per device.
    """

    def __init__(self, runners: Sequence[BatchRunner]) -> None:
        self._runners = runners
        self._workers = [Worker() for _ in runners]

    def logits(
        self, prefix: Tokens, sequences: Iterable[Tokens], cancelled: Event
    ) -> dict[Tokens, float]:
        """The logit of each distinct sequence after the prefix; see `BatchRunner.logits`.

        The first error of a device is raised after all devices have stopped, each at the end of its
        batch.
        """

        def stop_others(future: Future[dict[Tokens, float]]) -> None:
            if future.exception() is not None:
                cancelled.set()

        futures = []
        for index, share in enumerate(shares(sequences, len(self._runners))):
            compute = partial(self._runners[index].logits, prefix, share, cancelled)
            futures.append(self._workers[index].submit(compute))
            futures[-1].add_done_callback(stop_others)
        wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            # Those that were stopped are cancelled; the reason is the error of another.
            raise min(errors, key=lambda error: isinstance(error, CancelledError))
        return {tokens: value for future in futures for tokens, value in future.result().items()}

    def close(self) -> None:
        """End the threads, after the batches in progress."""
        for worker in self._workers:
            worker.close()


def shares(sequences: Iterable[Tokens], count: int) -> list[list[Tokens]]:
    """Share the distinct sequences out, so that all shares have about as many tokens.

    Returns:
        At most `count` shares, none of them empty.
    """
    made: list[list[Tokens]] = [[] for _ in range(count)]
    tokens = [0] * count
    # The longest first, each to the smallest share.
    for sequence in sorted(set(sequences), key=lambda sequence: (-len(sequence), sequence)):
        index = tokens.index(min(tokens))
        made[index].append(sequence)
        tokens[index] += len(sequence)
    return [share for share in made if share]

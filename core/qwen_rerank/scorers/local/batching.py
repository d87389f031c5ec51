"""Batches of sequences that fit in memory: longest first, up to a number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import accumulate
from threading import Event
from typing import TypeVar

import torch
from tqdm import tqdm

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.local.decoder import Decoder, PrefixCache
from qwen_rerank.scorers.local.hardware import is_out_of_memory
from qwen_rerank.scorers.local.prefixes import KeptPrefix
from qwen_rerank.scorers.local.prompt import Tokens
from qwen_rerank.scorers.local.threads import map_in_threads, worth_splitting

__all__ = ["BatchRunner", "batch_size"]

T = TypeVar("T")

_PROGRESS_DELAY = 2.0  # seconds until a progress bar is shown


class BatchRunner:
    """Runs a decoder over any number of sequences. Not thread-safe.

    Args:
        decoder: The model.
        batch_tokens: The maximum number of tokens in a batch of several sequences. It is halved
            when the device runs out of memory, for later calls too.
        threads: How many batches a CPU can compute at once; 1 to use all cores for each batch.
        gain: How many times as fast that is if all threads have the same to do.
        progress: Whether to show a progress bar over the tokens of long calls.
    """

    def __init__(
        self,
        decoder: Decoder,
        batch_tokens: int,
        *,
        threads: int = 1,
        gain: float = 1.0,
        progress: bool = False,
    ) -> None:
        self._decoder = decoder
        self._prefix_cache = KeptPrefix(decoder.prefix_cache)
        self._batch_tokens = batch_tokens
        self._threads = threads
        self._gain = gain
        self._progress = progress

    def logits(
        self, prefix: Tokens, sequences: Iterable[Tokens], cancelled: Event
    ) -> dict[Tokens, float]:
        """The logit of each distinct sequence after the prefix.

        Args:
            prefix: The tokens before every sequence.
            sequences: Sequences of at least one token.
            cancelled: Ends the call before the next batch when it is set.

        Raises:
            CancelledError: The call was cancelled.
            InvalidInputError: The device runs out of memory even for a single sequence.
        """
        # Sorted, so that the same sequences have the same scores to the last digit in any order.
        waiting = sorted(set(sequences), key=lambda sequence: (-len(sequence), sequence))
        logits: dict[Tokens, float] = {}
        cache = self._unless_out_of_memory(partial(self._prefix_cache, prefix), cancelled)
        if cache is None:
            raise _out_of_memory_error(len(prefix))
        with self._progress_bar(sum(map(len, waiting))) as bar:
            for batch, values in self._computed(waiting, cache, cancelled):
                logits.update(zip(batch, values, strict=True))
                bar.update(sum(map(len, batch)))
        return logits

    def close(self) -> None:
        """Do nothing: it runs in the caller's thread."""

    def _computed(
        self, waiting: Sequence[Tokens], cache: PrefixCache, cancelled: Event
    ) -> Iterator[tuple[Sequence[Tokens], list[float]]]:
        """The batches, each with its logits."""

        def compute(batch: Sequence[Tokens]) -> list[float] | None:
            work = partial(self._decoder.logits, cache, batch)
            return self._unless_out_of_memory(work, cancelled)

        if batches := self._batches_for_threads(waiting):
            for batch, values in zip(
                batches, map_in_threads(compute, batches, self._threads), strict=True
            ):
                if values is None:
                    raise _out_of_memory_error(sum(map(len, batch)))
                yield batch, values
            return
        done = 0
        while batch := waiting[done : done + batch_size(waiting[done:], self._batch_tokens)]:
            if (values := compute(batch)) is None:
                self._halve(batch)
            else:
                yield batch, values
                done += len(batch)

    def _batches_for_threads(self, waiting: Sequence[Tokens]) -> list[Sequence[Tokens]]:
        """Smaller batches for threads; none if one batch after another is sooner ready."""
        if self._threads == 1:
            return []
        batches: list[Sequence[Tokens]] = []
        done = 0
        while done < len(waiting):
            size = batch_size(waiting[done:], self._batch_tokens // self._threads)
            batches.append(waiting[done : done + size])
            done += size
        tokens = [sum(map(len, batch)) for batch in batches]
        return batches if worth_splitting(tokens, self._threads, self._gain) else []

    def _unless_out_of_memory(self, work: Callable[[], T], cancelled: Event) -> T | None:
        """Run the work; None if the device runs out of memory."""
        if cancelled.is_set():
            raise CancelledError
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, batch: Sequence[Tokens]) -> None:
        if len(batch) == 1:
            raise _out_of_memory_error(len(batch[0]))
        self._batch_tokens = sum(map(len, batch)) // 2
        if (device := self._decoder.device.type) != "cpu":
            getattr(torch, device).empty_cache()

    def _progress_bar(self, tokens: int) -> tqdm[None]:
        return tqdm(
            total=tokens,
            unit="token",
            desc="rerank",
            delay=_PROGRESS_DELAY,
            disable=not self._progress,
        )


def batch_size(sequences: Sequence[Tokens], batch_tokens: int) -> int:
    """How many of the first sequences fit in a batch; at least one."""
    return max(1, sum(total <= batch_tokens for total in accumulate(map(len, sequences))))


def _out_of_memory_error(tokens: int) -> InvalidInputError:
    return InvalidInputError(
        f"Not enough device memory for a batch of {tokens:,} tokens.",
        remedy='Lower max_length=, choose a smaller model, or pass device="cpu".',
    )

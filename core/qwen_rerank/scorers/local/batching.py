"""Batches of sequences that fit in memory: longest first, up to a number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import accumulate
from threading import Event
from typing import TypeVar

import torch
from tqdm import tqdm

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.local.decoder import Decoder
from qwen_rerank.scorers.local.prefixes import KeptPrefix
from qwen_rerank.scorers.local.prompt import Tokens

__all__ = ["BatchRunner", "batch_size"]

T = TypeVar("T")

_PROGRESS_DELAY = 2.0  # seconds until a progress bar is shown


class BatchRunner:
    """Runs a decoder over any number of sequences. Not thread-safe.

    Args:
        decoder: The model.
        batch_tokens: The maximum number of tokens in a batch of several sequences. It is halved
            when the device runs out of memory, for later calls too.
        progress: Whether to show a progress bar over the tokens of long calls.
    """

    def __init__(self, decoder: Decoder, batch_tokens: int, *, progress: bool = False) -> None:
        self._decoder = decoder
        self._prefix_cache = KeptPrefix(decoder.prefix_cache)
        self._batch_tokens = batch_tokens
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
            while waiting:
                batch = waiting[: batch_size(waiting, self._batch_tokens)]
                compute = partial(self._decoder.logits, cache, batch)
                values = self._unless_out_of_memory(compute, cancelled)
                if values is None:
                    self._halve(batch)
                    continue
                logits.update(zip(batch, values, strict=True))
                del waiting[: len(batch)]
                bar.update(sum(map(len, batch)))
        return logits

    def close(self) -> None:
        """Do nothing: it runs in the caller's thread."""

    def _unless_out_of_memory(self, work: Callable[[], T], cancelled: Event) -> T | None:
        """Run the work; None if the device runs out of memory."""
        if cancelled.is_set():
            raise CancelledError
        try:
            return work()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out. Apple's mps has no error type for it (pytorch issue 141909)."""
    messages = ("MPS backend out of memory", "Invalid buffer size")
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith(messages)


def _out_of_memory_error(tokens: int) -> InvalidInputError:
    return InvalidInputError(
        f"Not enough device memory for a batch of {tokens:,} tokens.",
        remedy='Lower max_length=, choose a smaller model, or pass device="cpu".',
    )

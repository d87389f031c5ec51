"""Rows to logits in batches that fit: longest first, up to a budget of tokens."""

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
from qwen_rerank.scorers.local.prompt import Tokens

__all__ = ["Ranker", "batch_size"]

T = TypeVar("T")

_LONG = 2.0  # seconds after which a progress bar is shown


class Ranker:
    """Runs a decoder over any number of rows. For one thread at a time.

    Args:
        decoder: The model.
        budget: Tokens a batch at most, unless a single row has more. Halved whenever the device
            runs out of memory, for all later calls too.
        progress: Whether to show a progress bar over tokens when the work is long.
    """

    def __init__(self, decoder: Decoder, budget: int, *, progress: bool = False) -> None:
        self._decoder = decoder
        self._progress = progress
        self.budget = budget

    def logits(self, lead: Tokens, rows: Iterable[Tokens], cancelled: Event) -> dict[Tokens, float]:
        """The logit of each row; equal rows are computed once.

        Raises:
            CancelledError: `cancelled` was set, which is looked at before each batch.
            InvalidInputError: Not even a single row fits in the device's memory.
        """
        # The order is the same whichever the rows came in, and so is the last digit.
        waiting = sorted(set(rows), key=lambda row: (-len(row), row))
        found: dict[Tokens, float] = {}
        kept = self._attempt(partial(self._decoder.lead, lead), cancelled)
        if kept is None:
            raise _too_large(len(lead))
        with self._bar(sum(map(len, waiting))) as bar:
            while waiting:
                batch = waiting[: batch_size(waiting, self.budget)]
                logits = self._attempt(partial(self._decoder.logits, kept, batch), cancelled)
                if logits is None:
                    self._halve(batch)
                    continue
                found.update(zip(batch, logits, strict=True))
                del waiting[: len(batch)]
                bar.update(sum(map(len, batch)))
        return found

    def _attempt(self, work: Callable[[], T], cancelled: Event) -> T | None:
        """What the work returns, or None where the device has not the memory for it."""
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
            raise _too_large(len(batch[0]))
        self.budget = sum(map(len, batch)) // 2
        if (device := self._decoder.device.type) != "cpu":
            getattr(torch, device).empty_cache()

    def _bar(self, tokens: int) -> tqdm[None]:
        return tqdm(
            total=tokens, unit="token", desc="rerank", delay=_LONG, disable=not self._progress
        )


def batch_size(rows: Sequence[Tokens], budget: int) -> int:
    """How many of the first rows make a batch: as many as the budget allows, at least one."""
    return max(1, sum(total <= budget for total in accumulate(map(len, rows))))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """By its type; on Apple's mps, which has no type for it, by what it says (pytorch 141909)."""
    said = ("MPS backend out of memory", "Invalid buffer size")
    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith(said)


def _too_large(tokens: int) -> InvalidInputError:
    return InvalidInputError(
        f"The device has not the memory for {tokens} tokens at once.",
        remedy='Lower max_length=, take a smaller model, or pass device="cpu".',
    )

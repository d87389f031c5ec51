"""The calls that wait for a device; on an accelerator, small ones are computed in one batch.

A small batch takes an accelerator about as long as a large one. So small calls that wait at the
same time share a batch, and a small call does not compute its own prefix: the part of it that all
calls have in common, the system message and the instruct, serves all of them, and the query is
computed with each text.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Event
from typing import Protocol, TypeAlias

from qwen_rerank.scorers.local.prompt import TokenizedPrompts, Tokens
from qwen_rerank.scorers.local.worker import Worker

__all__ = ["CallQueue", "Computed", "Runner"]

_MAX_REPEATED_TOKENS = 2_048
"""By count of kernels, not measured: computing a prefix by itself takes longer than these."""

Computed: TypeAlias = tuple[dict[Tokens, float], float]
"""The logits of a call's sequences, and how many seconds they took."""


class Runner(Protocol):
    """What computes: a `BatchRunner` or a `DeviceGroup`."""

    def logits(
        self, prefix: Tokens, sequences: Sequence[Tokens], cancelled: Event
    ) -> dict[Tokens, float]:
        """The logit of each sequence after the prefix."""

    def close(self) -> None:
        """End its threads."""


@dataclass(frozen=True, eq=False)
class _Call:
    runner: Runner
    prefix: Tokens
    sequences: Sequence[Tokens]
    cancelled: Event
    future: Future[Computed] = field(default_factory=Future)
    pid: int = field(default_factory=os.getpid)

    @property
    def has_images(self) -> bool:
        return any(type(tokens) is not tuple for tokens in (self.prefix, *self.sequences))


class CallQueue:
    """Runs calls in the order in which they come, in the thread of a worker.

    Args:
        worker: The worker.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[_Call] = deque()
        self._common_prefix: Tokens | None = None

    def submit(
        self, runner: Runner, prompts: TokenizedPrompts, cancelled: Event, join_tokens: int
    ) -> Future[Computed]:
        """Queue a call. It can be cancelled until it starts.

        Args:
            runner: What computes it.
            prompts: Its prompts.
            cancelled: Ends the call before its next batch when it is set.
            join_tokens: How many tokens the calls in one batch may have together; 0 for an own
                batch.
        """
        call = _Call(runner, prompts.shared, list(set(prompts.rests)), cancelled)
        self._waiting.append(call)
        self._worker.submit(lambda: self._run_next(join_tokens))
        return call.future

    def _run_next(self, join_tokens: int) -> None:
        """Run the first call, and those that fit in one batch with it."""
        joined: list[_Call] = []
        tokens = 0
        while self._waiting:
            added = self._tokens_to_join(self._waiting[0]) if join_tokens else None
            fits = added is not None and tokens + added <= join_tokens
            if joined and not fits:
                break
            call = self._waiting.popleft()
            if call.pid != os.getpid() or not call.future.set_running_or_notify_cancel():
                continue
            if not fits:
                _run_alone(call)
                return
            joined.append(call)
            tokens += added or 0
        if joined:
            self._run_joined(joined)

    def _tokens_to_join(self, call: _Call) -> int | None:
        """The tokens that a call adds to a batch; None if it is better off alone."""
        if call.has_images:
            return None
        own = call.prefix[len(self._common_with([call])) :]
        repeated = len(own) * len(call.sequences)
        return None if repeated > _MAX_REPEATED_TOKENS else repeated + _total(call.sequences)

    def _common_with(self, calls: Sequence[_Call]) -> Tokens:
        """What the prefixes of these calls and of all earlier ones have in common."""
        prefixes = [call.prefix for call in calls]
        if self._common_prefix is not None:
            prefixes.append(self._common_prefix)
        equal = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prefixes, strict=False))
        return tuple(tokens[0] for tokens in equal)

    def _run_joined(self, calls: Sequence[_Call]) -> None:
        start = time.perf_counter()
        common = self._common_prefix = self._common_with(calls)
        sequences = [
            [call.prefix[len(common) :] + tokens for tokens in call.sequences] for call in calls
        ]
        try:
            together = [tokens for each in sequences for tokens in each]
            logits = calls[0].runner.logits(common, together, _AllCancelled(calls))
        except BaseException:
            # What one call can't do must not fail the others.
            for call in calls:
                _run_alone(call)
            return
        seconds = time.perf_counter() - start
        for call, own in zip(calls, sequences, strict=True):
            values = zip(call.sequences, (logits[tokens] for tokens in own), strict=True)
            call.future.set_result((dict(values), seconds))


class _AllCancelled(Event):
    """Is set when all calls are cancelled."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        super().__init__()
        self._calls = calls

    def is_set(self) -> bool:
        return super().is_set() or all(call.cancelled.is_set() for call in self._calls)


def _run_alone(call: _Call) -> None:
    start = time.perf_counter()
    try:
        logits = call.runner.logits(call.prefix, call.sequences, call.cancelled)
    except BaseException as error:
        call.future.set_exception(error)
    else:
        call.future.set_result((logits, time.perf_counter() - start))


def _total(sequences: Sequence[Tokens]) -> int:
    return sum(map(len, sequences))

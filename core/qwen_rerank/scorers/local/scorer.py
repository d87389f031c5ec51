"""LocalScorer: Qwen3-Reranker in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers.base import Scorer, Scores, Usage, sigmoid
from qwen_rerank.scorers.local.prompt import DEFAULT_INSTRUCT, Prompt
from qwen_rerank.scorers.local.worker import Worker
from qwen_rerank.validation import check_text, check_whole

if TYPE_CHECKING:
    from qwen_rerank.scorers.local.loading import DType, Hub
    from qwen_rerank.scorers.local.ranker import Ranker

__all__ = ["LocalScorer"]

_log = logging.getLogger(__name__)

# Tokens a batch. A quarter of that costs a CPU a tenth of its speed; more only makes a call slower
# to cancel, and a batch of the 0.6B model takes two cores seven seconds. A GPU wants to be filled.
_CPU_BUDGET = 4_096
_GPU_BUDGET = 16_384


class LocalScorer(Scorer):
    """Scores by a Qwen3-Reranker that runs in this process: no key, and no text leaves the machine.

    The score is what the model's authors define: the probability of "yes" against "no" after the
    prompt of QwenLM/Qwen3-Embedding, in [0, 1]. Control tokens in a query or a text are plain text.
    A model that is converted to sequence classification with one label is run by its own head.

    It computes in one thread of its own, call after call, whichever threads and event loops they
    come from. A call that is cancelled or interrupted ends after the batch that is running.

    Args:
        model: A folder, or an id on the hub.
        instruct: What relevant means; the model's authors recommend English. Default: theirs.
        device: `"cuda"`, `"cuda:1"`, `"mps"`, `"cpu"`; if None, the first of them that is there.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`; `"auto"` is bfloat16 where the hardware
            computes in it, else float16 under CUDA and float32 on a CPU.
        max_length: Tokens of a prompt at most, about 60 of them the prompt's own; at most as many
            as the model has positions. What is over is cut off the text's end, and logged.
        batch_tokens: Tokens computed at once at most; 4096 on a CPU, 16384 elsewhere if None. It is
            halved whenever the device runs out of memory.
        revision: The branch, tag or commit on the hub.
        hub: Where an id is looked up: `"huggingface"`, or `"modelscope"`, which takes the
            modelscope package.
        progress: Whether calls of more than two seconds show a progress bar.

    Raises:
        MissingDependencyError: torch, transformers or modelscope is not installed.
        InvalidInputError: A model that can't be loaded or is no such reranker, or another argument
            that can't be used.
    """

    def __init__(
        self,
        model: str = "Qwen/Qwen3-Reranker-0.6B",
        *,
        instruct: str = DEFAULT_INSTRUCT,
        device: str | None = None,
        dtype: DType = "auto",
        max_length: int = 8192,
        batch_tokens: int | None = None,
        revision: str | None = None,
        hub: Hub = "huggingface",
        progress: bool = False,
    ) -> None:
        self._options: dict[str, Any] = {
            "model": model,
            "instruct": instruct,
            "device": device,
            "dtype": dtype,
            "max_length": max_length,
            "batch_tokens": batch_tokens,
            "revision": revision,
            "hub": hub,
            "progress": progress,
        }
        self._loaded: _Loaded | None = _load(**self._options)
        self._worker = Worker()

    @property
    def model(self) -> str:
        """The folder or the hub's id that was given."""
        name: str = self._options["model"]
        return name

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The model, its revision and hub, the instruction, the precision and the length."""
        names = ("revision", "hub", "instruct", "dtype", "max_length")
        return (*super().fingerprint, *(self._options[name] for name in names))

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        """Score the texts; see `Scorer.score`.

        Returns:
            Scores in [0, 1]. The usage counts the tokens that went through the model, with what the
            prompts of one call have in common once, and equal texts once.

        Raises:
            InvalidInputError: A blank query, a text that is no Unicode string, or one text that is
                too much for the device's memory.
        """
        cancelled = Event()
        try:
            return self._noted(*self._worker.run(self._work(query, texts, cancelled)))
        finally:
            cancelled.set()

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        """The same as `score`, off the event loop. A cancelled call stops after a batch."""
        cancelled = Event()
        work = self._worker.submit(self._work(query, texts, cancelled))
        try:
            return self._noted(*await asyncio.wrap_future(work))
        finally:
            cancelled.set()

    def close(self) -> None:
        """Let go of the model and its memory, once the calls that are running have ended."""
        self._worker.close()
        self._loaded = None

    def _work(
        self, query: str, texts: Sequence[str], cancelled: Event
    ) -> Callable[[], tuple[Scores, int]]:
        if self._loaded is None:
            raise InvalidInputError(f"{self!r} is closed.", remedy="Make a new one.")
        return partial(_score, self._loaded, query, texts, cancelled)

    def _noted(self, scores: Scores, cut: int) -> Scores:
        if cut:
            _log.warning(
                "%d of %d texts are over the max_length of %d tokens with the prompt: their "
                "ends were not read. Wrap the scorer in PassageScorer, which scores long texts in "
                "parts.",
                cut,
                len(scores.values),
                self._options["max_length"],
            )
        return scores

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the weights: where it is unpickled, it loads them from the same place.
        return partial(type(self), **self._options), ()


class _Loaded(NamedTuple):
    prompt: Prompt
    ranker: Ranker


def _load(
    model: str,
    *,
    instruct: str,
    device: str | None,
    dtype: DType,
    max_length: int,
    batch_tokens: int | None,
    revision: str | None,
    hub: Hub,
    progress: bool,
) -> _Loaded:
    check_text("model", model)
    if batch_tokens is not None:
        check_whole("batch_tokens", batch_tokens, at_least=1)
    try:
        from qwen_rerank.scorers.local import loading
        from qwen_rerank.scorers.local.ranker import Ranker
    except ImportError as error:
        raise MissingDependencyError(
            f"LocalScorer needs torch and transformers ({error}).",
            remedy='Install them: pip install "qwen-rerank[local]"',
        ) from error

    place = loading.choose_device(device)
    tokenizer, decoder = loading.load(
        model,
        revision=revision,
        hub=hub,
        device=place,
        dtype=loading.choose_dtype(dtype, place),
    )
    prompt = Prompt(tokenizer, instruct, max_length)
    if max_length > decoder.positions:
        raise InvalidInputError(
            f"max_length must be at most the model's {decoder.positions} positions, "
            f"got {max_length}."
        )
    budget = batch_tokens or (_CPU_BUDGET if place.type == "cpu" else _GPU_BUDGET)
    return _Loaded(prompt, Ranker(decoder, budget, progress=progress))


def _score(
    loaded: _Loaded, query: str, texts: Sequence[str], cancelled: Event
) -> tuple[Scores, int]:
    """The scores, and how many texts were cut."""
    start = time.perf_counter()
    lead, rows, cut = loaded.prompt.rows(query, texts)
    logits = loaded.ranker.logits(lead, rows, cancelled)
    usage = Usage(
        tokens=len(lead) + sum(map(len, logits)),
        texts_sent=len(texts),
        seconds=time.perf_counter() - start,
        cost=0.0,
    )
    return Scores([sigmoid(logits[row]) for row in rows], usage), cut

"""LocalScorer: Qwen3-Reranker in this process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_rerank.errors import BadResponseError, InvalidInputError, MissingDependencyError
from qwen_rerank.inputs.content import (
    Item,
    Modality,
    check_modalities,
    checked_query,
    checked_texts,
)
from qwen_rerank.scorers.base import Scorer, Scores, Usage, probabilities
from qwen_rerank.scorers.local.calls import CallQueue, Computed
from qwen_rerank.scorers.local.prompt import DEFAULT_INSTRUCT, Prompt, TokenizedPrompts
from qwen_rerank.scorers.local.worker import Worker, result_of
from qwen_rerank.scorers.probe import Problem
from qwen_rerank.scorers.truncation import check_truncation, name_of
from qwen_rerank.threads import to_thread
from qwen_rerank.validation import check_flag, check_text, check_whole

if TYPE_CHECKING:
    from qwen_rerank.scorers.local.batching import BatchRunner
    from qwen_rerank.scorers.local.devices import DeviceGroup
    from qwen_rerank.scorers.local.hardware import DType
    from qwen_rerank.scorers.local.loading import LoadedModel
    from qwen_rerank.scorers.local.multimodal_prompt import MultimodalPrompt
    from qwen_rerank.scorers.local.source import Hub

__all__ = ["LocalScorer"]

# Tokens per batch. With a quarter of that a CPU loses a tenth of its speed; with more, a call only
# takes longer to cancel (on two cores, a batch of the 0.6B model takes seven seconds). A GPU needs
# large batches to be busy.
_CPU_BATCH_TOKENS = 4_096
_GPU_BATCH_TOKENS = 16_384

_MAX_LENGTH = 8_192
"""The authors' own maximum, in QwenLM/Qwen3-Embedding's examples/qwen3_reranker_transformers.py."""


class LocalScorer(Scorer):
    """Scores with a Qwen3-Reranker in this process: without a key, and no text leaves the machine.

    A Qwen3-VL-Reranker ranks images, too: then the query and each text can also be a `Content` with
    an image or frames of a video, and with a text. An image given as a URL is refused, not
    downloaded.

    The score is what the model's authors define: the probability of "yes" against "no" after the
    prompt of QwenLM/Qwen3-Embedding or QwenLM/Qwen3-VL-Embedding, in [0, 1]. Control tokens in a
    query or a text are read as plain text. A model converted to sequence classification with one
    label runs its own head.

    All calls run one after another in a single thread of the scorer, or in one more per device if
    there are several, whichever threads and event loops they come from. On a GPU, small calls that
    wait at the same time are computed in one batch, which changes their scores only by rounding. A
    call that is cancelled or interrupted ends after the current batch.

    Args:
        model: A folder, or an id on the hub, of a Qwen3-Reranker or a Qwen3-VL-Reranker. For a
            Qwen3-Reranker it can also be that of a LoRA adapter in PEFT's format, alone or in one
            folder with its base model; the adapter is merged into the weights, which needs the peft
            package.
        instruct: What relevant means; the model's authors recommend English. By default, the
            authors' own.
        device: `"cuda"`, `"cuda:1"`, `"mps"` or `"cpu"`; None for the first that is available. With
            a list such as `["cuda:0", "cuda:1"]` each device gets the whole model, and the texts of
            a call are shared out to them by tokens.
        dtype: `"bfloat16"`, `"float16"`, `"float32"` or `"int8"`; `"auto"` is bfloat16 if the
            hardware computes in it, otherwise float16 on CUDA and float32 on a CPU. `"int8"` is
            for CPUs with AVX512-VNNI or AMX. It quantizes weights and activations when it loads
            the model, and its scores are less precise: see docs/scorers.md.
        max_length: The maximum length of a prompt in tokens, of which the prompt itself takes about
            60; at most the number of the model's positions. None for 8192, or 10240 for a
            Qwen3-VL-Reranker, which adds the 5 tokens at the end of its prompt; or the number of
            positions if that is lower.
        truncate: Whether texts that make a prompt longer than `max_length` lose their end, which is
            counted in the usage and logged; false to raise an error that names them instead. Images
            are never cut.
        batch_tokens: The maximum number of tokens per batch; None for 4096 on a CPU and 16384
            elsewhere. On each device, it is halved when the device runs out of memory.
        revision: The branch, tag or commit on the hub.
        hub: Where to look up an id: `"huggingface"`, or `"modelscope"`, which needs the modelscope
            package.
        progress: Whether loading, and calls of more than two seconds, show progress bars.

    Raises:
        MissingDependencyError: torch, transformers, or a package that the model's format or the hub
            needs is not installed, or the installed transformers has other Qwen3 modules than
            LocalScorer expects.
        InvalidInputError: The model can't be loaded or is not such a reranker, or another argument
            is not valid.
    """

    def __init__(
        self,
        model: str = "Qwen/Qwen3-Reranker-0.6B",
        *,
        instruct: str | None = None,
        device: str | Sequence[str] | None = None,
        dtype: DType = "auto",
        max_length: int | None = None,
        truncate: bool = True,
        batch_tokens: int | None = None,
        revision: str | None = None,
        hub: Hub = "huggingface",
        progress: bool = False,
    ) -> None:
        check_flag("truncate", truncate)
        check_flag("progress", progress)
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
        self._truncate = truncate
        self._loaded: _Loaded | None = _load_model(**self._options)
        self._max_length = self._loaded.prompt.max_length
        self._instruct = self._loaded.prompt.instruct
        self._modalities = self._loaded.prompt.modalities
        self._worker = Worker()
        self._calls = CallQueue(self._worker)

    @property
    def model(self) -> str:
        """The folder or id that you passed."""
        name: str = self._options["model"]
        return name

    @property
    def fingerprint(self) -> tuple[Any, ...]:
        """The model, its revision and hub, the instruct, the dtype and the maximum length."""
        revision, hub, dtype = (self._options[name] for name in ("revision", "hub", "dtype"))
        return (*super().fingerprint, revision, hub, self._instruct, dtype, self._max_length)

    @property
    def modalities(self) -> frozenset[Modality]:
        """Text, and images and frames too if the model is a Qwen3-VL-Reranker."""
        return self._modalities

    def score(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Score the texts; see `Scorer.score`.

        Returns:
            Scores in [0, 1]. The usage counts the tokens that the model computed. The part that all
            prompts share counts once, and so do equal texts.

        Raises:
            InvalidInputError: The query is blank or fills `max_length`, a text is not a string that
                UTF-8 can encode, a text is too long and `truncate=False`, or the device has too
                little memory for a single text.
            BadResponseError: The model computes something that is not a number.
        """
        cancelled = Event()
        prompts = self._tokenize(query, texts)
        try:
            return self._scores(prompts, result_of(self._submit(prompts, cancelled)))
        finally:
            cancelled.set()

    async def ascore(self, query: Item, texts: Sequence[Item]) -> Scores:
        """Like `score`, without blocking the event loop. A cancelled call ends after a batch."""
        cancelled = Event()
        prompts = await to_thread(self._tokenize, query, texts)
        future = self._submit(prompts, cancelled)
        try:
            return self._scores(prompts, await asyncio.wrap_future(future))
        finally:
            cancelled.set()

    def _remedy_for(self, problem: Problem) -> str:
        return f"{super()._remedy_for(problem)} Load a reranker, such as Qwen/Qwen3-Reranker-0.6B."

    def close(self) -> None:
        """Release the model and its memory, after the calls in progress."""
        # First, so that no later call starts a thread that nobody ends.
        loaded, self._loaded = self._loaded, None
        self._worker.close()
        if loaded is not None:
            loaded.runner.close()

    def _open(self) -> _Loaded:
        if self._loaded is None:
            raise InvalidInputError(f"{self!r} is closed.", remedy="Create a new one.")
        return self._loaded

    def _tokenize(self, query: Item, texts: Sequence[Item]) -> TokenizedPrompts:
        """The prompts. They are made in the caller's thread, while the device computes others."""
        checked_query(query)
        loaded, texts = self._open(), checked_texts(texts)
        check_modalities(self.modalities, self.model, query, texts, "Text {}".format)
        prompts = loaded.prompt.tokenize(query, texts)
        if prompts.truncated:
            self._check_truncation(texts, prompts.truncated)
        return prompts

    def _submit(self, prompts: TokenizedPrompts, cancelled: Event) -> Future[Computed]:
        loaded = self._open()
        return self._calls.submit(loaded.runner, prompts, cancelled, loaded.join_tokens)

    def _scores(self, prompts: TokenizedPrompts, computed: Computed) -> Scores:
        logits, seconds = computed
        self._check_numbers(logits.values())
        usage = Usage(
            tokens=len(prompts.shared) + sum(map(len, logits)),
            texts_sent=len(prompts.rests),
            seconds=seconds,
            truncated=len(prompts.truncated),
            cost=0.0,
        )
        return probabilities(Scores([logits[rest] for rest in prompts.rests], usage))

    def _check_numbers(self, logits: Collection[float]) -> None:
        wrong = sum(not math.isfinite(logit) for logit in logits)
        if wrong:
            raise BadResponseError(
                f"The model {self.model!r} computes {wrong} of {len(logits)} scores that are not "
                "numbers: its weights are damaged, or its values are too large for the dtype.",
                remedy='Pass dtype="float32". If that does not help, download the model again.',
            )

    def _check_truncation(self, texts: Sequence[Item], truncated: Sequence[int]) -> None:
        check_truncation(
            self._truncate,
            f"{len(truncated)} of {len(texts)} texts exceed max_length="
            f"{self._max_length} tokens with the prompt and the query",
            (name_of(texts[index], index) for index in truncated),
            len(truncated),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the weights, which are loaded again on unpickling.
        return partial(type(self), **self._options, truncate=self._truncate), ()


class _Loaded(NamedTuple):
    prompt: Prompt | MultimodalPrompt
    runner: BatchRunner | DeviceGroup
    join_tokens: int  # small calls share batches of so many tokens; 0 for an own batch each


def _load_model(
    model: str,
    *,
    instruct: str | None,
    device: str | Sequence[str] | None,
    dtype: DType,
    max_length: int | None,
    batch_tokens: int | None,
    revision: str | None,
    hub: Hub,
    progress: bool,
) -> _Loaded:
    check_text("model", model)
    if revision is not None:
        check_text("revision", revision)
    if batch_tokens is not None:
        check_whole("batch_tokens", batch_tokens, at_least=1)
    try:
        import torch

        from qwen_rerank.scorers.local import hardware, loading
        from qwen_rerank.scorers.local.batching import BatchRunner
        from qwen_rerank.scorers.local.devices import DeviceGroup
        from qwen_rerank.scorers.local.threads import gain_of_threads
    except ImportError as error:
        raise MissingDependencyError(
            f"LocalScorer needs torch and transformers ({error}).",
            remedy='Install them: pip install "qwen-rerank[local]"',
        ) from error

    runners = []
    for chosen_device, chosen_dtype in hardware.choose_devices(device, dtype):
        loaded = loading.load(
            model,
            revision=revision,
            hub=hub,
            device=chosen_device,
            dtype=chosen_dtype,
            progress=progress,
        )
        default = _CPU_BATCH_TOKENS if chosen_device.type == "cpu" else _GPU_BATCH_TOKENS
        # In float32, products on all cores are as fast as batches side by side, in half the memory.
        shares_cores = chosen_device.type == "cpu" and chosen_dtype != torch.float32
        threads = torch.get_num_threads() if shares_cores else 1
        runner = BatchRunner(
            loaded.decoder,
            batch_tokens or default,
            threads=threads,
            gain=gain_of_threads(loaded.decoder, threads) if threads > 1 else 1.0,
            progress=progress,
        )
        runners.append(runner)
    prompt = _prompt(loaded, instruct, max_length)
    if prompt.max_length > loaded.decoder.max_positions:
        raise InvalidInputError(
            f"max_length must be at most {loaded.decoder.max_positions}, the number of the model's "
            f"positions, got {max_length}."
        )
    join_tokens = 0 if chosen_device.type == "cpu" else batch_tokens or _GPU_BATCH_TOKENS
    group = runners[0] if len(runners) == 1 else DeviceGroup(runners)
    return _Loaded(prompt, group, join_tokens)


def _prompt(
    loaded: LoadedModel, instruct: str | None, max_length: int | None
) -> Prompt | MultimodalPrompt:
    """The prompt of the model's authors, with their own instruct and maximum length by default."""
    from qwen_rerank.scorers.local import multimodal_prompt as multimodal

    tokenizer, decoder, reader = loaded
    if reader is None:
        default_instruct, default_length = DEFAULT_INSTRUCT, _MAX_LENGTH
    else:
        default_instruct, default_length = multimodal.INSTRUCT, multimodal.MAX_LENGTH
    if instruct is None:
        instruct = default_instruct
    if max_length is None:
        max_length = min(default_length, decoder.max_positions)
    if reader is None:
        return Prompt(tokenizer, instruct, max_length)
    return multimodal.MultimodalPrompt(tokenizer, reader, instruct, max_length)

"""Where a model's files are, what kind it is, and where and how precisely it should run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import cached_file

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers.local.decoder import Decoder
from qwen_rerank.scorers.local.prompt import plain

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DType", "Hub", "choose_device", "choose_dtype", "load", "yes_and_no"]

DType: TypeAlias = Literal["auto", "bfloat16", "float16", "float32"]
Hub: TypeAlias = Literal["huggingface", "modelscope"]

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def load(
    model: str, *, revision: str | None, hub: Hub, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedTokenizerBase, Decoder]:
    """Load a Qwen3 reranker: as published, or converted to a sequence classifier with one label.

    Raises:
        InvalidInputError: It can't be found or read, or is not such a model.
        MissingDependencyError: hub="modelscope", and the modelscope package is not installed.
    """
    if hub not in get_args(Hub):
        raise InvalidInputError(f'hub must be "huggingface" or "modelscope", got {hub!r}.')
    source = model
    if hub == "modelscope" and not Path(model).is_dir():
        source, revision = _from_modelscope(model, revision), None
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        kind = _kind(model, config, embeds=_embeds(source, revision))
        loaded, report = kind.from_pretrained(
            source, revision=revision, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise _unreadable(model, error) from error
    if report["missing_keys"]:
        raise _unsuitable(model, f"has no weights for {', '.join(sorted(report['missing_keys']))}")
    loaded = loaded.to(device).eval()
    if any(layer.self_attn.sliding_window is not None for layer in loaded.model.layers):
        raise _unsuitable(model, "has layers with a sliding window")
    return tokenizer, Decoder(loaded.model, _direction(model, loaded, tokenizer))


def _kind(model: str, config: PretrainedConfig, *, embeds: bool) -> Any:
    architecture = next(iter(config.architectures or ()), "unknown")
    if architecture == "Qwen3ForCausalLM" and embeds:
        raise _unsuitable(model, "makes embeddings, for which its repository has a pooling module")
    if architecture == "Qwen3ForCausalLM":
        return AutoModelForCausalLM
    if architecture != "Qwen3ForSequenceClassification":
        raise _unsuitable(model, f"has the architecture {architecture}")
    if config.num_labels != 1:
        raise _unsuitable(model, f"is a classifier with {config.num_labels} labels")
    return AutoModelForSequenceClassification


def _embeds(source: str, revision: str | None) -> bool:
    """Whether the model gives each text a vector, as Qwen3-Embedding does.

    Its architecture is that of Qwen3-Reranker. What it has more is sentence-transformers' module
    that picks the vector; where a reranker has modules, it has a LogitScore instead.
    """
    try:
        return cached_file(source, "1_Pooling/config.json", revision=revision) is not None
    except OSError:  # it has none, or the hub can't be asked
        return False


def _direction(
    model: str, loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """float32 (hidden size): what the last hidden state is multiplied by to give the logit."""
    if hasattr(loaded, "score"):
        return loaded.score.weight.detach()[0].float()
    yes, no = yes_and_no(model, tokenizer)
    weights = loaded.lm_head.weight.detach()
    return weights[yes].float() - weights[no].float()


def yes_and_no(model: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of "yes" and "no", 9693 and 2152 in Qwen's vocabulary.

    Raises:
        InvalidInputError: One of them is not one token.
    """
    ids = [plain(tokenizer).encode(word, add_special_tokens=False).ids for word in ("yes", "no")]
    if any(len(tokens) != 1 for tokens in ids):
        raise _unsuitable(model, 'has a tokenizer in which "yes" or "no" is not one token')
    return ids[0][0], ids[1][0]


def choose_device(device: str | None) -> torch.device:
    """The device of this name; without one CUDA, else Apple's mps, else the CPU.

    Raises:
        InvalidInputError: There is no such device.
    """
    if device is None:
        found = torch.cuda.is_available(), torch.backends.mps.is_available()
        return torch.device("cuda" if found[0] else "mps" if found[1] else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise InvalidInputError(
            f"device={device!r} can't be used: {error}",
            remedy='Leave it out, or pass "cuda", "cuda:1", "mps" or "cpu".',
        ) from error
    return chosen


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The number format of this name, or the fastest that is precise enough there.

    "auto" is bfloat16 where the hardware computes in it, as all Apple and all CUDA devices since
    Ampere do. Elsewhere it is float16 under CUDA, and float32 on a CPU.

    Raises:
        InvalidInputError: Not a name of one, or float16 on a CPU.
    """
    if dtype == "auto":
        return _fastest(device)
    if dtype not in _DTYPES:
        raise InvalidInputError(
            f"dtype must be one of {', '.join(map(repr, ('auto', *_DTYPES)))}, got {dtype!r}."
        )
    if device.type == "cpu" and dtype == "float16":
        raise InvalidInputError(
            'dtype="float16" is of no use on a CPU: it computes in it 10 times slower than in '
            "float32.",
            remedy='Leave it out, or pass "bfloat16" or "float32".',
        )
    return _DTYPES[dtype]


def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and not _computes_in_bfloat16():
        return torch.float32
    return torch.bfloat16


def _computes_in_bfloat16() -> bool:
    """Whether an x86 CPU multiplies bfloat16 itself; then it is 3 times as fast as float32."""
    capabilities: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # since torch 2.11
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _from_modelscope(model: str, revision: str | None) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f'hub="modelscope" needs the modelscope package ({error}).',
            remedy="Install it: pip install modelscope",
        ) from error
    folder: str = snapshot_download(model, revision=revision)
    return folder


def _unreadable(model: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"The model {model!r} can't be loaded: {error}",
        remedy="Pass the folder that holds it, or its id on a hub that can be reached "
        '(hub="modelscope" takes it from there).',
    )


def _unsuitable(model: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"The model {model!r} {why}.",
        remedy="Take a Qwen3-Reranker, or one converted to sequence classification with one label.",
    )

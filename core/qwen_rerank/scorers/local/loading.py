"""Load a model: find its files, check its kind, and choose its device and dtype."""

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
from qwen_rerank.scorers.local.compatibility import check_modules, check_result
from qwen_rerank.scorers.local.decoder import Decoder
from qwen_rerank.scorers.local.prompt import without_added_tokens

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
    """Load a Qwen3 reranker, as published or converted to a sequence classifier with one label.

    Raises:
        InvalidInputError: The model can't be found or read, or is not such a model.
        MissingDependencyError: hub="modelscope" and the modelscope package is not installed, or
            the installed transformers has other modules than LocalScorer expects.
    """
    if hub not in get_args(Hub):
        raise InvalidInputError(f'hub must be "huggingface" or "modelscope", got {hub!r}.')
    source = model
    if hub == "modelscope" and not Path(model).is_dir():
        source, revision = _from_modelscope(model, revision), None
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        model_class = _model_class(model, config, embeds=_embeds(source, revision))
        loaded, report = model_class.from_pretrained(
            source, revision=revision, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise _unreadable(model, error) from error
    if report["missing_keys"]:
        raise _unsuitable(model, f"has no weights for {', '.join(sorted(report['missing_keys']))}")
    loaded = loaded.to(device).eval()
    check_modules(loaded.model)
    if any(layer.self_attn.sliding_window is not None for layer in loaded.model.layers):
        raise _unsuitable(model, "has layers with a sliding window")
    decoder = Decoder(loaded.model, _relevance_direction(model, loaded, tokenizer))
    check_result(loaded.model, decoder)
    return tokenizer, decoder


def _model_class(model: str, config: PretrainedConfig, *, embeds: bool) -> Any:
    architecture = next(iter(config.architectures or ()), "unknown")
    if architecture == "Qwen3ForCausalLM" and embeds:
        raise _unsuitable(model, "is an embedding model: its repository has a pooling module")
    if architecture == "Qwen3ForCausalLM":
        return AutoModelForCausalLM
    if architecture != "Qwen3ForSequenceClassification":
        raise _unsuitable(model, f"has the architecture {architecture}")
    if config.num_labels != 1:
        raise _unsuitable(model, f"is a classifier with {config.num_labels} labels")
    return AutoModelForSequenceClassification


def _embeds(source: str, revision: str | None) -> bool:
    """Whether the model is an embedding model, such as Qwen3-Embedding.

    It has the architecture of Qwen3-Reranker. But its repository has sentence-transformers' pooling
    module; that of a reranker has a LogitScore module instead, if any.
    """
    try:
        return cached_file(source, "1_Pooling/config.json", revision=revision) is not None
    except OSError:  # it has none, or the hub can't be reached
        return False


def _relevance_direction(
    model: str, loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """float32 (hidden size): the logit is its product with the last hidden state."""
    if hasattr(loaded, "score"):
        return loaded.score.weight.detach()[0].float()
    yes, no = yes_and_no(model, tokenizer)
    weights = loaded.lm_head.weight.detach()
    return weights[yes].float() - weights[no].float()


def yes_and_no(model: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the token ids of "yes" and "no": 9693 and 2152 in Qwen's vocabulary.

    Raises:
        InvalidInputError: One of the words is not a single token.
    """
    plain = without_added_tokens(tokenizer)
    ids = [plain.encode(word, add_special_tokens=False).ids for word in ("yes", "no")]
    if any(len(tokens) != 1 for tokens in ids):
        raise _unsuitable(model, 'has a tokenizer in which "yes" or "no" is not a single token')
    return ids[0][0], ids[1][0]


def choose_device(device: str | None) -> torch.device:
    """Return the device with this name; by default CUDA, else Apple's mps, else the CPU.

    Raises:
        InvalidInputError: The device does not exist or can't be used.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise InvalidInputError(
            f"device={device!r} can't be used: {error}",
            remedy='Omit it, or pass "cuda", "cuda:1", "mps" or "cpu".',
        ) from error
    return chosen


def choose_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """The dtype with this name; "auto" is the fastest one that is precise enough on the device.

    That is bfloat16 if the hardware computes in it, like all Apple devices and all CUDA devices
    since Ampere. Otherwise it is float16 on CUDA and float32 on a CPU.

    Raises:
        InvalidInputError: The name is unknown, or float16 on a CPU.
    """
    if dtype == "auto":
        return _fastest(device)
    if dtype not in _DTYPES:
        raise InvalidInputError(
            f"dtype must be one of {', '.join(map(repr, ('auto', *_DTYPES)))}, got {dtype!r}."
        )
    if device.type == "cpu" and dtype == "float16":
        raise InvalidInputError(
            'dtype="float16" is 10 times slower than "float32" on a CPU.',
            remedy='Omit it, or pass "bfloat16" or "float32".',
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
    """Whether an x86 CPU multiplies bfloat16 in hardware, 3 times as fast as float32."""
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
        f"Could not load the model {model!r}: {error}",
        remedy="Pass a folder that contains the model, or its id on a hub that can be reached "
        '(hub="modelscope" loads it from ModelScope).',
    )


def _unsuitable(model: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"The model {model!r} {why}.",
        remedy="Choose a Qwen3-Reranker, or one converted to a sequence classifier with one label.",
    )

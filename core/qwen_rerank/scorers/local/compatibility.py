"""Checks that the installed transformers has the modules that the decoder runs by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from qwen_rerank.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    from qwen_rerank.scorers.local.decoder import Decoder

__all__ = ["check_modules", "check_quantized", "check_result"]

_TESTED_VERSIONS = "transformers>=4.56,<5.25"

_MODEL = ("config", "embed_tokens", "layers", "norm", "rotary_emb")
_CONFIG = ("hidden_size", "max_position_embeddings", "num_attention_heads", "num_key_value_heads")
_LAYER = ("input_layernorm", "mlp", "post_attention_layernorm", "self_attn")
_ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("q_norm", "k_norm", "head_dim"),
)

_CHECKED_LAYERS = 2
"""All layers compute the same thing, and a large model is slow on a CPU."""

_MAX_DIFFERENCE = 0.2
"""Relative to the hidden state. In bfloat16, rounding alone accounts for 0.02."""


def check_modules(model: Qwen3Model) -> None:
    """Check that the model has the modules that the decoder runs, in the shapes that it expects.

    Raises:
        MissingDependencyError: The installed transformers has other modules.
    """
    _check_names("the model", model, _MODEL)
    _check_names("its config", model.config, _CONFIG)
    for index, layer in enumerate(model.layers):
        _check_names(f"layer {index}", layer, _LAYER)
        _check_names(f"the attention of layer {index}", layer.self_attn, _ATTENTION)
        for name, expected, actual in _shapes(model.config, layer.self_attn):
            if tuple(actual) != expected:
                raise _incompatible(
                    f"{name} of layer {index} has the shape {tuple(actual)} instead of {expected}"
                )


def check_result(model: Qwen3Model, decoder: Decoder) -> None:
    """Check that the decoder computes what the model itself computes, for a few tokens.

    Raises:
        MissingDependencyError: The installed transformers computes something else.
    """
    difference = _difference(model, decoder)
    if difference > _MAX_DIFFERENCE:
        raise _incompatible(f"their result differs by {difference:.0%} from LocalScorer's")


def check_quantized(model: Qwen3Model, decoder: Decoder) -> None:
    """Check that a quantized decoder still computes what the model computes.

    Raises:
        InvalidInputError: It does not.
    """
    difference = _difference(model, decoder)
    if difference > _MAX_DIFFERENCE:
        raise InvalidInputError(
            f'The model loses too much with dtype="int8": the result of its first layers differs '
            f"by {difference:.0%}.",
            remedy='Omit dtype="int8" for this model.',
        )


def _difference(model: Qwen3Model, decoder: Decoder) -> float:
    """The relative difference of a hidden state after the first layers."""
    tokens = list(range(1, 9))
    first = decoder.first_layers(_CHECKED_LAYERS)
    with torch.inference_mode(), _first_layers(model):
        states = model(torch.tensor([tokens], device=decoder.device), use_cache=False)
        expected = states.last_hidden_state[0, -1].float()
        actual = first.last_hidden(first.prefix_cache(tokens[:4]), [tokens[4:]])[0].float()
    difference: float = ((actual - expected).norm() / expected.norm()).item()
    return difference


@contextmanager
def _first_layers(model: Qwen3Model) -> Iterator[None]:
    layers = model.layers
    model.layers = layers[:_CHECKED_LAYERS]
    try:
        yield
    finally:
        model.layers = layers


def _check_names(owner: str, value: Any, names: Sequence[str]) -> None:
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise _incompatible(f"{owner} has no {', '.join(missing)}")


def _shapes(config: Any, attention: Any) -> Iterator[tuple[str, tuple[int, ...], Sequence[int]]]:
    """The name, expected shape and actual shape of each weight that the decoder relies on."""
    hidden, dim = config.hidden_size, attention.head_dim
    queries = config.num_attention_heads * dim
    keys = config.num_key_value_heads * dim
    expected = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "q_norm": (dim,),
        "k_norm": (dim,),
    }
    for name, shape in expected.items():
        module: nn.Module = getattr(attention, name)
        _check_names(name, module, ["weight"])
        yield name, shape, module.weight.shape


def _incompatible(difference: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"LocalScorer can't run the Qwen3 modules of transformers {transformers.__version__}: "
        f"{difference}.",
        remedy=f'Install a version that works: pip install "{_TESTED_VERSIONS}"',
    )

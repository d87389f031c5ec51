"""A layer of the decoder on a CPU: products in bfloat16 or int8, all else in float32.

Neighbouring products are one, and a layer works on blocks of rows that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Linear, Parameter
from torch.nn.functional import silu

from qwen_rerank.scorers.local.decoder import Network, Rotary
from qwen_rerank.scorers.local.products import FloatProduct, Int8Product, Product
from qwen_rerank.scorers.local.rotation import rotate_blocks, rotation

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

__all__ = ["can_run", "float_network", "int8_network"]

_ROWS = 256
"""Rows per block. Their activations stay in the second-level cache."""

_DOWN_BLOCK = 64
"""Channels that are rotated together before the last product. Larger blocks take longer."""


def can_run(model: Qwen3Model) -> bool:
    """Whether the layers are of the usual modules, with weights that are plain matrices.

    Those of a quantized model are not.
    """
    return model.config.hidden_act == "silu" and all(
        hasattr(layer.input_layernorm, "variance_epsilon")
        and all(hasattr(layer.mlp, name) for name in ("gate_proj", "up_proj", "down_proj"))
        and all(
            type(linear) is Linear and linear.bias is None
            for group in _linears(layer)
            for linear in group
        )
        for layer in model.layers
    )


def float_network(model: Qwen3Model) -> Network:
    """The network with products in the dtype of the weights."""
    layers = []
    for layer in model.layers:
        products = [FloatProduct(_joined(group)) for group in _linears(layer)]
        norms = layer.input_layernorm.weight.float(), layer.post_attention_layernorm.weight.float()
        layers.append(CpuLayer(layer, products, norms))
    return Network(layers, hidden_dtype=torch.float32)


def int8_network(model: Qwen3Model) -> Network:
    """The network with products in int8, whose weights are rotated copies of the model's.

    Q rotates the hidden states, R the values of each head, and D blocks of channels before the last
    product. The weights of the norms are part of the weights of the products that follow.
    """
    hidden, head_dim = model.config.hidden_size, model.layers[0].self_attn.head_dim
    q, r = rotation(hidden), rotation(head_dim)
    d = rotation(math.gcd(_DOWN_BLOCK, model.config.intermediate_size))
    layers = []
    for layer in model.layers:
        qkv, output, gate_up, down = (_joined(group).float() for group in _linears(layer))
        values = len(layer.self_attn.v_proj.weight)
        qk, v = qkv.split((len(qkv) - values, values))
        v = (r.T @ v.unflatten(0, (-1, head_dim))).flatten(0, 1)
        weights = (
            (torch.cat((qk, v)) * layer.input_layernorm.weight.float()) @ q,
            q.T @ rotate_blocks(output, r),
            (gate_up * layer.post_attention_layernorm.weight.float()) @ q,
            q.T @ rotate_blocks(down, d),
        )
        layers.append(CpuLayer(layer, list(map(Int8Product, weights)), down_rotation=d))
    return Network(layers, hidden_dtype=torch.float32, rotation=q, value_rotation=r)


class CpuLayer:
    """A layer that runs on blocks of rows. It changes the hidden states in place.

    Args:
        layer: The layer as loaded.
        products: Those of queries, keys and values; of the attention's output; of gate and up; and
            the last one.
        norms: The weights of both norms of the hidden states; None if the products include them.
        down_rotation: Rotates blocks of channels before the last product; None for no rotation.
    """

    def __init__(
        self,
        layer: Qwen3DecoderLayer,
        products: Sequence[Product],
        norms: Sequence[Tensor | None] = (None, None),
        down_rotation: Tensor | None = None,
    ) -> None:
        attention = layer.self_attn
        self._dtype = attention.q_proj.weight.dtype
        self._qkv, self._output, self._gate_up, self._down = products
        self._input_norm, self._post_norm = norms
        self._down_rotation = down_rotation
        self._eps = layer.input_layernorm.variance_epsilon
        self._head_dim: int = attention.head_dim
        heads, key_heads = (
            len(linear.weight) // self._head_dim for linear in (attention.q_proj, attention.k_proj)
        )
        self._split = (heads, key_heads, key_heads)
        self._head_norm = torch.cat(
            (
                attention.q_norm.weight.float().expand(heads, -1),
                attention.k_norm.weight.float().expand(key_heads, -1),
            )
        )

    def heads(self, hidden: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values, each (tokens, heads, dim), rotated by position."""
        shape = len(hidden), sum(self._split), self._head_dim
        heads = hidden.new_empty(shape, dtype=self._dtype)
        for rows in _blocks(len(hidden)):
            values, factor = self._qkv(_normalized(hidden[rows], self._input_norm, self._eps))
            made = values.float().unflatten(1, (-1, self._head_dim))
            qk, v = made.split((len(self._head_norm), self._split[2]), dim=1)
            # Normalized heads don't depend on the factor, apart from eps.
            eps = self._eps if factor is None else self._eps / factor.square()[..., None]
            normalized = _normalized(qk, self._head_norm, eps)
            heads[rows, : len(self._head_norm)] = rotary.at(rows).rotate(normalized)
            heads[rows, len(self._head_norm) :] = v if factor is None else v * factor[..., None]
        q, k, v = heads.split(self._split, dim=1)
        return q, k, v

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer, with both residual connections."""
        for rows in _blocks(len(hidden)):
            part = hidden[rows]
            _add(part, *self._output(attended[rows].float()))
            gate_up, factor = self._gate_up(_normalized(part, self._post_norm, self._eps))
            gate, up = gate_up.chunk(2, dim=1)
            inner = silu(gate if factor is None else gate * factor, inplace=True).mul_(up)
            if self._down_rotation is not None:
                inner = rotate_blocks(inner, self._down_rotation)
            values, own_factor = self._down(inner)
            if factor is not None and own_factor is not None:
                own_factor = own_factor * factor  # that of `up`
            _add(part, values, own_factor)
        return hidden


def _linears(layer: Qwen3DecoderLayer) -> tuple[tuple[Linear, ...], ...]:
    """What has the same input, in the order of the computation."""
    attention, mlp = layer.self_attn, layer.mlp
    return (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )


def _joined(linears: Sequence[Linear]) -> Tensor:
    """Join the weights, of which the modules keep views, so that no weight is in memory twice."""
    if len(linears) == 1:
        return linears[0].weight.detach()
    joined = torch.cat([linear.weight.detach() for linear in linears])
    parts = joined.split([len(linear.weight) for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight = Parameter(part, requires_grad=False)
    return joined


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _ROWS):
        yield slice(start, start + _ROWS)


def _normalized(values: Tensor, weight: Tensor | None, eps: float | Tensor) -> Tensor:
    """The root mean square norm over the last dimension."""
    mean = values.square().mean(-1, keepdim=True)
    normalized = values * mean.add_(eps).rsqrt_()
    return normalized if weight is None else normalized.mul_(weight)


def _add(hidden: Tensor, values: Tensor, factor: Tensor | None) -> None:
    if factor is None:
        hidden.add_(values)
    else:
        hidden.addcmul_(values, factor)

"""Causal attention of packed sequences that share a prefix.

Packed sequences lie one after another in one tensor, without padding, so that all other operations
of the decoder compute real tokens only. There are three implementations with the same results:

- `PerSequenceAttention`, for the CPU: plain matrix products over blocks of a sequence's queries,
  each over the keys that it may see. On 2 cores in bfloat16 it is three times as fast as the fused
  kernel.
- `PaddedAttention`, for accelerators: one call of the fused kernel for all sequences, padded to the
  longest. The padding is on the right, where causal attention never looks.
- `PackedAttention`, for accelerators where torch has FlashAttention for packed sequences: without
  padding and without a mask.

The first two fold the query heads that share a key head into one longer query, so keys and values
are never repeated.

Shapes: queries (tokens, heads, dim), keys and values (tokens, key heads, dim), keys and values of
the prefix (key heads, prefix tokens, dim), results (tokens, heads * dim).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = [
    "Attention",
    "PackedAttention",
    "PaddedAttention",
    "PerSequenceAttention",
    "attention_on",
    "can_attend_packed",
    "make_attention",
]

_log = logging.getLogger(__name__)

_BLOCK = 256  # queries; anything from 128 to 512 is about as fast


class Attention(Protocol):
    """The attention of one batch, the same in every layer."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
    ) -> Tensor: ...


def make_attention(lengths: Sequence[int], prefix: int, like: Tensor) -> Attention:
    """Make the attention that is faster on the tensor's device.

    Args:
        lengths: Tokens per sequence.
        prefix: Tokens of the prefix.
        like: A tensor with the device and dtype to use.
    """
    kind = attention_on(like.device, like.dtype)
    return kind(lengths, prefix, like)


def attention_on(
    device: torch.device, dtype: torch.dtype
) -> type[PerSequenceAttention | PaddedAttention | PackedAttention]:
    """The attention that is faster on a device."""
    if device.type == "cpu":
        return PerSequenceAttention
    return PackedAttention if can_attend_packed(device, dtype) else PaddedAttention


class PerSequenceAttention:
    """One sequence after another, one block of queries after another."""

    def __init__(self, lengths: Sequence[int], prefix: int, like: Tensor) -> None:
        self._spans = list(pairwise(accumulate(lengths, initial=0)))
        self._prefix = prefix
        self._mask = _causal_mask(min(_BLOCK, max(lengths)), like)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
    ) -> Tensor:
        attended = q.new_empty(q.shape).flatten(1)
        for start, end in self._spans:
            keys = torch.cat((prefix_k, k[start:end].transpose(0, 1)), dim=1)
            values = torch.cat((prefix_v, v[start:end].transpose(0, 1)), dim=1)
            for first in range(start, end, _BLOCK):
                last = min(first + _BLOCK, end)
                seen = self._prefix + last - start
                attended[first:last] = self._block(q[first:last], keys[:, :seen], values[:, :seen])
        return attended

    def _block(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return the attention of a block. Its own keys are the last ones that it may see."""
        queries = _fold_heads(q, len(keys))
        scores = queries.new_empty(*queries.shape[:2], keys.shape[1])
        scores.baddbmm_(queries, keys.mT, beta=0, alpha=q.shape[2] ** -0.5)
        scores.unflatten(1, (-1, len(q)))[..., -len(q) :] += self._mask[: len(q), : len(q)]
        return _unfold_heads(torch.bmm(scores.softmax(-1), values), len(q))


class PaddedAttention:
    """All sequences at once, padded to the longest."""

    def __init__(self, lengths: Sequence[int], prefix: int, like: Tensor) -> None:
        real = torch.tensor(lengths, device=like.device)[:, None]
        column = torch.arange(max(lengths), device=like.device)
        # The padding repeats a sequence's last token, and its results are dropped.
        self._padded_indices = real.cumsum(0) - real + column.minimum(real - 1)
        self._real_indices = (column < real).flatten().nonzero().squeeze(1)
        see_prefix = like.new_zeros(len(column), prefix)
        self._mask = torch.cat((see_prefix, _causal_mask(len(column), like)), dim=1)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
    ) -> Tensor:
        attended = scaled_dot_product_attention(
            _fold_heads(q[self._padded_indices], len(prefix_k)),
            self._with_prefix(prefix_k, k),
            self._with_prefix(prefix_v, v),
            attn_mask=self._mask.repeat(q.shape[1] // len(prefix_k), 1),
        )
        unfolded = _unfold_heads(attended, self._padded_indices.shape[1])
        return unfolded.flatten(0, 1)[self._real_indices]

    def _with_prefix(self, prefix: Tensor, own: Tensor) -> Tensor:
        """Keys or values of the prefix and each sequence: (sequences, key heads, tokens, dim)."""
        padded = own[self._padded_indices].transpose(1, 2)
        return torch.cat((prefix.expand(len(padded), -1, -1, -1), padded), dim=2)


class PackedAttention:
    """All sequences at once, by torch.nn.attention.varlen, which newer versions of torch have."""

    def __init__(self, lengths: Sequence[int], prefix: int, like: Tensor) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._attend = varlen_attn
        own = torch.tensor([0, *lengths], device=like.device)
        starts = own.cumsum(0)
        # Each sequence's keys are those of the prefix, then its own, in a row.
        key_starts = starts + prefix * torch.arange(len(own), device=like.device)
        sequence = torch.arange(len(lengths), device=like.device).repeat_interleave(
            own[1:] + prefix, output_size=sum(lengths) + prefix * len(lengths)
        )
        column = torch.arange(len(sequence), device=like.device) - key_starts[sequence]
        self._key_indices = torch.where(column < prefix, column, starts[sequence] + column)
        self._starts, self._key_starts = starts.int(), key_starts.int()
        self._longest, self._longest_keys = max(lengths), max(lengths) + prefix

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor
    ) -> Tensor:
        attended: Tensor = self._attend(
            q,
            torch.cat((prefix_k.transpose(0, 1), k))[self._key_indices],
            torch.cat((prefix_v.transpose(0, 1), v))[self._key_indices],
            self._starts,
            self._key_starts,
            self._longest,
            self._longest_keys,
            window_size=(-1, 0),
            enable_gqa=True,
        )
        return attended.flatten(1)


@lru_cache
def can_attend_packed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `PackedAttention` works on the device, and gives the results of `PaddedAttention`."""
    lengths, prefix, heads, key_heads, dim = (3, 70, 1), 5, 4, 2, 128
    tokens = sum(lengths)
    shapes = [
        (tokens, heads, dim),
        *[(tokens, key_heads, dim)] * 2,
        *[(key_heads, prefix, dim)] * 2,
    ]
    generator = torch.Generator().manual_seed(0)
    try:
        tensors = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
        packed = PackedAttention(lengths, prefix, tensors[0])(*tensors)
        padded = PaddedAttention(lengths, prefix, tensors[0])(*tensors)
        difference: float = (packed.float() - padded.float()).abs().max().item()
    except Exception as error:  # an older torch, another device or dtype: each raises its own
        _log.debug("No attention for packed sequences on %s in %s: %s", device, dtype, error)
        return False
    return difference < _MAX_ROUNDING


_MAX_ROUNDING = 0.05
"""Values are about 1. In bfloat16, rounding accounts for 0.01; a wrong mask for about 1."""


def _causal_mask(size: int, like: Tensor) -> Tensor:
    """Minus infinity above the diagonal, which hides later positions from earlier ones; else 0."""
    return like.new_full((size, size), -math.inf).triu(1)


def _fold_heads(q: Tensor, key_heads: int) -> Tensor:
    """(…, tokens, heads, dim) as (…, key heads, heads / key heads * tokens, dim)."""
    return q.unflatten(-2, (key_heads, -1)).movedim(-4, -2).flatten(-3, -2)


def _unfold_heads(attended: Tensor, tokens: int) -> Tensor:
    """(…, key heads, heads / key heads * tokens, dim) as (…, tokens, heads * dim)."""
    return attended.unflatten(-2, (-1, tokens)).movedim(-2, -4).flatten(-3)

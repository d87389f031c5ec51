"""Attention of packed rows: each to the lead before it, and to itself up to each position.

Packed rows lie one after another in one tensor, without padding, so that every other operation of
the decoder works on real tokens only. Two ways, which give the same:

- `RowByRow`, for the CPU: plain matrix products over blocks of a row's queries, each over the keys
  that it may see. Three times as fast there as the fused kernel, in bfloat16 on 2 cores.
- `Padded`, for accelerators: the rows of a batch in one call of the fused kernel, padded to the
  longest. The padding is on the right, where causal attention never looks.

Both fold the query heads that share a key head into one longer query, so that keys and values are
never repeated.

Shapes: queries (tokens, heads, dim), keys and values (tokens, key heads, dim), those of the lead
(key heads, lead tokens, dim), results (tokens, heads * dim).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["Attention", "Padded", "RowByRow", "attention"]

_BLOCK = 256  # queries; anything from 128 to 512 is about as fast


class Attention(Protocol):
    """The attention of one batch, the same in every layer."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, lead_k: Tensor, lead_v: Tensor
    ) -> Tensor: ...


def attention(lengths: Sequence[int], lead: int, like: Tensor) -> Attention:
    """The faster way where the tensor is, for rows of these lengths behind a lead of that one."""
    way = RowByRow if like.device.type == "cpu" else Padded
    return way(lengths, lead, like)


class RowByRow:
    """One row after another, one block of queries after another."""

    def __init__(self, lengths: Sequence[int], lead: int, like: Tensor) -> None:
        self._spans = list(pairwise(accumulate(lengths, initial=0)))
        self._lead = lead
        self._hidden = _hidden(min(_BLOCK, max(lengths)), like)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, lead_k: Tensor, lead_v: Tensor) -> Tensor:
        attended = q.new_empty(q.shape).flatten(1)
        for start, end in self._spans:
            keys = torch.cat((lead_k, k[start:end].transpose(0, 1)), dim=1)
            values = torch.cat((lead_v, v[start:end].transpose(0, 1)), dim=1)
            for first in range(start, end, _BLOCK):
                last = min(first + _BLOCK, end)
                seen = self._lead + last - start
                attended[first:last] = self._block(q[first:last], keys[:, :seen], values[:, :seen])
        return attended

    def _block(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of a block, whose own keys are the last of those it may see."""
        queries = _folded(q, len(keys))
        scores = queries.new_empty(*queries.shape[:2], keys.shape[1])
        scores.baddbmm_(queries, keys.mT, beta=0, alpha=q.shape[2] ** -0.5)
        scores.unflatten(1, (-1, len(q)))[..., -len(q) :] += self._hidden[: len(q), : len(q)]
        return _unfolded(torch.bmm(scores.softmax(-1), values), len(q))


class Padded:
    """All rows at once, padded to the longest."""

    def __init__(self, lengths: Sequence[int], lead: int, like: Tensor) -> None:
        real = torch.tensor(lengths, device=like.device)[:, None]
        column = torch.arange(max(lengths), device=like.device)
        # The padding repeats a row's last token; what comes out for it is left out again.
        self._places = real.cumsum(0) - real + column.minimum(real - 1)
        self._kept = (column < real).flatten().nonzero().squeeze(1)
        before = like.new_zeros(len(column), lead)
        self._mask = torch.cat((before, _hidden(len(column), like)), dim=1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, lead_k: Tensor, lead_v: Tensor) -> Tensor:
        attended = scaled_dot_product_attention(
            _folded(q[self._places], len(lead_k)),
            self._behind(lead_k, k),
            self._behind(lead_v, v),
            attn_mask=self._mask.repeat(q.shape[1] // len(lead_k), 1),
        )
        return _unfolded(attended, self._places.shape[1]).flatten(0, 1)[self._kept]

    def _behind(self, lead: Tensor, own: Tensor) -> Tensor:
        """The lead's keys or values and each row's: (rows, key heads, lead + longest, dim)."""
        rows = own[self._places].transpose(1, 2)
        return torch.cat((lead.expand(len(rows), -1, -1, -1), rows), dim=2)


def _hidden(size: int, like: Tensor) -> Tensor:
    """What hides later positions from earlier ones: minus infinity above the diagonal, else 0."""
    return like.new_full((size, size), -math.inf).triu(1)


def _folded(q: Tensor, key_heads: int) -> Tensor:
    """(…, tokens, heads, dim) as (…, key heads, heads / key heads * tokens, dim)."""
    return q.unflatten(-2, (key_heads, -1)).movedim(-4, -2).flatten(-3, -2)


def _unfolded(attended: Tensor, tokens: int) -> Tensor:
    """(…, key heads, heads / key heads * tokens, dim) as (…, tokens, heads * dim)."""
    return attended.unflatten(-2, (-1, tokens)).movedim(-2, -4).flatten(-3)

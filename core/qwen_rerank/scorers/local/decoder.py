"""The decoder of a Qwen3 model, run for one number a row.

The modules are those that transformers loaded; what differs is how they are run. The lead, which
all rows share, goes through once, and its keys and values serve every batch. Rows are packed
without padding. The last layer goes on with each row's last token only, and of the vocabulary one
direction is left: that from "no" to "yes".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from qwen_rerank.scorers.local.attention import attention

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

__all__ = ["Decoder", "Lead"]

Lead: TypeAlias = list[tuple[Tensor, Tensor]]
"""The lead's keys and values in each layer, each (key heads, lead tokens, dim)."""


class Decoder:
    """Gives each row the logarithm of the odds that its text is relevant.

    Args:
        model: The loaded decoder, without a head.
        direction: float32 (hidden size): the weights of "yes" minus those of "no".
    """

    def __init__(self, model: Qwen3Model, direction: Tensor) -> None:
        self._model = model
        self._direction = direction

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._direction.device

    @property
    def positions(self) -> int:
        """Tokens that a prompt can have at most."""
        positions: int = self._model.config.max_position_embeddings
        return positions

    def lead(self, tokens: Sequence[int]) -> Lead:
        """The keys and values of what all rows start with, to be passed to `logits`."""
        with torch.inference_mode():
            packed = _Packed(self._model, [tokens], start=0)
            kept: Lead = []
            hidden = packed.embedded
            for layer in self._model.layers:
                q, k, v = packed.heads(layer, hidden)
                nothing = k.new_empty(k.shape[1], 0, k.shape[2])
                hidden = _rest(layer, hidden, packed.attend(q, k, v, nothing, nothing))
                kept.append((k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()))
            return kept

    def logits(self, lead: Lead, rows: Sequence[Sequence[int]]) -> list[float]:
        """The log odds of "yes" against "no" after each row; a row has at least one token."""
        with torch.inference_mode():
            packed = _Packed(self._model, rows, start=lead[0][0].shape[1])
            hidden = packed.embedded
            for layer, (lead_k, lead_v) in zip(self._model.layers, lead, strict=True):
                q, k, v = packed.heads(layer, hidden)
                attended = packed.attend(q, k, v, lead_k, lead_v)
                if layer is self._model.layers[-1]:
                    hidden, attended = hidden[packed.last], attended[packed.last]
                hidden = _rest(layer, hidden, attended)
            logits: list[float] = (self._model.norm(hidden).float() @ self._direction).tolist()
            return logits


class _Packed:
    """Rows one after another, and what the layers need to know about them.

    Args:
        start: The position of every row's first token: how many tokens the lead has.
    """

    def __init__(self, model: Qwen3Model, rows: Sequence[Sequence[int]], start: int) -> None:
        lengths = [len(row) for row in rows]
        device = model.embed_tokens.weight.device
        tokens = torch.tensor([token for row in rows for token in row], device=device)
        places = [place for length in lengths for place in range(start, start + length)]
        positions = torch.tensor([places], device=device)
        self.embedded: Tensor = model.embed_tokens(tokens)
        self.last = torch.tensor([end - 1 for end in accumulate(lengths)], device=device)
        self.attend = attention(lengths, start, self.embedded)
        cos, sin = model.rotary_emb(self.embedded, positions)
        before, after = sin[0].unsqueeze(1).chunk(2, dim=-1)
        self._cos, self._sin = cos[0].unsqueeze(1), torch.cat((-before, after), dim=-1)

    def heads(self, layer: Qwen3DecoderLayer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's queries, keys and values, each (tokens, heads, dim), rotated by position."""
        used = layer.self_attn
        normed = layer.input_layernorm(hidden)
        q, k, v = (
            project(normed).unflatten(1, (-1, used.head_dim))
            for project in (used.q_proj, used.k_proj, used.v_proj)
        )
        return self._rotated(used.q_norm(q)), self._rotated(used.k_norm(k)), v

    def _rotated(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        return torch.addcmul(heads * self._cos, torch.cat((second, first), dim=-1), self._sin)


def _rest(layer: Qwen3DecoderLayer, hidden: Tensor, attended: Tensor) -> Tensor:
    """What a layer does after attention, with both residual connections."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

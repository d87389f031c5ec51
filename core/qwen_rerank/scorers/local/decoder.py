"""The decoder of a Qwen3 model, run to get one logit per sequence.

The modules are those that transformers loads, but they are run in another way. The prefix that all
sequences share is computed once, and its keys and values serve every batch. Sequences are packed
without padding. The last layer only computes each sequence's last token, and the output head is
reduced to one direction of the hidden state: "yes" minus "no".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from qwen_rerank.scorers.local.attention import make_attention

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

__all__ = ["Decoder", "PrefixCache"]

PrefixCache: TypeAlias = list[tuple[Tensor, Tensor]]
"""The prefix's keys and values in each layer, each (key heads, prefix tokens, dim)."""


class Decoder:
    """Computes, for each sequence, the log odds that its text is relevant.

    Args:
        model: The loaded decoder, without a head.
        direction: float32 (hidden size): the weights of "yes" minus those of "no".
    """

    def __init__(self, model: Qwen3Model, direction: Tensor) -> None:
        self._model = model
        self._direction = direction

    @property
    def device(self) -> torch.device:
        """The device it runs on."""
        return self._direction.device

    @property
    def max_positions(self) -> int:
        """The maximum length of a prompt, in tokens."""
        positions: int = self._model.config.max_position_embeddings
        return positions

    def prefix_cache(self, prefix: Sequence[int]) -> PrefixCache:
        """Compute the keys and values of the tokens that all sequences start with."""
        with torch.inference_mode():
            packed = _Packed(self._model, [prefix], start=0)
            cache: PrefixCache = []
            hidden = packed.embedded
            for layer in self._model.layers:
                q, k, v = packed.heads(layer, hidden)
                no_prefix = k.new_empty(k.shape[1], 0, k.shape[2])
                attended = packed.attend(q, k, v, no_prefix, no_prefix)
                hidden = _after_attention(layer, hidden, attended)
                cache.append((k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()))
            return cache

    def logits(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The log odds of "yes" against "no" after each sequence, which has at least one token."""
        with torch.inference_mode():
            hidden = self.last_hidden(prefix_cache, sequences)
            logits: list[float] = (hidden.float() @ self._direction).tolist()
            return logits

    def last_hidden(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> Tensor:
        """The normalized hidden state of each sequence's last token: (sequences, hidden size)."""
        packed = _Packed(self._model, sequences, start=prefix_cache[0][0].shape[1])
        hidden = packed.embedded
        for layer, (prefix_k, prefix_v) in zip(self._model.layers, prefix_cache, strict=True):
            q, k, v = packed.heads(layer, hidden)
            attended = packed.attend(q, k, v, prefix_k, prefix_v)
            if layer is self._model.layers[-1]:
                hidden, attended = hidden[packed.last], attended[packed.last]
            hidden = _after_attention(layer, hidden, attended)
        normalized: Tensor = self._model.norm(hidden)
        return normalized


class _Packed:
    """Packed sequences, and what the layers need to know about them.

    Args:
        start: The position of the first token of every sequence: the length of the prefix.
    """

    def __init__(self, model: Qwen3Model, sequences: Sequence[Sequence[int]], start: int) -> None:
        lengths = [len(sequence) for sequence in sequences]
        device = model.embed_tokens.weight.device
        tokens = [token for sequence in sequences for token in sequence]
        positions = [position for length in lengths for position in range(start, start + length)]
        self.embedded: Tensor = model.embed_tokens(torch.tensor(tokens, device=device))
        self.last = torch.tensor([end - 1 for end in accumulate(lengths)], device=device)
        self.attend = make_attention(lengths, start, self.embedded)
        cos, sin = model.rotary_emb(self.embedded, torch.tensor([positions], device=device))
        before, after = sin[0].unsqueeze(1).chunk(2, dim=-1)
        self._cos, self._sin = cos[0].unsqueeze(1), torch.cat((-before, after), dim=-1)

    def heads(self, layer: Qwen3DecoderLayer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A layer's queries, keys and values, each (tokens, heads, dim), rotated by position."""
        module = layer.self_attn
        normalized = layer.input_layernorm(hidden)
        q, k, v = (
            project(normalized).unflatten(1, (-1, module.head_dim))
            for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        return self._rotate(module.q_norm(q)), self._rotate(module.k_norm(k)), v

    def _rotate(self, heads: Tensor) -> Tensor:
        first, second = heads.chunk(2, dim=-1)
        return torch.addcmul(heads * self._cos, torch.cat((second, first), dim=-1), self._sin)


def _after_attention(layer: Qwen3DecoderLayer, hidden: Tensor, attended: Tensor) -> Tensor:
    """The rest of a layer, with both residual connections."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

"""The decoder of a Qwen3 model, run to get one logit per sequence.

The modules are those that transformers loads, but they are run in another way. The prefix that all
sequences share is computed once, and its keys and values serve every batch. Sequences are packed
without padding. The last layer only computes each sequence's last token, and the output head is
reduced to one direction of the hidden state: "yes" minus "no".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from qwen_rerank.scorers.local.attention import make_attention

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

__all__ = ["Decoder", "Embed", "Inputs", "PrefixCache", "embed_texts"]


class PrefixCache(NamedTuple):
    """What the sequences need to know about their prefix.

    Attributes:
        layers: Its keys and values in each layer, each (key heads, prefix tokens, dim).
        next_position: The position of the first token after it.
    """

    layers: list[tuple[Tensor, Tensor]]
    next_position: int


class Inputs(NamedTuple):
    """What the first layers get for packed sequences.

    Attributes:
        embedded: (tokens, hidden size).
        positions: (1, tokens), or (3, 1, tokens) if the model has positions on three axes.
        next_position: The position after the last token.
        image_indices: The indices of the tokens that stand for images.
        deepstack: What is added to the hidden states of these tokens after each of the first
            layers: (image tokens, hidden size).
    """

    embedded: Tensor
    positions: Tensor
    next_position: int
    image_indices: Tensor | None = None
    deepstack: Sequence[Tensor] = ()


class Embed(Protocol):
    """Embeds packed sequences, each of which begins at the position `start`."""

    def __call__(self, model: Qwen3Model, sequences: Sequence[Sequence[int]], start: int) -> Inputs:
        """Embed the sequences."""


def embed_texts(model: Qwen3Model, sequences: Sequence[Sequence[int]], start: int) -> Inputs:
    """Embed sequences without images."""
    device = model.embed_tokens.weight.device
    tokens = [token for sequence in sequences for token in sequence]
    ends = [start + len(sequence) for sequence in sequences]
    positions = [position for end in ends for position in range(start, end)]
    return Inputs(
        model.embed_tokens(torch.tensor(tokens, device=device)),
        torch.tensor([positions], device=device),
        ends[-1],
    )


class Decoder:
    """Computes, for each sequence, the log odds that its text is relevant.

    Args:
        model: The loaded decoder, without a head.
        direction: float32 (hidden size): the weights of "yes" minus those of "no".
        embed: Embeds sequences; those without images by default.
    """

    def __init__(self, model: Qwen3Model, direction: Tensor, embed: Embed = embed_texts) -> None:
        self._model = model
        self._direction = direction
        self._embed = embed

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
            inputs = self._embed(self._model, [prefix], 0)
            packed = _Packed(self._model, inputs, [len(prefix)], prefix=0)
            cache = PrefixCache([], inputs.next_position)
            hidden = inputs.embedded
            for index, layer in enumerate(self._model.layers):
                q, k, v = packed.heads(layer, hidden)
                no_prefix = k.new_empty(k.shape[1], 0, k.shape[2])
                attended = packed.attend(q, k, v, no_prefix, no_prefix)
                hidden = packed.with_images(index, _after_attention(layer, hidden, attended))
                cache.layers.append(
                    (k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous())
                )
            return cache

    def logits(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The log odds of "yes" against "no" after each sequence, which has at least one token."""
        with torch.inference_mode():
            hidden = self.last_hidden(prefix_cache, sequences)
            logits: list[float] = (hidden.float() @ self._direction).tolist()
            return logits

    def last_hidden(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> Tensor:
        """The normalized hidden state of each sequence's last token: (sequences, hidden size)."""
        inputs = self._embed(self._model, sequences, prefix_cache.next_position)
        prefix_tokens = prefix_cache.layers[0][0].shape[1]
        packed = _Packed(self._model, inputs, list(map(len, sequences)), prefix_tokens)
        hidden = inputs.embedded
        for index, layer in enumerate(self._model.layers):
            q, k, v = packed.heads(layer, hidden)
            attended = packed.attend(q, k, v, *prefix_cache.layers[index])
            if layer is self._model.layers[-1]:
                hidden, attended = hidden[packed.last], attended[packed.last]
                hidden = _after_attention(layer, hidden, attended)
            else:
                hidden = packed.with_images(index, _after_attention(layer, hidden, attended))
        normalized: Tensor = self._model.norm(hidden)
        return normalized


class _Packed:
    """Packed sequences, and what the layers need to know about them.

    Args:
        inputs: The embedded sequences.
        lengths: Tokens per sequence.
        prefix: Tokens of the prefix.
    """

    def __init__(
        self, model: Qwen3Model, inputs: Inputs, lengths: Sequence[int], prefix: int
    ) -> None:
        device = inputs.embedded.device
        self.last = torch.tensor([end - 1 for end in accumulate(lengths)], device=device)
        self.attend = make_attention(lengths, prefix, inputs.embedded)
        self._image_indices, self._deepstack = inputs.image_indices, inputs.deepstack
        cos, sin = model.rotary_emb(inputs.embedded, inputs.positions)
        before, after = sin[0].unsqueeze(1).chunk(2, dim=-1)
        self._cos, self._sin = cos[0].unsqueeze(1), torch.cat((-before, after), dim=-1)

    def with_images(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states after a layer, with the image features that belong there."""
        if layer >= len(self._deepstack):
            return hidden
        return hidden.index_add(0, self._image_indices, self._deepstack[layer])

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

"""The decoder of a Qwen3 model, run to get one logit per sequence.

The modules are those that transformers loads, but they are run in another way; in bfloat16 or int8
on a CPU, layers of our own (cpu_layer.py) take their weights. The prefix that all sequences share
is computed once, and its keys and values serve every batch. Sequences are packed without padding.
The last layer only computes each sequence's last token, and the output head is reduced to one
direction of the hidden state: "yes" minus "no".
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

__all__ = [
    "Decoder",
    "Embed",
    "Inputs",
    "Layer",
    "Network",
    "PrefixCache",
    "Rotary",
    "embed_texts",
    "module_network",
]


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


class Rotary(NamedTuple):
    """The rotation of heads by the position of their tokens.

    Attributes:
        cos: (tokens, 1, dim).
        sin: (tokens, 1, dim), with the signs for heads whose halves are swapped.
    """

    cos: Tensor
    sin: Tensor

    def at(self, rows: slice) -> Rotary:
        """That of some tokens."""
        return Rotary(self.cos[rows], self.sin[rows])

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotate (tokens, heads, dim)."""
        first, second = heads.chunk(2, dim=-1)
        return torch.addcmul(heads * self.cos, torch.cat((second, first), dim=-1), self.sin)


class Layer(Protocol):
    """A layer, without its attention. It may change the hidden states in place."""

    def heads(self, hidden: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values, each (tokens, heads, dim), rotated by position."""

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer, with both residual connections."""


class ModuleLayer:
    """A layer that runs the modules of transformers."""

    def __init__(self, layer: Qwen3DecoderLayer) -> None:
        self._layer = layer

    def heads(self, hidden: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values, each (tokens, heads, dim), rotated by position."""
        module = self._layer.self_attn
        normalized = self._layer.input_layernorm(hidden)
        q, k, v = (
            project(normalized).unflatten(1, (-1, module.head_dim))
            for project in (module.q_proj, module.k_proj, module.v_proj)
        )
        return rotary.rotate(module.q_norm(q)), rotary.rotate(module.k_norm(k)), v

    def after_attention(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer, with both residual connections."""
        hidden = hidden + self._layer.self_attn.o_proj(attended)
        return hidden + self._layer.mlp(self._layer.post_attention_layernorm(hidden))


class Network(NamedTuple):
    """The layers, and what their hidden states are.

    Attributes:
        layers: The layers.
        hidden_dtype: The dtype of the hidden states; None for that of the weights.
        rotation: What the embeddings are multiplied by, which the layers expect; None for nothing.
        value_rotation: The same for the values of each head of the prefix.
    """

    layers: Sequence[Layer]
    hidden_dtype: torch.dtype | None = None
    rotation: Tensor | None = None
    value_rotation: Tensor | None = None

    def entered(self, inputs: Inputs) -> Inputs:
        """The inputs as the layers expect them."""
        made = [self._entered(values) for values in (inputs.embedded, *inputs.deepstack)]
        return inputs._replace(embedded=made[0], deepstack=made[1:])

    def _entered(self, values: Tensor) -> Tensor:
        values = values.to(self.hidden_dtype or values.dtype)
        return values if self.rotation is None else values @ self.rotation

    def left(self, hidden: Tensor) -> Tensor:
        """Hidden states after the layers, as the model has them."""
        return hidden if self.rotation is None else hidden @ self.rotation.T

    def with_values(self, cache: PrefixCache) -> PrefixCache:
        """A prefix that another network computed, as the layers expect it."""
        if (rotation := self.value_rotation) is None:
            return cache
        layers = [(k, (v.float() @ rotation).to(v.dtype)) for k, v in cache.layers]
        return cache._replace(layers=layers)


def module_network(model: Qwen3Model) -> Network:
    """The network that runs the modules of transformers."""
    return Network(list(map(ModuleLayer, model.layers)))


class Decoder:
    """Computes, for each sequence, the log odds that its text is relevant.

    Args:
        model: The loaded decoder, without a head.
        direction: float32 (hidden size): the weights of "yes" minus those of "no".
        embed: Embeds sequences; those without images by default.
        network: What computes the sequences; the modules of the model by default.
        prefix_network: What computes the prefix; the same by default.
    """

    def __init__(
        self,
        model: Qwen3Model,
        direction: Tensor,
        embed: Embed = embed_texts,
        network: Network | None = None,
        prefix_network: Network | None = None,
    ) -> None:
        self._model = model
        self._direction = direction
        self._embed = embed
        self._network = network or module_network(model)
        self._prefix_network = prefix_network or self._network

    def first_layers(self, number: int) -> Decoder:
        """The decoder without its later layers."""
        cut = [
            network._replace(layers=network.layers[:number])
            for network in (self._network, self._prefix_network)
        ]
        return Decoder(self._model, self._direction, self._embed, *cut)

    @property
    def network(self) -> Network:
        """What computes the sequences."""
        return self._network

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
            network = self._prefix_network
            embedded = self._embed(self._model, [prefix], 0)
            inputs = network.entered(embedded)
            packed = _Packed(self._model, inputs, [len(prefix)], 0, embedded.embedded.dtype)
            cache = PrefixCache([], inputs.next_position)
            hidden = inputs.embedded
            for index, layer in enumerate(network.layers):
                q, k, v = layer.heads(hidden, packed.rotary)
                no_prefix = k.new_empty(k.shape[1], 0, k.shape[2])
                attended = packed.attend(q, k, v, no_prefix, no_prefix)
                hidden = packed.with_images(index, layer.after_attention(hidden, attended))
                cache.layers.append(
                    (k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous())
                )
            return cache if network is self._network else self._network.with_values(cache)

    def logits(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The log odds of "yes" against "no" after each sequence, which has at least one token."""
        with torch.inference_mode():
            hidden = self.last_hidden(prefix_cache, sequences)
            logits: list[float] = (hidden.float() @ self._direction).tolist()
            return logits

    def last_hidden(self, prefix_cache: PrefixCache, sequences: Sequence[Sequence[int]]) -> Tensor:
        """The normalized hidden state of each sequence's last token: (sequences, hidden size)."""
        network = self._network
        embedded = self._embed(self._model, sequences, prefix_cache.next_position)
        inputs = network.entered(embedded)
        lengths, prefix = list(map(len, sequences)), prefix_cache.layers[0][0].shape[1]
        packed = _Packed(self._model, inputs, lengths, prefix, embedded.embedded.dtype)
        hidden = inputs.embedded
        for index, layer in enumerate(network.layers):
            q, k, v = layer.heads(hidden, packed.rotary)
            attended = packed.attend(q, k, v, *prefix_cache.layers[index])
            if layer is network.layers[-1]:
                hidden, attended = hidden[packed.last], attended[packed.last]
                hidden = layer.after_attention(hidden, attended)
            else:
                hidden = packed.with_images(index, layer.after_attention(hidden, attended))
        normalized: Tensor = self._model.norm(network.left(hidden))
        return normalized


class _Packed:
    """Packed sequences, and what the layers need to know about them.

    Args:
        inputs: The embedded sequences.
        lengths: Tokens per sequence.
        prefix: Tokens of the prefix.
        dtype: The dtype of queries, keys and values.
    """

    def __init__(
        self,
        model: Qwen3Model,
        inputs: Inputs,
        lengths: Sequence[int],
        prefix: int,
        dtype: torch.dtype,
    ) -> None:
        like = inputs.embedded.new_empty(0, dtype=dtype)
        self.last = torch.tensor([end - 1 for end in accumulate(lengths)], device=like.device)
        self.attend = make_attention(lengths, prefix, like)
        self._image_indices, self._deepstack = inputs.image_indices, inputs.deepstack
        cos, sin = model.rotary_emb(inputs.embedded, inputs.positions)
        before, after = sin[0].unsqueeze(1).chunk(2, dim=-1)
        self.rotary = Rotary(cos[0].unsqueeze(1), torch.cat((-before, after), dim=-1))

    def with_images(self, layer: int, hidden: Tensor) -> Tensor:
        """The hidden states after a layer, with the image features that belong there."""
        if layer >= len(self._deepstack):
            return hidden
        return hidden.index_add(0, self._image_indices, self._deepstack[layer])

"""The same decoder in ONNX Runtime with dynamic int8 quantization, as a peer for local.py.

Needs onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import Qwen3Model

__all__ = ["export_int8"]


def export_int8(
    model: Qwen3Model, direction: Tensor, folder: Path
) -> Callable[[Sequence[int]], float]:
    """Export and quantize a decoder.

    Args:
        model: It in float32.
        direction: float32 (hidden size): the weights of "yes" minus those of "no".
        folder: Where the files go.

    Returns:
        A function from the tokens of a prompt to its logit.
    """
    folder.mkdir(exist_ok=True)
    whole, quantized = folder / "float32.onnx", folder / "int8.onnx"
    example = model.embed_tokens(torch.arange(16)).detach()
    torch.onnx.export(
        _Decoder(model, direction).eval(),
        (example, *_rotary(model, 16)),
        whole,
        input_names=["embedded", "cos", "sin"],
        output_names=["logit"],
        dynamic_shapes=({0: "tokens"},) * 3,
        dynamo=True,
    )
    quantize_dynamic(
        whole,
        quantized,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    model.layers = nn.ModuleList()  # their memory is free again
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])

    def logit(tokens: Sequence[int]) -> float:
        with torch.inference_mode():
            embedded = model.embed_tokens(torch.tensor(tokens))
            cos, sin = _rotary(model, len(tokens))
        inputs = {"embedded": embedded.numpy(), "cos": cos.numpy(), "sin": sin.numpy()}
        return float(session.run(["logit"], inputs)[0])

    return logit


def _rotary(model: Qwen3Model, tokens: int) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        cos, sin = model.rotary_emb(torch.zeros(1), torch.arange(tokens)[None])
    return cos[0].clone(), sin[0].clone()


class _Decoder(nn.Module):
    """Qwen3 for one sequence in plain operations, which the exporter can trace."""

    def __init__(self, model: Qwen3Model, direction: Tensor) -> None:
        super().__init__()
        self.layers, self.norm = model.layers, model.norm
        self.register_buffer("direction", direction)

    def forward(self, embedded: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = embedded
        for layer in self.layers:
            hidden = hidden + self._attention(layer, hidden, cos, sin)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return (self.norm(hidden[-1]) * self.direction).sum()

    def _attention(self, layer: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attention = layer.self_attn
        normalized = layer.input_layernorm(hidden)
        q, k, v = (
            project(normalized).unflatten(1, (-1, attention.head_dim)).transpose(0, 1)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = (_rotate(each, cos, sin) for each in (attention.q_norm(q), attention.k_norm(k)))
        repeats = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        scores = q @ k.mT * attention.head_dim**-0.5
        hidden_from = torch.ones_like(scores[0]).triu(1).bool()
        scores = scores.masked_fill(hidden_from, -1e9)
        return attention.o_proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin

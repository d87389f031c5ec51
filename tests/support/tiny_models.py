"""Small rerankers with random weights, in the forms that real servers load.

python tiny_models.py bert FOLDER     a cross-encoder; needs transformers and torch
python tiny_models.py qwen3 FILE      a Qwen3-Reranker in GGUF, template and all; needs gguf
python tiny_models.py gguf FOLDER     a saved Qwen3 model in GGUF, as FOLDER/model.gguf; needs gguf
                                      and safetensors
python tiny_models.py q8_0 FOLDER     the same with the matrices in Q8_0
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from string import ascii_lowercase

WIDTH, LAYERS, HEADS, FEED_FORWARD = 64, 2, 2, 128


def save_bert(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    pieces = [*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]))
    tokenizer = BertTokenizerFast(str(vocabulary), model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        max_position_embeddings=128,
        num_labels=1,
        initializer_range=0.5,  # so that the scores of different texts lie apart
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def save_qwen3(file: Path) -> None:
    import gguf
    import numpy as np

    random = np.random.default_rng(0)
    tokens = [*_byte_names(), "<|endoftext|>", "aa"]
    end = tokens.index("<|endoftext|>")
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[end] = gguf.TokenType.CONTROL

    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a a"])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(["yes", "no"])
    template = "<Query>: {query}\n<Document>: {document}"
    writer.add_chat_template([{"name": "rerank", "template": template}])

    shapes = {"token_embd": (len(tokens), WIDTH), "cls.output": (2, WIDTH)}
    norms = {"output_norm": WIDTH}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{part}": (FEED_FORWARD, WIDTH) for part in ("gate", "up")}
        shapes[f"{block}ffn_down"] = (WIDTH, FEED_FORWARD)
        norms |= {f"{block}{part}_norm": WIDTH for part in ("attn", "ffn")}
        norms |= {f"{block}attn_{part}_norm": WIDTH // HEADS for part in ("q", "k")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    for name, width in norms.items():
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_as_gguf(folder: Path, *, in_q8_0: bool = False) -> None:
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    tokens = [f"[unused{index}]" for index in range(config["vocab_size"])]
    kinds = [gguf.TokenType.UNUSED] * len(tokens)
    for token, index in vocabulary.items():
        tokens[index], kinds[index] = token, gguf.TokenType.NORMAL
    for token in added:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        tokens[token["id"]], kinds[token["id"]] = token["content"], kind
    merges = tokenizer["model"]["merges"]
    rope = config.get("rope_parameters") or {}

    writer = gguf.GGUFWriter(folder / "model.gguf", "qwen3")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config["rope_theta"])
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        q8_0 = gguf.GGMLQuantizationType.Q8_0 if in_q8_0 and tensor.ndim == 2 else None
        data = tensor if q8_0 is None else gguf.quants.quantize(tensor, q8_0)
        writer.add_tensor(names.get_name(name, (".weight",)), data, raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_names() -> list[str]:
    """How byte-level BPE writes the 256 bytes: as themselves, if they can be seen."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


if __name__ == "__main__":
    q8_0 = partial(save_as_gguf, in_q8_0=True)
    makers = {"bert": save_bert, "qwen3": save_qwen3, "gguf": save_as_gguf, "q8_0": q8_0}
    makers[sys.argv[1]](Path(sys.argv[2]))

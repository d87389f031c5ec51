"""A Qwen3-VL model with random weights, saved as Qwen3-VL-Reranker is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from tests.support import tiny_qwen

__all__ = ["CONTROL_TOKENS", "random_model", "save", "tokenizer"]

CONTROL_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_FIRST = 1_000

_PREPROCESSOR = {
    "size": {"longest_edge": 16_777_216, "shortest_edge": 65_536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
"""What the published models have in preprocessor_config.json."""


def random_model() -> Qwen3VLForConditionalGeneration:
    """Four layers of text and three of images; always the same weights, large enough to matter."""
    text = {
        "vocab_size": 1_024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 16_384,
        "initializer_range": 0.15,
        "rope_theta": 5_000_000,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
        "initializer_range": 0.15,
    }
    start, end, image, video = range(_FIRST, _FIRST + len(CONTROL_TOKENS))
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(config).eval()
        with torch.no_grad():
            for weights in model.parameters():
                if weights.dim() > 1:
                    weights.normal_(0, 0.15)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """The small tokenizer, in which the control tokens of images have the model's ids."""
    made = tiny_qwen.tokenizer(["user\nassistant\n" * 9, *tiny_qwen.CORPUS])
    backend = made.backend_tokenizer
    filler = [f"<|filler_{number}|>" for number in range(backend.get_vocab_size(), _FIRST)]
    backend.add_tokens([AddedToken(word, normalized=False) for word in filler])
    backend.add_special_tokens(CONTROL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", *CONTROL_TOKENS],
        padding_side="left",
    )


def save(folder: Path) -> Path:
    """Save the model, its tokenizer and the settings of its image processor."""
    model: Any = random_model()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR))
    return folder

"""Qwen3 models with random weights and Qwen's tokenizers, saved as the real ones are.

Importing this makes torch compute in one thread: products of this size only wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dashscope
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from qwen_rerank.scorers.local.prompt import DEFAULT_INSTRUCT, PREFIX, SUFFIX

__all__ = [
    "CORPUS",
    "GEOMETRY_0_6B",
    "decide",
    "decided_model",
    "plant_outliers",
    "random_model",
    "real_tokenizer",
    "save",
    "tokenizer",
]

torch.set_num_threads(1)

GEOMETRY_0_6B = {
    "vocab_size": 151_669,
    "hidden_size": 1_024,
    "intermediate_size": 3_072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "initializer_range": 0.02,
}
"""The configuration of Qwen3-Reranker-0.6B, for `random_model`."""

# How Qwen's tokenizers split a text before they merge bytes: transformers, models/qwen2.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "Judge whether the Document meets the requirements based on the Query and the Instruct",
    "provided. Note that the answer can only be yes or no. system user assistant yes no yes no",
    "Given a web search query, retrieve relevant passages that answer the query",
    "<Instruct>: <Query>: <Document>: penguins eat krill, markets fell on monday",
    "企鹅吃磷虾，周一股市下跌。企鹅生活在南半球。",
]


def random_model(kind: type[PreTrainedModel] = Qwen3ForCausalLM, **changes: Any) -> PreTrainedModel:
    """Three layers made as the real model's are; always the same weights, large enough to matter.

    Args:
        kind: The class of the model.
        changes: What its configuration has otherwise.
    """
    options = {
        "vocab_size": 1_024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 16_384,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(Qwen3Config(**{**options, **changes})).eval()


def decided_model() -> PreTrainedModel:
    """A random model whose next token is nearly always "yes" or "no", as with the real one."""
    model = random_model(tie_word_embeddings=False)
    decide(model, tokenizer())
    return model


def decide(model: Any, words: PreTrainedTokenizerBase) -> None:
    """Make "yes" and "no" the most probable tokens after a prompt. It changes no score."""
    prompt = f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCT}\n<Query>: q\n<Document>: d{SUFFIX}"
    with torch.no_grad():
        state = model.model(words(prompt, return_tensors="pt").input_ids).last_hidden_state[0, -1]
        for word in ("yes", "no"):
            model.lm_head.weight[words.convert_tokens_to_ids(word)] += (
                8 * state / state.square().sum()
            )


def plant_outliers(
    model: Any, states: Sequence[int], inner: Sequence[int], size: float = 40.0
) -> None:
    """Enlarge a few channels of the hidden states and of the MLPs of a causal model.

    The weights that read these channels get smaller. Trained models have such channels.
    """
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    with torch.no_grad():
        model.model.embed_tokens.weight[:, states] *= size
        model.model.norm.weight[states] /= size**2 if tied else size
        for layer in model.model.layers:
            layer.input_layernorm.weight[states] /= size
            layer.post_attention_layernorm.weight[states] /= size
            layer.mlp.up_proj.weight[inner] *= size
            layer.mlp.down_proj.weight[:, inner] /= size


def save(folder: Path, model: PreTrainedModel | None = None) -> Path:
    """Save a model, a random causal one by default, with the small tokenizer."""
    (model or random_model()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer(corpus: Sequence[str] = CORPUS) -> PreTrainedTokenizerFast:
    """Qwen's rules and control tokens with a small vocabulary, of the words in the corpus."""
    made = _by_qwens_rules(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return _with_control_tokens(made)


def real_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's vocabulary, which the dashscope package bundles. Takes a few seconds."""
    bundled = Path(dashscope.__file__).parent / "resources" / "qwen.tiktoken"
    vocabulary, merges = TikTokenConverter().extract_vocab_merges_from_model(str(bundled))
    return _with_control_tokens(_by_qwens_rules(models.BPE(vocabulary, merges)))


def _by_qwens_rules(bpe: models.BPE) -> Tokenizer:
    made = Tokenizer(bpe)
    made.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    made.decoder = decoders.ByteLevel()
    return made


def _with_control_tokens(made: Tokenizer) -> PreTrainedTokenizerFast:
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        chat_template=_chat_template(),
    )


def _chat_template() -> str:
    """The prompt as sentence-transformers wants it: of messages with the two roles below."""

    def text(part: str) -> str:
        return "{{ " + json.dumps(part) + " }}"

    def content(role: str) -> str:
        return "{{ (messages | selectattr('role', 'equalto', '" + role + "') | first).content }}"

    start = text(f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCT}\n<Query>: ")
    return start + content("query") + text("\n<Document>: ") + content("document") + text(SUFFIX)

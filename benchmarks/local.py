"""How fast is LocalScorer beside the official script and sentence-transformers' CrossEncoder?

    python benchmarks/local.py [--rounds N]

The model has the dimensions of Qwen3-Reranker-0.6B, in bfloat16, with random weights, which take as
much time as the real ones. Documents have 50 to 400 tokens. On a CPU one query has 32 documents; on
a CUDA device one query, and then each of 16, has 100. The implementations take turns within a
round, and the best round is reported: on a machine that is busy with other things, compare the rows
of one run, not those of two. Needs the extra `local`, sentence-transformers, 12 GB of memory and 2
GB of disk.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from sentence_transformers import CrossEncoder
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from qwen_rerank import LocalScorer
from qwen_rerank.scorers.local.prompt import (
    DEFAULT_INSTRUCT,
    PREFIX,
    SUFFIX,
    Prompt,
    TokenizedPrompts,
    prompt_body,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.tiny_qwen import random_model, real_tokenizer

TEXTS = Path(__file__).resolve().parents[1] / "examples" / "data" / "passages.jsonl"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LOADS = ((1, 100), (16, 100)) if DEVICE.type == "cuda" else ((1, 32),)
PRODUCT = (8_192, 8_192, 8_192) if DEVICE.type == "cuda" else (2_048, 1_024, 3_072)
GEOMETRY = {
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
MAX_LENGTH = 8_192

HEADER = """
{queries} × {documents} documents, {tokens} tokens

| | pairs/s | × CrossEncoder | useful GFLOP/s | products, GFLOP/s | share | memory, MB | error |
|---|---|---|---|---|---|---|---|"""

Score = Callable[[str, list[str]], list[float]]
Work = list[tuple[str, list[str]]]
"""Queries, each with its documents."""


class Run(NamedTuple):
    """What one implementation took.

    Attributes:
        seconds: How long it took.
        products: The speed of large matrix products right before and after it, in operations per
            second.
        memory: The most memory that it used in addition to the weights, in bytes.
        scores: All scores.
    """

    seconds: float
    products: float
    memory: int
    scores: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = real_tokenizer()
    prompt = Prompt(tokenizer, DEFAULT_INSTRUCT, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        random_model(**GEOMETRY).bfloat16().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        scorer = LocalScorer(folder, device=str(DEVICE), dtype="bfloat16")
        implementations: dict[str, Score] = {
            "official script": official(folder),
            "CrossEncoder": cross_encoder(folder),
            "LocalScorer": lambda query, texts: scorer.score(query, texts).values,
        }
    for score in implementations.values():
        score("warm", ["up"])
    for queries, documents in LOADS:
        work = list(made_work(tokenizer, queries, documents))
        prompts = [prompt.tokenize(query, texts) for query, texts in work]
        report(measure(implementations, work, rounds), queries, documents, prompts)


def official(folder: str) -> Score:
    """The official script, examples/qwen3_reranker_transformers.py: all documents in one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE).eval()
    no, yes = tokenizer.convert_tokens_to_ids(["no", "yes"])
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    suffix = tokenizer.encode(SUFFIX, add_special_tokens=False)

    def score(query: str, texts: list[str]) -> list[float]:
        bodies = tokenizer(
            [prompt_body(DEFAULT_INSTRUCT, query, text) for text in texts],
            padding=False,
            truncation="longest_first",
            return_attention_mask=False,
            max_length=MAX_LENGTH - len(prefix) - len(suffix),
        )["input_ids"]
        rows = {"input_ids": [prefix + ids + suffix for ids in bodies]}
        inputs = tokenizer.pad(rows, padding=True, return_tensors="pt").to(DEVICE)
        with torch.no_grad():
            last = model(**inputs).logits[:, -1, :]
            both = torch.stack([last[:, no], last[:, yes]], dim=1)
            scores: list[float] = both.log_softmax(dim=1)[:, 1].exp().tolist()
        return scores

    return score


def cross_encoder(folder: str) -> Score:
    """sentence-transformers, with the prompt as chat template and its default batch size of 32."""
    model = CrossEncoder(
        folder, device=str(DEVICE), model_kwargs={"dtype": "bfloat16"}, max_length=MAX_LENGTH
    )
    return lambda query, texts: model.predict([(query, text) for text in texts]).tolist()


def made_work(
    tokenizer: PreTrainedTokenizerBase, queries: int, documents: int
) -> Iterator[tuple[str, list[str]]]:
    """Pieces of the sample texts: documents of 50 to 400 tokens, queries of 12 to 24."""
    chance = random.Random(0)
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines)
    tokens = tokenizer.encode(text)

    def piece(shortest: int, longest: int) -> str:
        length = chance.randint(shortest, longest)
        start = chance.randrange(len(tokens) - length)
        return tokenizer.decode(tokens[start : start + length]).replace("\ufffd", "")

    for _ in range(queries):
        yield piece(12, 24), [piece(50, 400) for _ in range(documents)]


def measure(implementations: dict[str, Score], work: Work, rounds: int) -> dict[str, Run]:
    """The best run of each implementation."""
    runs: dict[str, list[Run]] = {name: [] for name in implementations}
    for _ in tqdm(range(rounds), unit="round"):
        for name, score in implementations.items():
            runs[name].append(run(score, work))
    return {name: min(those) for name, those in runs.items()}


def run(score: Score, work: Work) -> Run:
    rate = product_rate()
    before = start_watching_memory()
    start = time.perf_counter()
    scores = [value for query, texts in work for value in score(query, texts)]
    took = time.perf_counter() - start
    memory = peak_memory() - before
    return Run(took, (rate + product_rate()) / 2, memory, scores)


def product_rate() -> float:
    """The speed of such products one after another, each with other weights."""
    rows, inner, columns = PRODUCT
    left = torch.randn(rows, inner, dtype=torch.bfloat16, device=DEVICE)
    rights = torch.randn(8, columns, inner, dtype=torch.bfloat16, device=DEVICE)
    synchronize()
    start = time.perf_counter()
    for _ in range(5):
        for right in rights:
            torch.nn.functional.linear(left, right)
    synchronize()
    return 40 * 2 * rows * inner * columns / (time.perf_counter() - start)


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def start_watching_memory() -> int:
    """Reset the peak, and return what is used now, in bytes."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # so that what earlier runs freed does not count
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    """The peak since then, in bytes: of the device, or else of the process (Linux only)."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1_024 * int(status.partition("VmHWM:")[2].split()[0])


def report(
    runs: dict[str, Run], queries: int, documents: int, prompts: list[TokenizedPrompts]
) -> None:
    tokens = sum(len(shared) + sum(map(len, rests)) for shared, rests, _ in prompts)
    print(HEADER.format(queries=queries, documents=documents, tokens=tokens))
    useful = 2 * layer_weights() * tokens + attention_operations(prompts)
    reference, expected = runs["CrossEncoder"].seconds, runs["official script"].scores
    for name, (took, products, memory, scores) in runs.items():
        error = max(abs(ours - theirs) for ours, theirs in zip(scores, expected, strict=True))
        print(
            f"| {name} | {queries * documents / took:.2f} | {reference / took:.2f} "
            f"| {useful / took / 1e9:.0f} | {products / 1e9:.0f} | {useful / took / products:.0%} "
            f"| {memory / 1e6:.0f} | {error:.4f} |"
        )


def layer_weights() -> int:
    """The number of weights in all layers, by each of which every token is multiplied."""
    hidden, inner = GEOMETRY["hidden_size"], GEOMETRY["intermediate_size"]
    heads = 2 * GEOMETRY["num_attention_heads"] + 2 * GEOMETRY["num_key_value_heads"]
    return GEOMETRY["num_hidden_layers"] * hidden * (heads * GEOMETRY["head_dim"] + 3 * inner)


def attention_operations(prompts: list[TokenizedPrompts]) -> int:
    """The operations of causal attention, with the shared part of the prompts computed once."""
    attended = 0
    for shared, rests, _ in prompts:
        attended += len(shared) ** 2 // 2
        attended += sum(len(rest) * (len(shared) + len(rest) // 2) for rest in rests)
    width = GEOMETRY["num_attention_heads"] * GEOMETRY["head_dim"]
    return 4 * GEOMETRY["num_hidden_layers"] * width * attended


if __name__ == "__main__":
    main()

"""How fast is LocalScorer beside the official script, CrossEncoder, ONNX Runtime and llama.cpp?

    python benchmarks/local.py [--rounds N] [--documents N] [--layers N] [--json FILE]

The model has the dimensions of Qwen3-Reranker-0.6B and random weights, which take as much time as
the real ones, with outliers in a few channels, as trained models have. All rows compute in the
dtype that LocalScorer chooses, except those in int8. Documents have 50 to 400 tokens. On a CPU one
query has 16 documents; on a CUDA device one query, and then each of 16, has 100. The
implementations take turns within a round, and the best round is reported: on a machine that is
busy with other things, compare the rows of one run, not those of two. Needs the extra `local`,
sentence-transformers, 20 GB of memory and 9 GB of disk; with onnx, onnxscript and onnxruntime there
is a row for ONNX Runtime, and on a CPU, with all layers and LLAMA_CPP=…/bin/python of the
environment that `make servers` makes, one for llama.cpp.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from itertools import combinations, starmap
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import torch
from packaging.requirements import Requirement
from sentence_transformers import CrossEncoder
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from qwen_rerank import InvalidInputError, LocalScorer, ServerScorer
from qwen_rerank.scorers.base import sigmoid
from qwen_rerank.scorers.local.batching import BatchRunner
from qwen_rerank.scorers.local.decoder import Decoder
from qwen_rerank.scorers.local.hardware import choose_dtype, fastest_dtype
from qwen_rerank.scorers.local.prompt import (
    DEFAULT_INSTRUCT,
    PREFIX,
    SUFFIX,
    Prompt,
    TokenizedPrompts,
    prompt_body,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import llama_server, tiny_models
from tests.support.real_server import KEY, running
from tests.support.tiny_qwen import (
    GEOMETRY_0_6B,
    decide,
    plant_outliers,
    random_model,
    real_tokenizer,
)

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ROOT / "core" / "qwen_rerank" / "testing" / "data" / "passages.jsonl"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = fastest_dtype(DEVICE)
GEOMETRY = dict(GEOMETRY_0_6B)
MAX_LENGTH = 8_192

HEADER = """
{queries} × {documents} documents, {tokens} tokens, {dtype} unless the row says otherwise

| | pairs/s | × CrossEncoder | useful GFLOP/s | memory, MB | load, s | install, MB | tau | error |
|---|---|---|---|---|---|---|---|---|"""

Score = Callable[[str, list[str]], list[float]]
Work = list[tuple[str, list[str]]]
"""Queries, each with its documents."""


class Implementation(NamedTuple):
    """One row.

    Attributes:
        score: Scores a query's documents.
        packages: What has to be installed for it; none for a server, which has an environment and a
            process of its own.
        load: The seconds that it took to load the model.
    """

    score: Score
    packages: tuple[str, ...]
    load: float


class Run(NamedTuple):
    """What one implementation took.

    Attributes:
        seconds: How long it took.
        memory: The most memory that it used in addition to the weights, in bytes.
        scores: All scores.
    """

    seconds: float
    memory: int
    scores: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--documents", type=int, default=16, help="per query, on a CPU")
    parser.add_argument("--layers", type=int, default=28, help="fewer for a quick look")
    parser.add_argument("--json", type=Path, help="where to save the rows")
    options = parser.parse_args()
    GEOMETRY["num_hidden_layers"] = options.layers
    torch.set_num_threads(os.cpu_count() or 1)
    loads = ((1, 100), (16, 100)) if DEVICE.type == "cuda" else ((1, options.documents),)
    tokenizer = real_tokenizer()
    prompt = Prompt(tokenizer, DEFAULT_INSTRUCT, MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        model: Any = random_model(**GEOMETRY)
        plant_outliers(model, [3, 77, 401, 900], [5, 100, 300, 411, 2_000])
        model.to(DTYPE).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        implementations = loaded(folder)
        for row in implementations.values():
            row.score("warm", ["up"])
        saved = []
        for queries, documents in loads:
            work = list(made_work(tokenizer, queries, documents))
            prompts = [prompt.tokenize(query, texts) for query, texts in work]
            runs = measure(implementations, work, options.rounds)
            exact = float32_scores(folder, runs, work)
            saved.append(report(implementations, runs, exact, documents, prompts))
    if options.json:
        options.json.write_text(json.dumps(saved, indent=1))


def loaded(folder: str) -> dict[str, Implementation]:
    """All implementations that this machine can run."""
    peers: dict[str, tuple[Callable[[str], Score], tuple[str, ...]]] = {
        "official script": (official, ("torch", "transformers")),
        "CrossEncoder": (cross_encoder, ("sentence-transformers",)),
        "LocalScorer": (local_scorer, ("torch", "transformers")),
        "LocalScorer 0.1.0": (local_scorer_before, ("torch", "transformers")),
    }
    if computes_in_int8():
        peers["LocalScorer, int8"] = (local_scorer_int8, ("torch", "transformers"))
    if DEVICE.type == "cpu" and all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        peers["ONNX Runtime, int8"] = (onnx_runtime_int8, ("onnxruntime", "tokenizers"))
    # A shallow random model repeats the last token, so that the server returns neither yes nor no.
    if DEVICE.type == "cpu" and "LLAMA_CPP" in os.environ and GEOMETRY == GEOMETRY_0_6B:
        peers["llama.cpp's server, Q8_0"] = (llama_cpp_q8_0, ())
    made = {}
    for name, (load, packages) in peers.items():
        start = time.perf_counter()
        score = load(folder)
        made[name] = Implementation(score, packages, time.perf_counter() - start)
    return made


def computes_in_int8() -> bool:
    try:
        choose_dtype("int8", DEVICE)
    except InvalidInputError:
        return False
    return True


@cache
def plain_scorer(folder: str) -> LocalScorer:
    return LocalScorer(folder, device=str(DEVICE))


def local_scorer(folder: str) -> Score:
    return without_kept_prefix(plain_scorer(folder))


def local_scorer_int8(folder: str) -> Score:
    return without_kept_prefix(LocalScorer(folder, device=str(DEVICE), dtype="int8"))


def local_scorer_before(folder: str) -> Score:
    """LocalScorer with the modules of transformers and one batch after another, as in 0.1.0.

    It shares the weights of the row before, so its load time is not measured.
    """
    loaded: Any = plain_scorer(folder)._loaded
    ours: Any = loaded.runner._decoder
    runner = BatchRunner(Decoder(ours._model, ours._direction), loaded.runner._batch_tokens)

    def score(query: str, texts: list[str]) -> list[float]:
        shared, rests, _ = loaded.prompt.tokenize(query, texts)
        runner._prefix_cache._kept = None
        logits = runner.logits(shared, rests, Event())
        return [sigmoid(logits[rest]) for rest in rests]

    return score


def without_kept_prefix(scorer: LocalScorer) -> Score:
    """Scores as if each query was a new one, though the rounds repeat the queries."""
    runner: Any = scorer._loaded and scorer._loaded.runner

    def score(query: str, texts: list[str]) -> list[float]:
        runner._prefix_cache._kept = None
        return scorer.score(query, texts).values

    return score


def onnx_runtime_int8(folder: str) -> Score:
    """ONNX Runtime with dynamic quantization, one text at a time, which needs no padding."""
    from onnx_int8 import export_int8

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    no, yes = tokenizer.convert_tokens_to_ids(["no", "yes"])
    direction = (model.lm_head.weight[yes] - model.lm_head.weight[no]).detach()
    prompt = Prompt(tokenizer, DEFAULT_INSTRUCT, MAX_LENGTH)
    logit = export_int8(model.model, direction, Path(folder) / "onnx")

    def score(query: str, texts: list[str]) -> list[float]:
        shared, rests, _ = prompt.tokenize(query, texts)
        return torch.tensor([logit(shared + rest) for rest in rests]).sigmoid().tolist()

    return score


def llama_cpp_q8_0(folder: str) -> Score:
    """llama.cpp's server with 8-bit weights, as published for it.

    It keeps no prompts, because the rounds repeat them.
    """
    python, copy = os.environ["LLAMA_CPP"], Path(folder) / "llama_cpp"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    decide(model, tokenizer)  # the server returns only the most probable tokens
    model.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    convert = [python, tiny_models.__file__, "q8_0", str(copy)]
    subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    options = ["-c", str(4 * MAX_LENGTH), "--threads", str(os.cpu_count() or 1), "--cache-ram", "0"]
    servers = ExitStack()
    atexit.register(servers.close)
    command = [python, llama_server.__file__, "-m", str(copy / "model.gguf"), *options]
    url = servers.enter_context(running(command))
    scorer = ServerScorer(url, dialect="completions", api_key=KEY, timeout=600)

    def score(query: str, texts: list[str]) -> list[float]:
        scorer.score("other", ["prompts", "in", "all", "slots"])  # a slot keeps its last prompt
        return scorer.score(query, texts).values

    return score


def official(folder: str) -> Score:
    """The official script, examples/qwen3_reranker_transformers.py: all documents in one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE).to(DEVICE).eval()
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
        folder, device=str(DEVICE), model_kwargs={"dtype": DTYPE}, max_length=MAX_LENGTH
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


def measure(implementations: dict[str, Implementation], work: Work, rounds: int) -> dict[str, Run]:
    """The best run of each implementation."""
    runs: dict[str, list[Run]] = {name: [] for name in implementations}
    for _ in tqdm(range(rounds), unit="round"):
        for name, row in implementations.items():
            runs[name].append(run(row.score, work))
    return {name: min(those) for name, those in runs.items()}


def run(score: Score, work: Work) -> Run:
    before = start_watching_memory()
    start = time.perf_counter()
    scores = [value for query, texts in work for value in score(query, texts)]
    return Run(time.perf_counter() - start, peak_memory() - before, scores)


def float32_scores(folder: str, runs: dict[str, Run], work: Work) -> list[float]:
    if torch.float32 == DTYPE:
        return runs["official script"].scores
    with LocalScorer(folder, device=str(DEVICE), dtype="float32") as scorer:
        return [value for query, texts in work for value in scorer.score(query, texts).values]


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
    implementations: dict[str, Implementation],
    runs: dict[str, Run],
    exact: list[float],
    documents: int,
    prompts: list[TokenizedPrompts],
) -> list[dict[str, Any]]:
    tokens = sum(len(shared) + sum(map(len, rests)) for shared, rests, _ in prompts)
    pairs = len(prompts) * documents
    print(HEADER.format(queries=len(prompts), documents=documents, tokens=tokens, dtype=DTYPE))
    useful = 2 * layer_weights() * tokens + attention_operations(prompts)
    rows = []
    for name, (took, memory, scores) in runs.items():
        packages = implementations[name].packages
        row = {
            "name": name,
            "pairs per second": pairs / took,
            "times CrossEncoder": runs["CrossEncoder"].seconds / took,
            "useful GFLOP/s": useful / took / 1e9,
            "memory in MB": memory / 1e6 if packages else None,
            "load in seconds": implementations[name].load,
            "install in MB": sum(map(install_size, dependencies(packages))) if packages else None,
            "tau": kendall(scores, exact),
            "error": max(abs(ours - theirs) for ours, theirs in zip(scores, exact, strict=True)),
        }
        rows.append(row)
        digits = 2, 2, 0, 0, 0, 0, 3, 4
        cells = zip(list(row.values())[1:], digits, strict=True)
        print("|", " | ".join([name, *starmap(cell, cells)]), "|")
    return rows


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def kendall(left: list[float], right: list[float]) -> float:
    """Kendall's tau of two lists of scores without ties."""
    pairs = list(combinations(range(len(left)), 2))
    agree = sum((left[a] < left[b]) == (right[a] < right[b]) for a, b in pairs)
    return 2 * agree / len(pairs) - 1


def dependencies(packages: tuple[str, ...]) -> set[str]:
    """The installed packages that these need, with themselves."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            requirements = map(Requirement, needs)
            waiting += [
                each.name
                for each in requirements
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def install_size(package: str) -> float:
    """The size of its files, in MB."""
    paths = (file.locate() for file in distribution(package).files or ())
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file()) / 1e6


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

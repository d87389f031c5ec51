"""What does LocalScorer reach on a CUDA device, and where does its time go?

    python benchmarks/local_cuda.py [--json FILE] [--seconds 450] [--small]

One run measures, in this order: how fast the device multiplies and copies; the forward pass in each
way (norms of transformers or fused, sequences padded or packed) for lists of 10, 50, 100 and 500
documents; kernels and busy time; and the way from texts to scores, beside sentence-transformers'
CrossEncoder if it is installed. Each result is one line of JSON. After `--seconds`, no further
measurement starts. The model has the dimensions of Qwen3-Reranker-0.6B, in bfloat16, with random
weights, which take as much time as the real ones.

`--small` runs everything with a small model on any machine, to test this script. Needs the extra
`local`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qwen_rerank import LocalScorer
from qwen_rerank.scorers.local import decoder, loading
from qwen_rerank.scorers.local.attention import (
    PackedAttention,
    PaddedAttention,
    attention_on,
    can_attend_packed,
)
from qwen_rerank.scorers.local.norms import fuse_norms
from tests.support.tiny_qwen import GEOMETRY_0_6B, random_model, real_tokenizer, tokenizer

PRODUCTS = ((1_024, 4_096), (2_048, 1_024), (1_024, 6_144), (3_072, 1_024))
"""Inputs and outputs of the products of a layer: q, k and v; o; gate and up; down."""


class Bench:
    """The model, and the lines of results.

    Args:
        small: Whether to run a small model on the CPU.
        seconds: After how many seconds no further measurement starts.
    """

    def __init__(self, small: bool, seconds: float) -> None:
        self.small = small
        self.device = torch.device("cpu" if small else "cuda")
        self.sizes = (2, 5) if small else (10, 50, 100, 500)
        self.lines: list[dict[str, Any]] = []
        self._start = time.perf_counter()
        self._seconds = seconds
        self.folder = tempfile.mkdtemp()
        made = random_model(**({} if small else GEOMETRY_0_6B)).bfloat16()
        made.save_pretrained(self.folder)
        self.tokenizer = tokenizer() if small else real_tokenizer()
        self.tokenizer.save_pretrained(self.folder)
        with unfused_norms():
            self.scorer = LocalScorer(self.folder, device=str(self.device), dtype="bfloat16")
        assert self.scorer._loaded is not None
        self.runner: Any = self.scorer._loaded.runner
        self.prompt = self.scorer._loaded.prompt
        self.model = self.runner._decoder._model

    def add(self, what: str, **values: Any) -> None:
        line = {"what": what, **values, "at_s": round(time.perf_counter() - self._start, 1)}
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    @property
    def has_time(self) -> bool:
        return time.perf_counter() - self._start < self._seconds

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """The median of some rounds, after one that does not count."""
        took = []
        for _ in range(rounds + 1):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            took.append(time.perf_counter() - start)
        return statistics.median(took[1:])

    def documents(self, count: int) -> list[str]:
        """Texts of 9 to 400 tokens, always the same for a count."""
        chance = random.Random(count)
        ids = range(300, min(len(self.tokenizer) - 10, 9_000))
        longest = 40 if self.small else 400
        return [
            self.tokenizer.decode(chance.choices(ids, k=chance.randint(9, longest)))
            for _ in range(count)
        ]

    def logits(self, query: str, texts: list[str]) -> list[float]:
        """The forward pass, with a prefix that is computed."""
        shared, rests, _ = self.prompt.tokenize(query, texts)
        return self.logits_of(shared, rests)

    def logits_of(self, shared: Any, rests: Any) -> list[float]:
        self.runner._prefix_cache._kept = None
        values = self.runner.logits(shared, rests, Event())
        return [values[rest] for rest in rests]


@contextmanager
def unfused_norms() -> Iterator[None]:
    fuse, loading.fuse_norms = loading.fuse_norms, lambda model: None
    try:
        yield
    finally:
        loading.fuse_norms = fuse


@contextmanager
def attention(kind: Any) -> Iterator[None]:
    make, decoder.make_attention = decoder.make_attention, kind
    try:
        yield
    finally:
        decoder.make_attention = make


def roof(bench: Bench) -> None:
    """How fast the device multiplies matrices of the model's shapes, and copies."""
    like = {"device": bench.device, "dtype": torch.bfloat16}
    for rows in (64,) if bench.small else (2_048, 16_384):
        for inner, columns in PRODUCTS:
            left, right = torch.randn(rows, inner, **like), torch.randn(columns, inner, **like)

            def multiply(left: Any = left, right: Any = right) -> None:
                for _ in range(10):
                    torch.nn.functional.linear(left, right)

            rate = 20 * rows * inner * columns / bench.seconds(multiply)
            bench.add("product", rows=rows, shape=[inner, columns], tflops=round(rate / 1e12, 2))
    source = torch.empty(2**22 if bench.small else 2**30, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    rate = 2 * len(source) / bench.seconds(lambda: target.copy_(source))
    bench.add("copy", gbytes_s=round(rate / 1e9))


def ways(bench: Bench) -> None:
    """The forward pass in each way."""
    texts = bench.documents(8)
    exact = bench.logits("the reference", texts)
    packs = can_attend_packed(bench.device, torch.bfloat16)
    bench.add("packed attention", works=packs)
    attentions = {
        "as chosen": attention_on(bench.device, torch.bfloat16),
        "padded": PaddedAttention,
    }
    if packs:
        attentions["packed"] = PackedAttention
    for norms in ("of transformers", "fused"):
        if norms == "fused":
            fuse_norms(bench.model)
        for name, kind in attentions.items():
            with attention(kind):
                logits = bench.logits("the reference", texts)
                off = max(abs(a - b) for a, b in zip(logits, exact, strict=True))
                for size in bench.sizes:
                    if bench.has_time:
                        forward(bench, size, norms=norms, attention=name, logits_off=round(off, 4))


def forward(bench: Bench, size: int, **way: Any) -> None:
    shared, rests, _ = bench.prompt.tokenize("what does it cost", bench.documents(size))
    tokens = len(shared) + sum(map(len, set(rests)))
    took = bench.seconds(lambda: bench.logits_of(shared, rests), rounds=3)
    weights = sum(p.numel() for n, p in bench.model.named_parameters() if "embed" not in n)
    bench.add(
        "forward",
        **way,
        documents=size,
        tokens=tokens,
        ms=round(took * 1e3, 2),
        pairs_s=round(size / took, 1),
        tflops=round(2 * weights * tokens / took / 1e12, 2),
    )


def profile(bench: Bench) -> None:
    """How many kernels start, and for what share of the time the device is busy."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for size in bench.sizes[::2]:
        shared, rests, _ = bench.prompt.tokenize("what does it cost", bench.documents(size))
        took = bench.seconds(lambda shared=shared, rests=rests: bench.logits_of(shared, rests), 3)
        with torch.profiler.profile(activities=activities) as measured:
            bench.logits_of(shared, rests)
            bench.synchronize()
        on_device = (
            torch.autograd.DeviceType.CUDA if not bench.small else torch.autograd.DeviceType.CPU
        )
        events = [event for event in measured.key_averages() if event.device_type == on_device]
        time_of = "self_device_time_total" if not bench.small else "self_cpu_time_total"
        busy = sum(getattr(event, time_of) for event in events) / 1e6
        longest = sorted(events, key=lambda event: -getattr(event, time_of))[:12]
        bench.add(
            "profile",
            documents=size,
            ms=round(took * 1e3, 2),
            launches=sum(event.count for event in events),
            busy_share=round(busy / took, 3),
            longest=[[e.key[:60], round(getattr(e, time_of) / 1e3, 3), e.count] for e in longest],
        )


def end_to_end(bench: Bench) -> None:
    """From texts to scores: one list, many short lists, and a list with the query of the last."""
    size = bench.sizes[-2]
    short, lists = bench.sizes[0], 3 if bench.small else 16
    one = bench.documents(size)
    many = [(f"what does number {i} cost", bench.documents(short)) for i in range(lists)]
    took = bench.seconds(lambda: bench.prompt.tokenize("what does it cost", one))
    bench.add("tokenizing", documents=size, ms=round(took * 1e3, 2))
    took = bench.seconds(lambda: bench.scorer.score("what does it cost", one), 3)
    bench.add("texts to scores, the same query again", documents=size, ms=round(took * 1e3, 2))
    took = bench.seconds(lambda: [bench.scorer.score(*each) for each in many], 3)
    bench.add(f"{lists} lists, one after another", documents=short, ms=round(took * 1e3, 2))


def cross_encoder(bench: Bench) -> None:
    """sentence-transformers, with its default batch size of 32."""
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        bench.add("CrossEncoder", missing=str(error))
        return
    options = {"dtype": "bfloat16"}
    model = CrossEncoder(
        bench.folder, device=str(bench.device), model_kwargs=options, max_length=8_192
    )
    size = bench.sizes[-2]
    pairs = [("what does it cost", text) for text in bench.documents(size)]
    took = bench.seconds(lambda: model.predict(pairs, show_progress_bar=False), 3)
    bench.add("CrossEncoder", documents=size, ms=round(took * 1e3, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="a file for all results")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--small", action="store_true", help="test this script on any machine")
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        sys.exit("There is no CUDA device. --small runs a small model on the CPU.")
    bench = Bench(options.small, options.seconds)
    name = "CPU" if options.small else torch.cuda.get_device_name()
    bench.add("device", name=name, torch=torch.__version__)
    for part in (roof, ways, profile, end_to_end, cross_encoder):
        if bench.has_time:
            part(bench)
    if options.json:
        options.json.write_text(json.dumps(bench.lines, indent=1) + "\n")


if __name__ == "__main__":
    main()

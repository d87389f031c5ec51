"""The targets and every median, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product

from rig.clients import FAN_OUTS, FLOORS, LANGCHAIN, LLAMAINDEX, OURS, PEERS, SCORER, SDK
from rig.figures import Figures, Target, table

__all__ = [
    "BESIDE_IMAGES",
    "CONCURRENCY",
    "IMAGES",
    "IMPORTS",
    "MEGABYTES",
    "PLUGINS",
    "SIZES",
    "TEN",
    "as_json",
    "as_markdown",
    "fastest_fan_out",
]

SIZES = (100, 500)
TEN = "ten returned"
CONCURRENCY = 64
IMAGES, MEGABYTES = 20, 4
BESIDE_IMAGES = ("longest", "median", "longest without images")

PLUGINS = (LANGCHAIN, LLAMAINDEX)

_NODES = "import llama_index.core.schema, llama_index.core.postprocessor.types"
IMPORTS = {
    "import langchain_qwen_rerank": "import langchain_core.documents",
    "from langchain_qwen_rerank import QwenRerank": (
        "from langchain_core.documents import BaseDocumentCompressor"
    ),
    "import llamaindex_qwen_rerank": _NODES,
    "from llamaindex_qwen_rerank import QwenRerank": _NODES,
}
"""Each import, and what its users have imported from their framework before."""

PEER_OF = dict(zip(OURS, PEERS, strict=True))


def fastest_fan_out(figures: Figures) -> str:
    """The hand-written client whose number of requests turned out best for 5,000 documents."""
    return min(FAN_OUTS, key=lambda client: figures.median("large: ms", client))


def targets(figures: Figures) -> Iterator[Target]:
    """What the client should reach."""
    yield from _of_single_calls(figures)
    yield from _of_concurrent_calls(figures)
    yield from _of_large_calls(figures)
    yield from _of_the_rest(figures)


def _of_single_calls(figures: Figures) -> Iterator[Target]:
    for suffix, returned, bound in (("", "all returned", 0.7), (f", {TEN}", TEN, 1.0)):
        for plugin, size in product(PLUGINS, SIZES):
            peer = PEER_OF[plugin]
            ratio = figures.ratio(f"sync, {size} documents{suffix}: CPU ms", plugin, peer)
            what = f"CPU per call, {size} documents, {returned}: {plugin} / {peer}"
            yield Target(what, "≤", bound, ratio)


def _of_concurrent_calls(figures: Figures) -> Iterator[Target]:
    best = max(PEERS, key=lambda peer: figures.median("calls/s", peer))
    for plugin in PLUGINS:
        for other, bound in ((best, 4), (FLOORS["async"], 0.6)):
            ratio = figures.ratio("calls/s", plugin, other)
            yield Target(
                f"async calls/s, {CONCURRENCY} concurrent: {plugin} / {other}", "≥", bound, ratio
            )
    flight = min(figures.median("in flight", plugin) for plugin in PLUGINS)
    yield Target("… requests in flight at the service", "=", CONCURRENCY, flight)


def _of_large_calls(figures: Figures) -> Iterator[Target]:
    best = fastest_fan_out(figures)
    for plugin in PLUGINS:
        yield Target(
            f"5,000 documents: {plugin} / {best}",
            "≤",
            1.15,
            figures.ratio("large: ms", plugin, best),
        )
    for client in OURS:
        blocked = figures.median("large: loop blocked, ms", client)
        yield Target(f"… ms that it blocks the event loop: {client}", "≤", 20, blocked)
    longest = figures.median("beside images: longest ms", SCORER)
    what = f"ms of the longest short call beside {IMAGES} images of {MEGABYTES} MB: {SCORER}"
    yield Target(what, "≤", 20, longest)
    memory = figures.worst("memory traced, × texts", PLUGINS)
    yield Target("5,000 documents: memory added at the peak, × the texts", "≤", 3, memory)


def _of_the_rest(figures: Figures) -> Iterator[Target]:
    for mode in FLOORS:
        opened = figures.worst(f"connections, {mode}", OURS)
        yield Target(f"connections opened for 100 sequential {mode} calls", "=", 1, opened)
    for statement in (each for each in IMPORTS if each.startswith("import")):
        more = figures.median("ms more", statement)
        yield Target(f"{statement}, ms more than {IMPORTS[statement]}", "≤", 50, more)
    loading = figures.worst("loads dashscope", IMPORTS)
    yield Target("… whether one of them loads dashscope", "=", 0, loading)
    yield Target(
        "texts billed / distinct texts", "=", 1, figures.worst("texts billed / distinct", OURS)
    )


def as_markdown(figures: Figures, notes: Mapping[str, str]) -> str:
    """The targets, then the medians by section, then the notes."""
    head = ("what", "target", "measured", "met")
    parts = ["# Targets", table(head, (target.row for target in targets(figures)))]
    parts += [part for titled in _details(figures).items() for part in titled]
    parts += ["# Notes", *(f"{about}: {note}" for about, note in notes.items())]
    return "\n\n".join(parts)


def _details(figures: Figures) -> dict[str, str]:
    best, clients = fastest_fan_out(figures), (SCORER, *OURS, *PEERS)
    large = ("ms", "CPU ms", "loop blocked, ms")
    memory = ("memory traced, × texts", "memory resident, × texts")
    sequential = {
        f"# One {mode} call after another": figures.table(
            (floor, *clients),
            [f"{mode}, {size} documents: {unit}" for size in SIZES for unit in ("CPU ms", "ms")],
            beside=floor,
        )
        for mode, floor in FLOORS.items()
    }
    ten = [f"sync, {size} documents, {TEN}: {unit}" for size in SIZES for unit in ("CPU ms", "ms")]
    return {
        **sequential,
        f"# One sync call after another, {TEN}": figures.table(
            (FLOORS["sync"], *clients), ten, beside=FLOORS["sync"]
        ),
        f"# 50 documents per call, {CONCURRENCY} concurrent calls": figures.table(
            (FLOORS["async"], *clients, *SDK),
            ("calls/s", "CPU ms a call", "in flight"),
            beside=FLOORS["async"],
        ),
        "# 5,000 documents": figures.table(
            (*OURS, *FAN_OUTS), [f"large: {what}" for what in large], beside=best
        ),
        "# 5,000 documents: the first call of a process": figures.table(
            (LANGCHAIN, best), [f"first: {what}" for what in (*large, "requests", "refused")]
        ),
        f"# Short calls beside {IMAGES} images of {MEGABYTES} MB": figures.table(
            (SCORER,),
            [f"beside images: {what} ms" for what in BESIDE_IMAGES],
        ),
        "# 5,000 documents: memory": figures.table((*PLUGINS, best), memory),
        "# Connections, billing, construction": figures.table(
            (*OURS, *PEERS),
            (
                *(f"connections, {mode}" for mode in FLOORS),
                "texts billed / distinct",
                "construction, CPU ms",
            ),
        ),
        "# Imports": figures.table(IMPORTS, ("ms before", "ms more", "loads dashscope")),
    }


def as_json(figures: Figures, notes: Mapping[str, str]) -> str:
    """The targets, the figures of every round, and the notes."""
    listed = [
        {
            "what": target.what,
            "target": f"{target.sign} {target.bound:g}",
            "measured": None if math.isnan(target.measured) else target.measured,
            "met": target.met,
        }
        for target in targets(figures)
    ]
    report = {"targets": listed, "figures": figures, "notes": dict(notes)}
    return json.dumps(report, indent=1, ensure_ascii=False)

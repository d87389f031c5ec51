"""What is to be reached, what was, and every median, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

from rig.clients import FAN_OUTS, FLOORS, LANGCHAIN, LLAMAINDEX, OURS, PEERS, SCORER, SDK
from rig.figures import Figures, Target, table

__all__ = [
    "CONCURRENCY",
    "IMPORTS",
    "PLUGINS",
    "SIZES",
    "as_json",
    "as_markdown",
    "fastest_fan_out",
]

SIZES = (100, 500)
CONCURRENCY = 64

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
"""Each comes after what its users have imported of their framework anyway."""

PEER_OF = dict(zip(OURS, PEERS, strict=True))


def fastest_fan_out(figures: Figures) -> str:
    """The number of requests that serves 5,000 documents best, found by trying."""
    return min(FAN_OUTS, key=lambda client: figures.median("large: ms", client))


def targets(figures: Figures) -> Iterator[Target]:
    """What the client has to reach."""
    yield from _of_single_calls(figures)
    yield from _of_concurrent_calls(figures)
    yield from _of_large_calls(figures)
    yield from _of_the_rest(figures)


def _of_single_calls(figures: Figures) -> Iterator[Target]:
    for plugin in PLUGINS:
        for size in SIZES:
            ratio = figures.ratio(f"sync, {size} documents: CPU ms", plugin, PEER_OF[plugin])
            what = f"client CPU a call, {size} documents: {plugin} / {PEER_OF[plugin]}"
            yield Target(what, "≤", 0.5, ratio)


def _of_concurrent_calls(figures: Figures) -> Iterator[Target]:
    best = max(PEERS, key=lambda peer: figures.median("calls/s", peer))
    for plugin in PLUGINS:
        for other, bound in ((best, 4), (FLOORS["async"], 0.6)):
            ratio = figures.ratio("calls/s", plugin, other)
            yield Target(
                f"async calls/s, {CONCURRENCY} at a time: {plugin} / {other}", "≥", bound, ratio
            )
    flight = min(figures.median("in flight", plugin) for plugin in PLUGINS)
    yield Target("… in flight at the service", "=", CONCURRENCY, flight)


def _of_large_calls(figures: Figures) -> Iterator[Target]:
    best = fastest_fan_out(figures)
    for plugin in PLUGINS:
        yield Target(
            f"5,000 documents: {plugin} / {best}",
            "≤",
            1.15,
            figures.ratio("large: ms", plugin, best),
        )
    blocked = figures.worst("large: loop blocked, ms", PLUGINS)
    yield Target("… longest time that the event loop stands still, ms", "≤", 20, blocked)
    memory = figures.worst("memory traced, × texts", PLUGINS)
    yield Target("… memory added at the peak, × the size of the texts", "≤", 3, memory)


def _of_the_rest(figures: Figures) -> Iterator[Target]:
    for way in FLOORS:
        opened = figures.worst(f"connections, {way}", OURS)
        yield Target(f"connections opened for 100 sequential {way} calls", "=", 1, opened)
    for statement in (each for each in IMPORTS if each.startswith("import")):
        more = figures.median("ms more", statement)
        yield Target(f"{statement}, ms more than {IMPORTS[statement]}", "≤", 50, more)
    loading = figures.worst("loads dashscope", IMPORTS)
    yield Target("… whether one of them loads dashscope", "=", 0, loading)
    yield Target(
        "texts billed / distinct texts", "=", 1, figures.worst("texts billed / distinct", OURS)
    )


def as_markdown(figures: Figures, notes: Mapping[str, str]) -> str:
    """The targets, then all medians by section, then the notes."""
    head = ("what", "target", "measured", "met")
    parts = ["# Targets", table(head, (target.row for target in targets(figures)))]
    parts += [part for titled in _details(figures).items() for part in titled]
    parts += ["# Notes", *(f"{about}: {note}" for about, note in notes.items())]
    return "\n\n".join(parts)


def _details(figures: Figures) -> dict[str, str]:
    best, faces = fastest_fan_out(figures), (SCORER, *OURS, *PEERS)
    large = ("ms", "CPU ms", "loop blocked, ms")
    memory = ("memory traced, × texts", "memory resident, × texts")
    sequential = {
        f"# One {way} call after the other": figures.table(
            (floor, *faces),
            [f"{way}, {size} documents: {unit}" for size in SIZES for unit in ("CPU ms", "ms")],
            beside=floor,
        )
        for way, floor in FLOORS.items()
    }
    return {
        **sequential,
        f"# 50 documents a call, {CONCURRENCY} calls at a time": figures.table(
            (FLOORS["async"], *faces, *SDK),
            ("calls/s", "CPU ms a call", "in flight"),
            beside=FLOORS["async"],
        ),
        "# 5,000 documents": figures.table(
            (*OURS, *FAN_OUTS), [f"large: {what}" for what in large], beside=best
        ),
        "# 5,000 documents: the first call of a process": figures.table(
            (LANGCHAIN, best), [f"first: {what}" for what in (*large, "requests", "refused")]
        ),
        "# 5,000 documents: memory": figures.table((*PLUGINS, best), memory),
        "# Connections, billing, construction": figures.table(
            (*OURS, *PEERS),
            (
                *(f"connections, {way}" for way in FLOORS),
                "texts billed / distinct",
                "construction, CPU ms",
            ),
        ),
        "# Imports": figures.table(IMPORTS, ("ms before", "ms more", "loads dashscope")),
    }


def as_json(figures: Figures, notes: Mapping[str, str]) -> str:
    """The same with the figures of every round."""
    reached = [
        {
            "what": target.what,
            "target": f"{target.sign} {target.bound:g}",
            "measured": None if math.isnan(target.measured) else target.measured,
            "met": target.met,
        }
        for target in targets(figures)
    ]
    told = {"targets": reached, "figures": figures, "notes": dict(notes)}
    return json.dumps(told, indent=1, ensure_ascii=False)

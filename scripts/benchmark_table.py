"""Write the benchmark table of each README.

    python scripts/benchmark_table.py

The figures come from benchmarks/client.json and benchmarks/faults.json. To update them, run
`make bench ARGS="--json benchmarks/client.json"` and
`make faults ARGS="--json benchmarks/faults.json"`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from rig.figures import Figures, table
from rig.worker import RAW, SILENT, Outcomes

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "client.json"
FAULTS = ROOT / "benchmarks" / "faults.json"
BEGIN, END = "<!-- benchmark: `make table` writes it -->", "<!-- end of the benchmark -->"

CLIENTS = {
    "QwenRerank (LangChain)": "**QwenRerank, LangChain**",
    "langchain-community": "langchain-community{of}DashScopeRerank",
    "QwenRerank (LlamaIndex)": "**QwenRerank, LlamaIndex**",
    "llama-index": "llama-index{of}DashScopeRerank",
    "QwenReRanker": "**QwenReRanker**, zvec",
    "zvec": "zvec{of}QwenReRanker",
}
"""The name of each client in the benchmark, and in the table."""

HEADS = {
    "README.md": (
        "",
        "calls/s",
        "requests in flight",
        "5,000 documents",
        "wrong results or raw errors, of {faults} faults",
        "'s ",
        "fails",
    ),
    "README.zh-CN.md": (
        "",
        "每秒调用数",
        "同时在途的请求数",
        "5,000 篇文档",
        "{faults} 种故障中结果有误或抛原始异常的",
        " 的 ",
        "失败",
    ),
}
"""For each page: column heads, what joins a package and its class, the word for a failure."""


def main() -> None:
    for name in HEADS:
        page = ROOT / name
        page.write_text(with_table(page), encoding="utf-8")


def with_table(page: Path) -> str:
    """The text of the page with the table made from the current figures."""
    stored = json.loads(FIGURES.read_text(encoding="utf-8"))
    outcomes: Outcomes = json.loads(FAULTS.read_text(encoding="utf-8"))
    *heads, of, failure = HEADS[page.name]
    heads = [head.format(faults=len(next(iter(outcomes.values())))) for head in heads]
    rows = _rows(Figures(stored["figures"]), outcomes, stored["notes"], of, failure)
    text, found = re.subn(
        f"(?<={BEGIN}\n).*?(?={END})",
        f"\n{table(heads, rows)}\n\n",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if not found:
        sys.exit(f"{page.name} has no markers for the table: {BEGIN} … {END}")
    return text


def _rows(
    figures: Figures, outcomes: Outcomes, notes: dict[str, str], of: str, failure: str
) -> Iterator[Sequence[object]]:
    for client, name in CLIENTS.items():
        time = f"{figures.median('large: ms', client) / 1000:.2f} s"
        has_failed = f"{client}, 5,000 documents" in notes
        yield (
            name.format(of=of),
            figures.median("calls/s", client),
            figures.median("in flight", client),
            failure if has_failed else time,
            sum(outcome["outcome"] in (RAW, SILENT) for outcome in outcomes[client].values()),
        )


if __name__ == "__main__":
    main()

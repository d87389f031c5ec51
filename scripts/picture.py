"""Draw the READMEs' before-and-after pictures.

    python scripts/picture.py

Each picture takes one query of the sample help centre, in English or in Chinese. It shows the top
passages by word vectors, and the top passages after the offline scorer has reranked them. The
pictures have their own background and adapt to light and dark themes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten, wrap
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from quickstart import Search, with_langchain, with_llamaindex
from qwen_rerank import EmbeddedScorer
from qwen_rerank.testing import HelpCentre

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"

SHOWN = 5
WIDTH, MARGIN, COLUMN = 1000, 24, 440
TOP, ROW = 116, 44
ROW_CENTRE = 17  # lines start and end here

STYLE = """
    text { font: 13px system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif;
           fill: #1f2328 }
    .query { font-size: 16px; font-weight: 600 }
    .head, .was { fill: #59636e }
    .rank { fill: #59636e; text-anchor: middle }
    .was, .gain { text-anchor: end; font-size: 12px }
    .gain { font-weight: 600; fill: #1a7f37 }
    .card { fill: #ffffff }
    .row { fill: #f6f8fa; stroke: #d1d9e0 }
    .row.good { fill: #dafbe1; stroke: #4ac26b }
    path { fill: none; stroke: #afb8c1; stroke-width: 1.5 }
    path.good { stroke: #1a7f37; stroke-width: 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .head, .was, .rank { fill: #9198a1 }
      .gain { fill: #3fb950 }
      .card { fill: #0d1117 }
      .row { fill: #151b23; stroke: #3d444d }
      .row.good { fill: #12261e; stroke: #238636 }
      path { stroke: #656c76 }
      path.good { stroke: #3fb950 }
    }
"""


@dataclass(frozen=True)
class Words:
    """The text of a picture, in one language."""

    query: str
    first_stage: Callable[..., tuple[Search, Search]]
    before: str
    after: str
    was: str
    title: str
    gains: Mapping[int, str]


PICTURES = {
    "before-after.svg": Words(
        query="q09",
        first_stage=with_llamaindex,
        before="Retrieved by vector similarity",
        after="Reranked",
        was="was {}",
        title="Passages retrieved for a query, before and after reranking: the answer moves from "
        "rank {} to rank {}",
        gains={3: "answer", 2: "partial answer", 1: "related"},
    ),
    "before-after.zh-CN.svg": Words(
        query="q15",
        first_stage=with_langchain,
        before="向量召回",
        after="重排之后",
        was="原第 {} 位",
        title="一个查询、召回的段落，以及重排后的顺序：能回答问题的段落从第 {} 位升到第 {} 位",
        gains={3: "答案", 2: "部分答案", 1: "相关"},
    ),
}


@dataclass(frozen=True)
class Orders:
    """A query's passages before and after reranking, best first, with their titles and gains."""

    query: str
    before: Sequence[str]
    after: Sequence[str]
    titles: Mapping[str, str]
    gains: Mapping[str, int]


def main() -> None:
    for name, words in PICTURES.items():
        (IMAGES / name).write_text(svg(orders(words), words), encoding="utf-8")
        print(IMAGES / name)


def orders(words: Words) -> Orders:
    """Retrieve and rerank as `make quickstart` does, but by vectors alone."""
    centre = HelpCentre.load()
    retrieve, rerank = words.first_stage(centre.passages.values(), EmbeddedScorer(), words=False)
    query = centre.queries[words.query]
    return Orders(
        query=query.text,
        before=list(retrieve(query.text)),
        after=list(rerank(query.text)),
        titles={id_: passage.title for id_, passage in centre.passages.items()},
        gains=centre.gains[words.query],
    )


def svg(shown: Orders, words: Words) -> str:
    """The picture as SVG."""
    best = max(shown.before, key=lambda id_: shown.gains.get(id_, 0))
    title = words.title.format(shown.before.index(best) + 1, shown.after.index(best) + 1)
    height, right = TOP + SHOWN * ROW + 14, WIDTH - MARGIN - COLUMN
    parts = [
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="12"/>',
        *_query(shown.query),
        f'<text class="head" x="{MARGIN}" y="{TOP - 18}">{escape(words.before)}</text>',
        f'<text class="head" x="{right}" y="{TOP - 18}">{escape(words.after)}</text>',
        *_lines(shown),
        *_column(MARGIN, shown.before, shown, words),
        *_column(right, shown.after, shown, words),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"  <title>{escape(title)}</title>",
            f"  <style>{STYLE}  </style>",
            *(f"  {part}" for part in parts),
            "</svg>\n",
        ]
    )


def _query(query: str) -> Iterator[str]:
    for index, line in enumerate(wrap(query, 84)):
        yield f'<text class="query" x="{MARGIN}" y="{40 + 24 * index}">{escape(line)}</text>'


def _lines(shown: Orders) -> Iterator[str]:
    """A line from each passage's old row to its new one, if both are shown."""
    left, right = MARGIN + COLUMN, WIDTH - MARGIN - COLUMN
    middle = (left + right) / 2
    for index, id_ in enumerate(shown.before[:SHOWN]):
        if id_ in shown.after[:SHOWN]:
            start, end = (TOP + ROW * row + ROW_CENTRE for row in (index, shown.after.index(id_)))
            curve = f"M{left} {start}C{middle} {start} {middle} {end} {right} {end}"
            yield f'<path class="{_row_class(shown, id_)}" d="{curve}"/>'


def _row_class(shown: Orders, id_: str) -> str:
    return "good" if shown.gains.get(id_) == max(shown.gains.values()) else ""


def _column(x: int, ids: Sequence[str], shown: Orders, words: Words) -> Iterator[str]:
    for index, id_ in enumerate(ids[:SHOWN]):
        remark, was = words.gains.get(shown.gains.get(id_, 0), ""), shown.before.index(id_)
        kind = "gain" if remark else "was"
        if not remark and was >= SHOWN:
            remark = words.was.format(was + 1)
        title = shorten(shown.titles[id_], 50 - len(remark), placeholder=" …")
        yield f'<g transform="translate({x} {TOP + ROW * index})">'
        yield f'  <rect class="row {_row_class(shown, id_)}" width="{COLUMN}" height="34" rx="6"/>'
        yield f'  <text class="rank" x="20" y="22">{index + 1}</text>'
        yield f'  <text x="40" y="22">{escape(title)}</text>'
        yield f'  <text class="{kind}" x="{COLUMN - 12}" y="22">{escape(remark)}</text>'
        yield "</g>"


if __name__ == "__main__":
    main()

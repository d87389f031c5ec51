"""Draw what the reranker changes, as the README shows it.

    python scripts/picture.py

A query of the sample help centre in English and one in Chinese: the first passages that the word
vectors find, and those passages in the order of the offline scorer. The pictures have their own
background, and colours for light and for dark surroundings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten, wrap
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import helpcentre
from helpcentre import Passage
from quickstart import Search, with_langchain, with_llamaindex
from qwen_rerank import EmbeddedScorer, Scorer

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"

SHOWN = 5
WIDTH, MARGIN, COLUMN = 1000, 24, 440
TOP, ROW = 116, 44
CENTRE = 17  # of a row, where lines begin and end

STYLE = """
    text { font: 13px system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif;
           fill: #1f2328 }
    .query { font-size: 16px; font-weight: 600 }
    .head, .was { fill: #59636e }
    .place { fill: #59636e; text-anchor: middle }
    .was, .gain { text-anchor: end; font-size: 12px }
    .gain { font-weight: 600; fill: #1a7f37 }
    .card { fill: #ffffff }
    .row { fill: #f6f8fa; stroke: #d1d9e0 }
    .row.good { fill: #dafbe1; stroke: #4ac26b }
    path { fill: none; stroke: #afb8c1; stroke-width: 1.5 }
    path.good { stroke: #1a7f37; stroke-width: 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc }
      .head, .was, .place { fill: #9198a1 }
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
    """What a picture says, in one language."""

    query: str
    first_stage: Callable[[Iterable[Passage], Scorer], tuple[Search, Search]]
    before: str
    after: str
    was: str
    title: str
    gains: Mapping[int, str]


PICTURES = {
    "before-after.svg": Words(
        query="q09",
        first_stage=with_llamaindex,
        before="Retrieved: nearest by vectors",
        after="Reranked",
        was="was {}",
        title="A query, the passages retrieved for it, and the same reranked: the answer goes from "
        "place {} to place {}",
        gains={3: "answer", 2: "part of it", 1: "related"},
    ),
    "before-after.zh-CN.svg": Words(
        query="q15",
        first_stage=with_langchain,
        before="召回：向量最近的",
        after="重排之后",
        was="原第 {} 位",
        title="一个查询、召回的段落，以及重排后的顺序：能回答问题的段落从第 {} 位升到第 {} 位",
        gains={3: "答案", 2: "部分答案", 1: "相关"},
    ),
}


@dataclass(frozen=True)
class Orders:
    """A query's passages before and after, best first, with their titles and gains."""

    query: str
    before: Sequence[str]
    after: Sequence[str]
    titles: Mapping[str, str]
    gains: Mapping[str, int]


def main() -> None:
    for name, words in PICTURES.items():
        (IMAGES / name).write_text(drawn(orders(words), words), encoding="utf-8")
        print(IMAGES / name)


def orders(words: Words) -> Orders:
    """Retrieve and rerank as `make quickstart` does it."""
    centre = helpcentre.load()
    retrieve, rerank = words.first_stage(centre.passages.values(), EmbeddedScorer())
    query = centre.queries[words.query]
    return Orders(
        query=query.text,
        before=list(retrieve(query.text)),
        after=list(rerank(query.text)),
        titles={id_: passage.title for id_, passage in centre.passages.items()},
        gains=centre.gains[words.query],
    )


def drawn(found: Orders, words: Words) -> str:
    """The picture, as SVG."""
    best = max(found.before, key=lambda id_: found.gains.get(id_, 0))
    title = words.title.format(found.before.index(best) + 1, found.after.index(best) + 1)
    height, right = TOP + SHOWN * ROW + 14, WIDTH - MARGIN - COLUMN
    parts = [
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="12"/>',
        *_query(found.query),
        f'<text class="head" x="{MARGIN}" y="{TOP - 18}">{escape(words.before)}</text>',
        f'<text class="head" x="{right}" y="{TOP - 18}">{escape(words.after)}</text>',
        *_lines(found),
        *_column(MARGIN, found.before, found, words),
        *_column(right, found.after, found, words),
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
    for place, line in enumerate(wrap(query, 84)):
        yield f'<text class="query" x="{MARGIN}" y="{40 + 24 * place}">{escape(line)}</text>'


def _lines(found: Orders) -> Iterator[str]:
    """From each passage's place before to its place after, where both are shown."""
    left, right = MARGIN + COLUMN, WIDTH - MARGIN - COLUMN
    middle = (left + right) / 2
    for place, id_ in enumerate(found.before[:SHOWN]):
        if id_ in found.after[:SHOWN]:
            start, end = (TOP + ROW * at + CENTRE for at in (place, found.after.index(id_)))
            curve = f"M{left} {start}C{middle} {start} {middle} {end} {right} {end}"
            yield f'<path class="{_kind(found, id_)}" d="{curve}"/>'


def _kind(found: Orders, id_: str) -> str:
    return "good" if found.gains.get(id_) == max(found.gains.values()) else ""


def _column(x: int, ids: Sequence[str], found: Orders, words: Words) -> Iterator[str]:
    for place, id_ in enumerate(ids[:SHOWN]):
        remark, was = words.gains.get(found.gains.get(id_, 0), ""), found.before.index(id_)
        kind = "gain" if remark else "was"
        if not remark and was >= SHOWN:
            remark = words.was.format(was + 1)
        title = shorten(found.titles[id_], 50 - len(remark), placeholder=" …")
        yield f'<g transform="translate({x} {TOP + ROW * place})">'
        yield f'  <rect class="row {_kind(found, id_)}" width="{COLUMN}" height="34" rx="6"/>'
        yield f'  <text class="place" x="20" y="22">{place + 1}</text>'
        yield f'  <text x="40" y="22">{escape(title)}</text>'
        yield f'  <text class="{kind}" x="{COLUMN - 12}" y="22">{escape(remark)}</text>'
        yield "</g>"


if __name__ == "__main__":
    main()

"""Does the embedded scorer improve the order that BM25 gives?

    python benchmarks/ranking.py [--data DIR]

The first stage is bm25s in two settings, a common one and the best that we found; its best 50
sentences a query are ranked again. Needs the packages bm25s, PyStemmer and tqdm, and the extra
evaluation.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import bm25s
from Stemmer import Stemmer
from tqdm import tqdm

from qwen_rerank import EmbeddedScorer, Record, RerankEngine
from qwen_rerank.evaluation import compare, read_judgements, read_texts

LANGUAGES = ("en", "zh")
CANDIDATES = 50
DATA = Path("xquad-r")

ABSENT = """\
The data set is not in {folder}

It is XQuAD-R as sentence retrieval, from LAReQA (google-research-datasets/lareqa on GitHub),
CC BY-SA 4.0. Lay it out like this and pass the folder with --data DIR:

    DIR/en/corpus.jsonl    a sentence a line: {{"_id": "0-0-0", "text": "..."}}
    DIR/en/queries.jsonl   a question a line: {{"_id": "56be...", "text": "..."}}
    DIR/en/qrels.tsv       question id, sentence id, gain; no header
    DIR/zh/                the same in Chinese"""

HEADER = """\
| language | first stage | queries | nDCG@10 | reranked | R@50 | rerank, ms a query |
|---|---|---|---|---|---|---|"""


class BM25(NamedTuple):
    """A first stage."""

    name: str
    k1: float
    b: float
    stem: Callable[[str], str]


FIRST_STAGES = (
    BM25("Lucene's defaults", 1.2, 0.75, str),
    BM25("Anserini's defaults, stemmed", 0.9, 0.4, Stemmer("english").stemWord),
)

Rankings = Mapping[str, list[Record]]
"""Records, best first, by query id."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR")
    folder = parser.parse_args().data
    names = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
    if not all((folder / lang / name).is_file() for lang in LANGUAGES for name in names):
        print(ABSENT.format(folder=folder), file=sys.stderr)
        return 2
    rows = [row(folder / lang, stage) for lang in LANGUAGES for stage in FIRST_STAGES]
    print(HEADER, *rows, sep="\n")
    return 0


def row(folder: Path, stage: BM25) -> str:
    """Rank one language's queries twice, and put the figures in a row of the table."""
    queries = read_texts(folder / "queries.jsonl")
    first = retrieved(queries, read_texts(folder / "corpus.jsonl"), stage)
    second, seconds = reranked(queries, first)
    report = compare(
        {"first": first, "second": second},
        read_judgements(folder / "qrels.tsv"),
        measures=["nDCG@10", f"R@{CANDIDATES}"],
    )
    before, after = (report.mean("nDCG@10", run) for run in report.runs)
    return (
        f"| {folder.name} | {stage.name} | {len(queries)} | {before:.4f} | {after:.4f} "
        f"| {report.mean(f'R@{CANDIDATES}', 'first'):.4f} | {median(seconds) * 1000:.1f} |"
    )


def retrieved(queries: Mapping[str, str], corpus: Mapping[str, str], stage: BM25) -> Rankings:
    """The first stage: BM25 over the whole corpus."""
    records = [Record(sentence_id, {"text": text}) for sentence_id, text in corpus.items()]
    index = bm25s.BM25(k1=stage.k1, b=stage.b, method="lucene")
    index.index([terms(text, stage.stem) for text in corpus.values()], show_progress=False)
    wanted = [terms(text, stage.stem) for text in queries.values()]
    places, _ = index.retrieve(wanted, k=CANDIDATES, show_progress=False)
    return {
        query_id: [records[place] for place in best]
        for query_id, best in zip(queries, places, strict=True)
    }


def terms(text: str, stem: Callable[[str], str]) -> list[str]:
    """Words in lower case, or their stems; of Chinese, the characters and the pairs of them."""
    found = []
    for part in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        chinese = "\u3400" <= part[0] <= "\u9fff"
        found += [*part, *map("".join, pairwise(part))] if chinese else [stem(part)]
    return found


def reranked(queries: Mapping[str, str], first: Rankings) -> tuple[Rankings, list[float]]:
    """The second stage, and how many seconds it took for each query."""
    engine = RerankEngine(EmbeddedScorer(), rerank_field="text")
    second, seconds = {}, []
    for query_id, records in tqdm(first.items(), unit="query"):
        start = time.perf_counter()
        second[query_id] = list(engine.rerank(queries[query_id], records))
        seconds.append(time.perf_counter() - start)
    return second, seconds


if __name__ == "__main__":
    sys.exit(main())

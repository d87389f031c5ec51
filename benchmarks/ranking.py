"""Does EmbeddedScorer improve on the order of BM25?

    python benchmarks/ranking.py [--data DIR]

The first stage is bm25s with two settings: Lucene's defaults, and the best that we know. Its top 50
sentences per query are reranked. Needs the packages bm25s, PyStemmer and tqdm, and the extra
`evaluation`.
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
{folder} does not have the data set.

It is XQuAD-R, sentence retrieval from LAReQA (google-research-datasets/lareqa on GitHub), CC BY-SA
4.0. Prepare a folder like this and pass it with --data DIR:

    DIR/en/corpus.jsonl    one sentence per line: {{"_id": "0-0-0", "text": "..."}}
    DIR/en/queries.jsonl   one question per line: {{"_id": "56be...", "text": "..."}}
    DIR/en/qrels.tsv       question id, sentence id, gain; no header
    DIR/zh/                the same in Chinese"""

HEADER = """\
| language | first stage | queries | nDCG@10 | reranked | R@50 | rerank, ms per query |
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
"""The records of each query id, best first."""


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
    """Rank the queries of one language twice; the row of the table with the figures."""
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
    indices, _ = index.retrieve(wanted, k=CANDIDATES, show_progress=False)
    return {
        query_id: [records[i] for i in best]
        for query_id, best in zip(queries, indices, strict=True)
    }


def terms(text: str, stem: Callable[[str], str]) -> list[str]:
    """The stems of the words in lower case; for Chinese, the characters and their pairs."""
    split: list[str] = []
    for part in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        chinese = "\u3400" <= part[0] <= "\u9fff"
        split += [*part, *map("".join, pairwise(part))] if chinese else [stem(part)]
    return split


def reranked(queries: Mapping[str, str], first: Rankings) -> tuple[Rankings, list[float]]:
    """The second stage, and the seconds it took for each query."""
    engine = RerankEngine(EmbeddedScorer(), rerank_field="text")
    second, seconds = {}, []
    for query_id, records in tqdm(first.items(), unit="query"):
        start = time.perf_counter()
        second[query_id] = list(engine.rerank(queries[query_id], records))
        seconds.append(time.perf_counter() - start)
    return second, seconds


if __name__ == "__main__":
    sys.exit(main())

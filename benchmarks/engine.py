"""What does a document cost on its way through a plugin, if scoring costs nothing?

    python benchmarks/engine.py [--documents N] [--rounds N]

Each face ranks documents with a scorer that has its scores ready: as one list, as two named lists
that share half of their distinct documents, with every tenth text missing, and with a template as
`rerank_field`. The cases take turns within a round. Times are CPU time of the calling thread, in
microseconds per document: the minimum and the median of all rounds. The last column compares the
minimum with pydantic's `model_copy` of as many LangChain documents, in the same run: on a machine
that is busy or slow, look at that column.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from statistics import median
from typing import Any, NamedTuple

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from rig.figures import Target, table
from tqdm import tqdm

import langchain_qwen_rerank
import llamaindex_qwen_rerank
from qwen_rerank import QwenReRanker, Record, Scorer, Scores

QUERY = "How do I reset my password?"
ALL, TEN = "all", "ten"

PLAIN, LISTS, MISSING, TEMPLATE = "plain", "two named lists", "missing texts", "template"
INPUTS = (PLAIN, LISTS, MISSING, TEMPLATE)


class Ready(Scorer):
    """Has its scores ready."""

    def __init__(self, count: int) -> None:
        chance = random.Random(0)
        self._values = [chance.random() for _ in range(count)]

    @property
    def model(self) -> str:
        return "ready"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return Scores(self._values[: len(texts)])


class Source(NamedTuple):
    """What a face's document is made from."""

    id: str
    text: str
    metadata: dict[str, Any]


def sources(count: int, missing: bool) -> list[Source]:
    """This many documents, with the metadata that a vector store adds."""
    return [
        Source(
            f"document-{index}",
            "" if missing and index % 10 == 0 else f"Passage {index} of the handbook.",
            {"source": "handbook.md", "page": index, "title": f"Chapter {index // 20}"},
        )
        for index in range(count)
    ]


def langchain(template: str | None, top_n: int | None, scorer: Scorer) -> Callable[[Any], Any]:
    options: dict[str, Any] = {"rerank_field": template} if template else {}
    compressor = langchain_qwen_rerank.QwenRerank(scorer=scorer, top_n=top_n, **options)
    return lambda documents: compressor.compress_documents(documents, QUERY)


def document(source: Source) -> Document:
    return Document(source.text, id=source.id, metadata=source.metadata)


def llamaindex(template: str | None, top_n: int | None, scorer: Scorer) -> Callable[[Any], Any]:
    options: dict[str, Any] = {"rerank_field": template} if template else {}
    postprocessor = llamaindex_qwen_rerank.QwenRerank(scorer=scorer, top_n=top_n, **options)
    return lambda nodes: postprocessor.postprocess_nodes(nodes, query_str=QUERY)


def node(source: Source) -> NodeWithScore:
    # Without metadata, which LlamaIndex would add to the text anew in each call.
    return NodeWithScore(node=TextNode(text=source.text, id_=source.id), score=0.5)


def node_with_metadata(source: Source) -> NodeWithScore:
    scored = node(source)
    scored.node.metadata = source.metadata
    return scored


def reranker(template: str | None, top_n: int | None, scorer: Scorer) -> Callable[[Any], Any]:
    options: dict[str, Any] = {"rerank_field": template} if template else {}
    reranker = QwenReRanker(QUERY, topn=top_n or 1_000_000, scorer=scorer, **options)
    return lambda lists: reranker.rerank(lists if isinstance(lists, dict) else [lists])


def record(source: Source) -> Record:
    return Record(source.id, {"content": source.text, **source.metadata}, 0.5)


LANGCHAIN, LLAMAINDEX, RERANKER = "LangChain", "LlamaIndex", "QwenReRanker"

FACES: dict[str, tuple[Callable[..., Callable[[Any], Any]], Callable[[Source], Any], str]] = {
    LANGCHAIN: (langchain, document, "{title}: {page_content}"),
    LLAMAINDEX: (llamaindex, node, "{title}: {content}"),
    RERANKER: (reranker, record, "{title}: {content}"),
}
"""For each face what builds it, what makes its documents, and a template."""


class Case(NamedTuple):
    """A face that ranks one kind of input."""

    face: str
    kind: str
    returned: str


YARDSTICK = Case("model_copy", PLAIN, ALL)


def cases() -> Iterator[Case]:
    for case in map(Case._make, product(FACES, INPUTS, (ALL, TEN))):
        if (case.face, case.kind) != (LLAMAINDEX, LISTS):  # a node postprocessor takes one list
            yield case


def call_of(case: Case, count: int) -> Callable[[], Any]:
    """A call that ranks the documents of the case, which are made beforehand."""
    build, make, template = FACES[case.face]
    if (case.face, case.kind) == (LLAMAINDEX, TEMPLATE):
        make = node_with_metadata
    distinct = count * 2 // 3 if case.kind == LISTS else count
    made = list(map(make, sources(distinct, missing=case.kind == MISSING)))
    lists = {"dense": made[: count // 2], "sparse": made[-count // 2 :]}
    inputs = lists if case.kind == LISTS else made
    top_n = None if case.returned == ALL else 10
    rank = build(template if case.kind == TEMPLATE else None, top_n, Ready(count))
    with_text = distinct - count // 10 * (case.kind == MISSING)
    expected, returned = min(with_text, top_n or count), len(rank(inputs))
    assert returned == expected, f"{case}: {returned} documents returned, not {expected}"
    return lambda: rank(inputs)


def copying(count: int) -> Callable[[], Any]:
    """The yardstick: copies each LangChain document and adds a score to its metadata."""
    documents = list(map(document, sources(count, missing=False)))
    return lambda: [
        each.model_copy(update={"metadata": {**each.metadata, "relevance_score": 0.5}})
        for each in documents
    ]


def measure(count: int, rounds: int) -> dict[Case, list[float]]:
    """Microseconds per document in every round, by case."""
    calls = {YARDSTICK: copying(count), **{case: call_of(case, count) for case in cases()}}
    taken: dict[Case, list[float]] = {case: [] for case in calls}
    gc.collect()
    gc.freeze()  # so that no case pays for visiting the documents of the others
    for turn in tqdm(range(rounds), unit="round"):
        for case in random.Random(turn).sample(list(calls), len(calls)):
            started = time.thread_time()
            calls[case]()
            taken[case].append((time.thread_time() - started) / count * 1e6)
    return taken


def targets(taken: dict[Case, list[float]]) -> Iterator[Target]:
    """What LangChain's plugin should cost; formatting a template has no bound."""
    for returned, bound in ((ALL, 1.5), (TEN, 0.4)):
        for kind in (PLAIN, LISTS, MISSING):
            measured = min(taken[Case(LANGCHAIN, kind, returned)])
            what = f"µs per document, {LANGCHAIN}, {kind}, {returned} returned"
            yield Target(what, "≤", bound, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=500, help="how many per call (500)")
    parser.add_argument("--rounds", type=int, default=60, help="how often each is measured (60)")
    options = parser.parse_args()
    taken = measure(options.documents, options.rounds)
    copy = min(taken[YARDSTICK])
    rows = [(*case, min(each), median(each), min(each) / copy) for case, each in taken.items()]
    head = ("face", "input", "returned", "µs per document, min", "median", "× model_copy")
    print(table(head, rows))
    print()
    print(table(("what", "target", "measured", "met"), (each.row for each in targets(taken))))


if __name__ == "__main__":
    main()

"""PassageScorer: every passage is scored, and the best one stands for its text."""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank import (
    BadResponseError,
    CachedScorer,
    CascadeScorer,
    DashScopeScorer,
    EmbeddedScorer,
    FallbackScorer,
    InvalidInputError,
    KeepOrder,
    MissingDependencyError,
    Passage,
    PassageScorer,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    Usage,
)
from qwen_rerank.scorers.wrappers import passages
from qwen_rerank.testing import HelpCentre
from qwen_rerank.testing.loopback import LoopbackDashScope, token_count
from qwen_rerank.text import chunking
from qwen_rerank.text.chunking import passages_of
from tests.scorers.wrappers.conftest import Score
from tests.support.scorers import AsyncOnly


@dataclass
class Hashing(Scorer):
    """Scores a text by its hash, in [-1, 1], and records what it is sent."""

    sent: list[list[str]] = field(default_factory=list)
    closed: int = 0
    model = "hashing"
    pointwise = False

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        self.sent.append(list(texts))
        return Scores([value_of(text) for text in texts], Usage(texts_sent=len(texts)))

    def close(self) -> None:
        self.closed += 1


def value_of(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**31 - 1


@dataclass
class Answering(Scorer):
    """Returns what a function makes of the texts."""

    answer: Callable[[Sequence[str]], Scores]
    model = "answering"

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        return self.answer(texts)


def marked(*marks: float, filler: str = "Nothing is said of it here.") -> str:
    """A text with one paragraph per mark. Each fits in a passage of 16 tokens."""
    return "\n\n".join(f"score={mark} {filler}" for mark in marks)


def by_mark(texts: Sequence[str]) -> Scores:
    return Scores([float(text.split("score=")[1].split()[0]) for text in texts])


def small(scorer: Scorer, **options: Any) -> PassageScorer:
    return PassageScorer(scorer, **{"max_tokens": 16, "overlap": 0, **options})


# --- Any text

some_texts = st.lists(
    st.lists(
        st.sampled_from(
            ["Penguins eat krill. ", "企鹅吃磷虾。", "\n\n", "word ", "𠮷", "e\u0301", "! "]
        ),
        min_size=1,
        max_size=30,
    )
    .map("".join)
    .filter(str.strip),
    max_size=6,
)


@settings(max_examples=100)
@given(some_texts, st.sampled_from(["max", "mean", "first"]), st.integers(0, 15))
def test_the_score_of_a_text_is_the_aggregate_of_its_passages(
    texts: list[str], aggregate: Any, overlap: int
) -> None:
    inner = Hashing()
    scores = small(inner, aggregate=aggregate, overlap=overlap).score("q", texts)
    assert scores.passages is not None
    for text, value, passage in zip(texts, scores.values, scores.passages, strict=True):
        found = [each.of(text) for each in passages_of(text, 16, overlap)]
        parts = found if token_count(text) > 16 else [text]
        values = sorted(map(value_of, parts[: 1 if aggregate == "first" else None]), reverse=True)
        mean = statistics.fmean(values[:3])
        assert value == pytest.approx(mean if aggregate == "mean" else values[0])
        assert value_of(passage.of(text) if passage else text) == values[0]
        assert (passage is None) == (parts == [text])
    assert [len(set(sent)) for sent in inner.sent] == [len(sent) for sent in inner.sent]


def test_a_text_that_fits_is_scored_whole() -> None:
    inner = Hashing()
    texts = ["  short\n", "短い文", "x" * 512, "word " * 400]
    scores = PassageScorer(inner).score("q", texts)
    assert inner.sent == [texts]
    assert scores.values == [value_of(text) for text in texts]
    assert scores.passages == [None] * 4


def test_tokens_of_short_texts_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> int:
        raise AssertionError(text)

    monkeypatch.setattr(passages, "count_tokens", refuse)
    PassageScorer(Hashing()).score("q", ["x" * 512, "企鹅" * 85])


def test_all_passages_are_scored_in_one_call_without_duplicates(score: Score) -> None:
    inner = Hashing()
    first, second = marked(0.1, 0.2, 0.1), marked(0.2, 0.3)
    scores = score(small(inner), "q", [first, second, "short"])
    assert inner.sent == [[marked(0.1), marked(0.2), marked(0.3), "short"]]
    assert (scores.usage.texts_sent, scores.usage.duplicate_texts) == (4, 2)


@pytest.mark.parametrize(
    ("aggregate", "value", "winner"),
    [("max", 0.9, 0.9), ("mean", 0.7, 0.9), ("first", 0.5, 0.5)],
)
def test_the_best_passage_and_the_aggregate_are_reported(
    aggregate: Any, value: float, winner: float
) -> None:
    text = marked(0.5, 0.1, 0.9, 0.7, 0.2)
    scores = small(Answering(by_mark), aggregate=aggregate).score("q", [text])
    assert scores.values == pytest.approx([value])
    assert scores.passages is not None
    assert scores.passages[0] is not None
    assert scores.passages[0].of(text) == marked(winner)


def test_the_mean_of_fewer_than_three_passages_includes_all() -> None:
    scorer = small(Answering(by_mark), aggregate="mean")
    assert scorer.score("q", [marked(0.5, 0.25), marked(0.5)]).values == [0.375, 0.5]


async def test_a_text_far_over_the_limit_is_never_counted_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = []

    def spy(text: str) -> int:
        counted.append(len(text))
        return token_count(text)

    monkeypatch.setattr(passages, "count_tokens", spy)
    monkeypatch.setattr(chunking, "count_tokens", spy)
    small(Hashing()).score("q", ["penguins " * 3_000])
    assert 0 < max(counted) <= 16 * 16


async def test_a_cancelled_call_stops_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    is_chunking, is_cancelled, stopped = (threading.Event() for _ in range(3))

    def endless(text: str, max_tokens: int, overlap: int) -> Iterator[Passage]:
        try:
            while True:
                yield Passage(0, 9)
                is_chunking.set()
                assert is_cancelled.wait(20)
        finally:
            stopped.set()

    monkeypatch.setattr(passages, "passages_of", endless)
    call = asyncio.create_task(small(Hashing()).ascore("q", ["penguins " * 300]))
    assert await asyncio.to_thread(is_chunking.wait, 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    is_cancelled.set()
    assert await asyncio.to_thread(stopped.wait, 20)


def test_first_does_not_score_the_other_passages() -> None:
    inner = Hashing()
    small(inner, aggregate="first").score("q", [marked(0.5, 0.1, 0.9)])
    assert inner.sent == [[marked(0.5)]]


def test_of_passages_that_tie_the_first_is_reported() -> None:
    text = marked(0.5, 0.9, 0.1, 0.9)
    (passage,) = small(Answering(by_mark)).score("q", [text]).passages or []
    assert passage == Passage(text.index("score=0.9"), text.index("\n\nscore=0.1"))


def test_a_scorer_that_uses_the_order_gets_the_first_passages_first() -> None:
    class Ordered(Hashing):
        uses_order = True

    long = [marked(1, 2), marked(3, 4)]
    plain, ordered = Hashing(), Ordered()
    scores = small(plain).score("q", [*long, "short"])
    assert small(ordered).score("q", [*long, "short"]) == replace(scores, usage=ANY)
    (sent,) = plain.sent
    (first, second), (third, fourth) = sent[:2], sent[2:4]
    assert ordered.sent == [[first, third, "short", second, fourth]]


def test_white_space_is_left_to_the_scorer() -> None:
    inner = Hashing()
    small(inner).score("q", [" \n" * 100])
    assert inner.sent == [[" \n" * 100]]


def test_no_texts_have_no_scores() -> None:
    assert PassageScorer(Hashing()).score("q", []).values == []


async def test_tokens_are_not_counted_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def spy(text: str) -> int:
        threads.append(threading.current_thread())
        return token_count(text)

    monkeypatch.setattr(passages, "count_tokens", spy)
    await small(AsyncOnly()).ascore("q", [marked(0.1, 0.2)])
    assert threads
    assert threading.current_thread() not in threads


# --- Around and inside other wrappers


def test_a_text_is_scored_by_its_passages_in_the_lowest_tier() -> None:
    def in_tiers(texts: Sequence[str]) -> Scores:
        scores = by_mark(texts)  # from 1 on a score is of the first scorer alone
        return replace(scores, tiers=[int(value >= 1) for value in scores.values])

    texts = [marked(3, 0.2, 0.4, 2), marked(5, 4), marked(0.1)]
    scores = small(Answering(in_tiers), aggregate="mean").score("q", texts)
    assert scores.tiers == [0, 1, 0]
    assert scores.values == pytest.approx([0.3, 4.5, 0.1])
    assert [p and p.of(t) for p, t in zip(scores.passages or [], texts, strict=True)] == [
        marked(0.4),
        marked(5),
        None,
    ]


def test_texts_of_a_lower_tier_rank_first() -> None:
    def in_tiers(texts: Sequence[str]) -> Scores:
        scores = by_mark(texts)
        return replace(scores, tiers=[int(value >= 1) for value in scores.values])

    engine = RerankEngine(small(Answering(in_tiers)), rerank_field="text")
    texts = {"high": marked(3, 4), "mixed": marked(9, 0.2), "low": marked(0.1)}
    ranking = engine.rerank("q", [Record(id_, {"text": text}) for id_, text in texts.items()])
    assert [(record.id, record.score) for record in ranking] == [
        ("mixed", 0.2),
        ("low", 0.1),
        ("high", None),
    ]


def test_the_model_of_the_wrapped_scorer_is_reported() -> None:
    def unranked(texts: Sequence[str]) -> Scores:
        return Scores([0.0] * len(texts), model="another", unranked=True)

    scorer = small(Answering(unranked))
    scores = scorer.score("q", [marked(0.1, 0.9)])
    assert (scores.model, scores.unranked) == ("another", True)
    records = [Record(id_, {"text": marked(0.1, 0.9)}, 0.5) for id_ in "cab"]
    ranking = RerankEngine(scorer, rerank_field="text").rerank("q", records)
    assert list(ranking) == records


def test_nested_passages_are_offsets_in_the_whole_text() -> None:
    text = "Before. " * 30 + "Here it is: score=0.9 it was. " + "After. " * 30

    def words(texts: Sequence[str]) -> Scores:
        return Scores([float("score=0.9" in text) for text in texts])

    nested = PassageScorer(small(Answering(words)), max_tokens=40, overlap=8)
    (passage,) = nested.score("q", [text]).passages or []
    assert passage is not None
    assert "score=0.9" in passage.of(text)
    assert token_count(passage.of(text)) <= 16


NESTED: dict[str, Callable[[Scorer], Scorer]] = {
    "around a cache": lambda scorer: small(CachedScorer(scorer, {})),
    "in a cache": lambda scorer: CachedScorer(small(scorer), {}),
    "around a fallback": lambda scorer: small(FallbackScorer(scorer, KeepOrder())),
    "in a fallback": lambda scorer: FallbackScorer(small(scorer), KeepOrder()),
    "around a cascade": lambda scorer: small(CascadeScorer(EmbeddedScorer(), scorer, keep=9)),
    "in a cascade": lambda scorer: CascadeScorer(EmbeddedScorer(), small(scorer), keep=2),
}


@pytest.mark.parametrize("nest", NESTED.values(), ids=NESTED)
def test_other_wrappers_keep_scores_and_passages(
    nest: Callable[[Scorer], Scorer],
) -> None:
    texts = [marked(0.1, 0.2, 0.3), marked(0.5, 0.9, 0.5)]
    alone, nested = small(Answering(by_mark)).score("q", texts), nest(Answering(by_mark))
    for _ in range(2):
        scores = nested.score("q", texts)
        assert (scores.values, scores.passages) == (alone.values, alone.passages)


def test_around_a_cascade_no_text_is_lost(score: Score) -> None:
    texts = [marked(*(mark / 100 for mark in range(first, first + 5))) for first in range(1, 60, 5)]
    scorer = small(CascadeScorer(Hashing(), Answering(by_mark), keep=7))
    scores = score(scorer, "q", texts)
    assert set(scores.tiers or []) == {0, 1}
    assert scores.usage.skipped_by_cascade == 60 - 7
    records = [Record(text, {"text": text}) for text in texts]
    ranking = RerankEngine(scorer, rerank_field="text").rerank("q", records)
    assert sorted(record.id for record in ranking) == sorted(texts)
    assert sum(record.score is not None for record in ranking) == scores.tiers.count(0)


@pytest.mark.parametrize("values", [[0.1, float("nan"), 0.3], [0.1, 0.2]])
def test_incomplete_scores_of_passages_are_an_error(values: list[float]) -> None:
    with pytest.raises(BadResponseError, match="answering"):
        small(Answering(lambda texts: Scores(values))).score("q", [marked(0.1, 0.2, 0.3)])


# --- With real scorers


def chapters(words: int, answer: str) -> str:
    """A book of about as many words, with the answer in its middle."""
    chapter = "The whale was seen from the ship. Nobody spoke of it that night. " * 10
    count = words // 130
    before = "\n\n".join([chapter] * (count // 2))
    return "\n\n".join([before, answer, before])


def test_a_service_truncates_no_passage(
    dashscope: LoopbackDashScope, caplog: pytest.LogCaptureFixture
) -> None:
    book = chapters(10_000, "The captain keeps his gold under the mast.")
    assert token_count(book) > 8_000
    query = "where is gold"
    DashScopeScorer().score(query, [book])
    assert "1 of 2 items" in caplog.text
    dashscope.received.clear()
    caplog.clear()

    scores = PassageScorer(DashScopeScorer()).score(query, [book, "is it gold"])
    assert not caplog.text
    sent = [text for request in dashscope.received for text in request.documents]
    assert max(map(token_count, sent)) <= 512
    assert scores.usage.texts_sent == len(sent) == len(set(sent))
    (passage, whole) = scores.passages or []
    assert whole is None
    assert passage is not None
    assert "under the mast" in passage.of(book)


def test_many_passages_are_scored_in_several_requests(
    dashscope: LoopbackDashScope,
) -> None:
    books = [marked(*(mark / 1000 for mark in range(i * 60, i * 60 + 60))) for i in range(10)]
    scores = small(DashScopeScorer()).score("q", books)
    assert len(dashscope.received) > 1
    assert scores.usage.texts_sent == 600
    assert scores.values == [(i * 60 + 59) / 1000 for i in range(10)]


def test_the_best_passage_is_mostly_the_one_that_answers() -> None:
    centre = HelpCentre.load()
    articles = list(centre.passages.values())  # of a language each half
    books = [articles[start : start + 10] for start in range(0, len(articles), 10)]
    texts = ["\n\n".join(article.text for article in book) for book in books]
    scorer = PassageScorer(EmbeddedScorer(), max_tokens=128, overlap=32)
    right = []
    for query in centre.queries.values():
        gains = centre.gains[query.id]
        won = scorer.score(query.text, texts).passages or []
        for book, text, passage in zip(books, texts, won, strict=True):
            answers = [
                article.text
                for article in book
                if gains.get(article.id) == 3 and article.language == query.language
            ]
            if answers and passage is not None:
                right.append(any(answer in passage.of(text) for answer in answers))
    assert len(right) > 20
    assert statistics.mean(right) > 0.7  # a tenth, if it were chance


# --- As a scorer


def test_model_and_pointwise_are_those_of_the_wrapped_scorer() -> None:
    scorer = PassageScorer(Hashing())
    assert (scorer.model, scorer.pointwise) == ("hashing", False)


def test_the_fingerprint_has_all_options() -> None:
    scorers = [
        PassageScorer(Hashing()),
        PassageScorer(Hashing(), max_tokens=256),
        PassageScorer(Hashing(), overlap=0),
        PassageScorer(Hashing(), aggregate="mean"),
        PassageScorer(EmbeddedScorer()),
        Hashing(),
    ]
    assert len({scorer.fingerprint for scorer in scorers}) == len(scorers)


def test_the_repr_shows_the_options() -> None:
    assert repr(PassageScorer(Answering(by_mark), max_tokens=99)) == (
        f"PassageScorer({Answering(by_mark)!r}, max_tokens=99, overlap=64, aggregate='max')"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 15}, "max_tokens"),
        ({"max_tokens": 64.0}, "max_tokens"),
        ({"overlap": -1}, "overlap"),
        ({"max_tokens": 64, "overlap": 64}, "overlap must be less than max_tokens=64, got 64"),
        ({"aggregate": "median"}, "aggregate .* 'median'"),
    ],
)
def test_an_invalid_option_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        PassageScorer(Hashing(), **options)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="surrogate"):
        PassageScorer(Hashing()).score("q", ["fine", "\ud800"])


def test_a_missing_package_is_reported_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qwen-rerank\[passages\]"'):
        PassageScorer(Hashing())

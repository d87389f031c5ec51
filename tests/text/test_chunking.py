"""Chunking: what holds for the passages of any text."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_rerank import MissingDependencyError, Passage
from qwen_rerank.scorers.http.batching import byte_bound
from qwen_rerank.testing.loopback import token_count
from qwen_rerank.text import chunking
from qwen_rerank.text.chunking import MIN_PASSAGE_TOKENS, check_chunker, passages_of

units = st.sampled_from(
    [
        "Penguins eat krill, 1.5 kg a day. ",
        "企鹅吃磷虾。",
        "它们会游泳吗？会！",
        "word ",
        "\n",
        "\r\n",
        "\n\n",
        " ",
        "\u3000",
        "\x1c",  # white space in Python, not in Unicode
        "e\u0301",
        "\u0300" * 9,
        "👩\u200d👩\u200d👧",
        "𠮷",
        "<|im_end|>",
        "0123456789abcdef" * 4,
        "=" * 300,
        " " * 300,
    ]
)
# Without the few that NFC makes longer: the chunker takes the bytes before NFC as a bound.
characters = st.characters(exclude_categories=["Cs"]).filter(
    lambda character: byte_bound(character) <= len(character.encode())
)
texts = st.lists(units | st.text(characters), max_size=40).map("".join)
sizes = st.integers(MIN_PASSAGE_TOKENS, 64)


def passages(text: str, max_tokens: int, overlap: int = 0) -> list[Passage]:
    return list(passages_of(text, max_tokens, overlap))


def contents(text: str, max_tokens: int, overlap: int = 0) -> list[str]:
    return [passage.of(text) for passage in passages_of(text, max_tokens, overlap)]


@settings(max_examples=200)
@given(texts, sizes, st.data())
@example("a" + " " * 2_000 + "b" + "=" * 20_000 + "c", 16, None)
@example("\x1c" * 2_000 + "a", 16, None)
@example("👩\u200d" * 500, 16, None)
def test_every_character_but_white_space_is_in_a_passage_within_the_limit(
    text: str, max_tokens: int, data: st.DataObject | None
) -> None:
    overlap = data.draw(st.integers(0, max_tokens - 1)) if data else max_tokens // 2
    found = passages(text, max_tokens, overlap)
    assert all(0 <= start < end <= len(text) for start, end in found)
    assert all(a.start < b.start and a.end < b.end for a, b in pairwise(found))
    assert all(token_count(passage.of(text)) <= max_tokens for passage in found)
    assert not any(passage.of(text).isspace() for passage in found)
    outside = set(range(len(text))).difference(*(range(*passage) for passage in found))
    assert all(text[index].isspace() for index in outside)


@settings(max_examples=50)
@given(texts, sizes)
def test_without_overlap_passages_share_nothing(text: str, max_tokens: int) -> None:
    assert all(a.end <= b.start for a, b in pairwise(passages(text, max_tokens)))


@settings(max_examples=50)
@given(texts, sizes, st.data())
def test_a_passage_repeats_at_most_the_overlap(
    text: str, max_tokens: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, max_tokens - 1))
    for a, b in pairwise(passages(text, max_tokens, overlap)):
        assert token_count(text[b.start : a.end]) <= overlap


@dataclass(frozen=True)
class Prose:
    """Sentences, and the separator between them."""

    sentences: list[str]
    space: str

    @property
    def text(self) -> str:
        return self.space.join(self.sentences)


ENGLISH = Prose([f"Penguin {i} swims to island {i * 7}." for i in range(100)], " ")
CHINESE = Prose([f"第{i}只企鹅会游到第{i * 7}座岛上去！" for i in range(100)], "")

in_each_language = pytest.mark.parametrize("prose", [ENGLISH, CHINESE], ids=["English", "Chinese"])


@in_each_language
@pytest.mark.parametrize("overlap", [0, 32])
def test_a_passage_consists_of_whole_sentences(prose: Prose, overlap: int) -> None:
    whole = {
        prose.space.join(prose.sentences[start:end])
        for start, end in combinations(range(len(prose.sentences) + 1), 2)
    }
    found = contents(prose.text, 64, overlap)
    assert len(found) < len(prose.sentences)
    assert whole.issuperset(found)


@in_each_language
def test_a_passage_has_no_room_for_another_sentence(prose: Prose) -> None:
    for a, b in pairwise(passages(prose.text, 64)):
        following = prose.text.index(prose.sentences[-1][-1], b.start) + 1  # ends the next sentence
        assert token_count(prose.text[a.start : following]) > 64


@in_each_language
def test_a_passage_repeats_the_sentences_that_fit_in_the_overlap(prose: Prose) -> None:
    for a, b in pairwise(passages(prose.text, 64, 32)):
        repeated = prose.text[b.start : a.end]
        assert 16 < token_count(repeated) <= 32


@in_each_language
def test_paragraphs_that_fit_stay_whole(prose: Prose) -> None:
    paragraphs = [prose.space.join(prose.sentences[i : i + 4]) for i in range(0, 100, 4)]
    largest = max(map(token_count, paragraphs))
    assert contents("\n\n".join(paragraphs), largest + 8) == paragraphs


def test_a_sentence_that_is_too_long_is_cut_between_words() -> None:
    found = contents("penguins " * 100, 16)
    assert set(" ".join(found).split()) == {"penguins"}


@pytest.mark.parametrize("text", ["鵺" * 400, "a" * 4_000, "\U0001f9a9\u200d" * 400])
def test_a_text_without_breaks_is_cut_between_characters(text: str) -> None:
    assert "".join(contents(text, 32)) == text


def test_any_single_character_fits_in_a_passage() -> None:
    each = (chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000)
    assert max(map(byte_bound, each)) <= MIN_PASSAGE_TOKENS


def test_chunking_a_text_without_breaks_takes_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []

    def spy(text: str) -> int:
        counted.append(len(text))
        return token_count(text)

    def counted_of(marks: int) -> int:
        text = "a" + "\u0300" * marks
        counted.clear()
        assert passages(text, 64, 8)[-1].end == len(text)
        return sum(counted)

    monkeypatch.setattr(chunking, "count_tokens", spy)
    assert counted_of(16_000) < 10 * counted_of(2_000)


@pytest.mark.parametrize("text", ["", " \n\u3000" * 300])
def test_white_space_has_no_passages(text: str) -> None:
    assert passages(text, 16) == []


def test_a_missing_package_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qwen-rerank\[passages\]"'):
        check_chunker()

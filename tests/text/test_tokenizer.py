"""Truncation: the beginning of a text that has at most so many tokens."""

from __future__ import annotations

import pytest
from dashscope import get_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_rerank.testing.loopback import token_count
from qwen_rerank.text.tokenizer import MAX_BYTES_PER_TOKEN, count_tokens, exceeds, truncated

SCRIPTS = [
    "Penguins eat krill, don't they? 1,234.50 kg\r\n\r\n   and more\t\t",
    "企鹅吃磷虾。周一股市下跌，企鹅生活在南半球！",
    "ペンギンはオキアミを食べる。カタカナ・ｶﾅ",
    "펭귄은 크릴새우를 먹는다 \u1112\u1161\u11ab",
    "البطريق يأكل الكريل פינגווינים",
    "पेंगुइन क्रिल खाते हैं เพนกวินกินเคย",
    "🐧🦐👩‍👩‍👧‍👦👍🏽🇨🇳\ufe0f",
    "e\u0301a\u0323\u0308 \u0344\U0001d160 Z\u0351\u0329\u0316",
    "<|im_start|>\x00\u200b\ufeff𠀋𝔘",
]
text = st.lists(
    st.sampled_from(SCRIPTS) | st.text(max_size=8) | st.text("a \n\u0301", max_size=40),
    min_size=1,
    max_size=30,
).map("".join)


@settings(max_examples=60)
@given(text, st.integers(12, 60))
@example("a" + "\u0300\u0316" * 400, 20)  # a run of marks, into which normalization puts joiners
@example("\u0344" * 300, 12)
@example(" " * 5_000 + "krill", 12)
def test_a_beginning_has_no_more_tokens_than_allowed(text: str, limit: int) -> None:
    if not exceeds(text, limit):
        assert count_tokens(text) <= limit
        return
    beginning = truncated(text, limit)
    assert count_tokens(beginning) <= limit
    assert token_count(beginning) <= limit
    if text[: len(beginning)] != beginning:
        assert text.lstrip().startswith(beginning)
    assert beginning.strip() or not text.strip()


def test_a_text_is_cut_after_the_last_token_that_fits() -> None:
    for script in SCRIPTS:
        text = script * 400
        cut = truncated(text, 100)
        assert text.startswith(cut)
        assert 96 <= count_tokens(cut) <= 100
    assert truncated("one two three four", 2) == "one two"


@pytest.mark.parametrize("first", ["🏴", "\u0344"])
def test_at_least_one_character_is_kept(first: str) -> None:
    assert truncated(f"  {first} krill", 1) == first


def test_no_token_is_longer_than_assumed() -> None:
    longest = max(map(len, get_tokenizer("qwen-7b-chat")._mergeable_ranks))
    assert longest == MAX_BYTES_PER_TOKEN

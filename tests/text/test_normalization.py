"""Normalization: Unicode's own result for real text, in linear time for any text."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_rerank.text.normalization import normalize

FORMS: list[Any] = ["NFC", "NFKC"]

REAL = "Cafe\u0301 au lait, ｶﾞｲﾄﾞ, 企鹅吃磷虾。 ไม่มีน้ำ བོད་ཡིག ﷺ 한국어 "


@pytest.mark.parametrize("form", FORMS)
def test_long_real_text_is_normalized_as_unicode_says(form: Any) -> None:
    text = REAL * 5_000
    assert normalize(form, text) == unicodedata.normalize(form, text)


@given(st.text(), st.sampled_from(FORMS))
def test_short_text_is_normalized_as_unicode_says(text: str, form: Any) -> None:
    assert normalize(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_a_text_without_a_place_to_cut_is_normalized(form: Any) -> None:
    text = "é" * 400_000
    assert normalize(form, unicodedata.normalize("NFD", text)).count("é") > 399_000


# Marks whose canonical order differs from their order here, so that normalization sorts them.
RUNS = {
    "marks": "\u0301\u0316",
    "a mark made of marks, which is none itself": "\u0301\u0f73",
    "such marks alone": "\u0f81\u0f75",
    "marks in compatibility form": "\uff9e\u0301",
    "marks beyond the first plane": "\U0001d165\U0001e8d0",
}


@pytest.mark.parametrize("run", RUNS.values(), ids=list(RUNS))
@pytest.mark.parametrize("form", FORMS)
def test_a_run_of_marks_takes_linear_time(form: Any, run: str) -> None:
    normalize(form, "a" + run * 200_000)  # in quadratic time, longer than a test may take

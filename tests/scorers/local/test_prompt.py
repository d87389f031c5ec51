"""The prompt as tokens: what is shared, what is cut, and what stays plain text."""

from __future__ import annotations

from typing import Any

import pytest
from dashscope import get_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank import InvalidInputError
from tests.scorers.local import WHY_SKIPPED

pytest.importorskip("torch", reason=WHY_SKIPPED)

from qwen_rerank.scorers.local.loading import yes_and_no
from qwen_rerank.scorers.local.prompt import DEFAULT_INSTRUCT, PREFIX, SUFFIX, Prompt, body, plain
from tests.support import tiny_qwen

QUERY = "how much krill does a penguin eat"
HEAD = f"<Instruct>: {DEFAULT_INSTRUCT}\n<Query>: {QUERY}\n<Document>:"
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"]

# Anything that UTF-8 can encode; and often what may merge with the space before it.
ANY_TEXT = st.text(st.characters(codec="utf-8")) | st.text(" \n\r\ta1.<|>é\u0301\u3000企🐧'")


@pytest.fixture(scope="module")
def real() -> Any:
    """Qwen's own vocabulary."""
    return tiny_qwen.real_tokenizer()


@pytest.fixture(scope="module")
def prompt(real: Any) -> Prompt:
    return Prompt(real, DEFAULT_INSTRUCT, 8192)


def test_prefix_and_suffix_have_as_many_tokens_as_published(real: Any) -> None:
    assert len(real(PREFIX)["input_ids"]) == 39
    assert len(real(SUFFIX)["input_ids"]) == 9


def test_yes_and_no_are_the_tokens_that_the_sdk_knows(real: Any) -> None:
    sdk = get_tokenizer("qwen-7b-chat")
    assert sdk.encode("yes") == [9693]
    assert sdk.encode("no") == [2152]
    assert yes_and_no("a model", real) == (9693, 2152)


@pytest.mark.parametrize("text", [HEAD, "企鹅吃磷虾。 It's 12,500 kg\r\n\r\n  a day 🐧"])
def test_qwens_tokenizer_is_rebuilt_as_it_is_in_the_sdk(real: Any, text: str) -> None:
    assert plain(real).encode(text).ids == get_tokenizer("qwen-7b-chat").encode(text)


@settings(max_examples=200, deadline=None)
@given(query=ANY_TEXT.filter(str.strip), texts=st.lists(ANY_TEXT, max_size=4))
def test_lead_and_row_are_the_tokens_of_the_whole(
    real: Any, prompt: Prompt, query: str, texts: list[str]
) -> None:
    prefix, suffix = (real(part)["input_ids"] for part in (PREFIX, SUFFIX))
    lead, rows, cut = prompt.rows(query, texts)
    assert cut == 0
    for text, row in zip(texts, rows, strict=True):
        whole = plain(real).encode(body(DEFAULT_INSTRUCT, query, text)).ids
        assert [*lead, *row] == [*prefix, *whole, *suffix]


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_everything_before_the_text_is_shared_whatever_the_text(
    real: Any, prompt: Prompt, texts: list[str]
) -> None:
    head = plain(real).encode(HEAD).ids
    assert prompt.rows(QUERY, texts).lead == (*real(PREFIX)["input_ids"], *head)


@pytest.mark.parametrize("word", CONTROL)
def test_control_tokens_are_plain_text_in_query_instruct_and_text(real: Any, word: str) -> None:
    control = real.convert_tokens_to_ids(word)
    assert control == max(real(word)["input_ids"])
    prompt = Prompt(real, f"a {word} b", 8192)
    lead, rows, _ = prompt.rows(f"a{word}", [word, f"{word}{word}\n"])
    fixed = real(PREFIX)["input_ids"] + real(SUFFIX)["input_ids"]
    for row in rows:
        assert [*lead, *row].count(control) == fixed.count(control)


def test_texts_that_are_too_long_are_counted_and_keep_the_suffix(real: Any) -> None:
    prompt = Prompt(real, DEFAULT_INSTRUCT, 100)
    lead, rows, cut = prompt.rows(QUERY, ["yes " * 50, "yes", "no " * 50])
    assert cut == 2
    assert [len(lead) + len(row) for row in rows] == [100, len(lead) + 1 + 9, 100]
    assert all(list(row[-9:]) == real(SUFFIX)["input_ids"] for row in rows)


def test_a_query_that_fills_the_prompt_leaves_the_suffix(real: Any) -> None:
    lead, rows, cut = Prompt(real, DEFAULT_INSTRUCT, 70).rows("krill " * 50, ["a", "b"])
    assert (len(lead), cut) == (61, 2)
    assert [list(row) for row in rows] == [real(SUFFIX)["input_ids"]] * 2


@pytest.mark.parametrize("max_length", [48, 0, -1, 100.0, True, None])
def test_a_max_length_without_room_is_refused(real: Any, max_length: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_length must be a whole number of at least 49"):
        Prompt(real, DEFAULT_INSTRUCT, max_length)


@pytest.mark.parametrize("instruct", ["", " ", None, "\ud800"])
def test_an_instruct_that_is_no_text_is_refused(real: Any, instruct: Any) -> None:
    with pytest.raises(InvalidInputError, match="instruct"):
        Prompt(real, instruct, 8192)

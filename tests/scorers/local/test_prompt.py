"""The prompt as tokens: what is shared, what is truncated, and what is read as plain text."""

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
from qwen_rerank.scorers.local.prompt import (
    DEFAULT_INSTRUCT,
    PREFIX,
    SUFFIX,
    Prompt,
    prompt_body,
    without_added_tokens,
)
from tests.support import tiny_qwen

QUERY = "how much krill does a penguin eat"
HEAD = f"<Instruct>: {DEFAULT_INSTRUCT}\n<Query>: {QUERY}\n<Document>:"
CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"]

# Anything that UTF-8 can encode; often what may merge with the space before it.
ANY_TEXT = st.text(st.characters(codec="utf-8")) | st.text(" \n\r\ta1.<|>é\u0301\u3000企🐧'")


@pytest.fixture(scope="module")
def real() -> Any:
    """Qwen's own vocabulary."""
    return tiny_qwen.real_tokenizer()


@pytest.fixture(scope="module")
def prompt(real: Any) -> Prompt:
    return Prompt(real, DEFAULT_INSTRUCT, 8192)


def test_prefix_and_suffix_have_the_published_lengths(real: Any) -> None:
    assert len(real(PREFIX)["input_ids"]) == 39
    assert len(real(SUFFIX)["input_ids"]) == 9


def test_yes_and_no_are_the_tokens_of_the_sdk(real: Any) -> None:
    sdk = get_tokenizer("qwen-7b-chat")
    assert sdk.encode("yes") == [9693]
    assert sdk.encode("no") == [2152]
    assert yes_and_no("a model", real) == (9693, 2152)


@pytest.mark.parametrize("text", [HEAD, "企鹅吃磷虾。 It's 12,500 kg\r\n\r\n  a day 🐧"])
def test_the_tokenizer_equals_that_of_the_sdk(real: Any, text: str) -> None:
    assert without_added_tokens(real).encode(text).ids == get_tokenizer("qwen-7b-chat").encode(text)


@settings(max_examples=200)
@given(query=ANY_TEXT.filter(str.strip), texts=st.lists(ANY_TEXT, max_size=4))
def test_shared_and_rest_are_the_tokens_of_the_whole_prompt(
    real: Any, prompt: Prompt, query: str, texts: list[str]
) -> None:
    prefix, suffix = (real(part)["input_ids"] for part in (PREFIX, SUFFIX))
    shared, rests, truncated = prompt.tokenize(query, texts)
    assert truncated == []
    for text, rest in zip(texts, rests, strict=True):
        whole = without_added_tokens(real).encode(prompt_body(DEFAULT_INSTRUCT, query, text)).ids
        assert [*shared, *rest] == [*prefix, *whole, *suffix]


@settings(max_examples=200)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_everything_before_the_text_is_shared(real: Any, prompt: Prompt, texts: list[str]) -> None:
    head = without_added_tokens(real).encode(HEAD).ids
    assert prompt.tokenize(QUERY, texts).shared == (*real(PREFIX)["input_ids"], *head)


@pytest.mark.parametrize("word", CONTROL)
def test_control_tokens_in_query_instruct_and_text_are_plain_text(real: Any, word: str) -> None:
    control = real.convert_tokens_to_ids(word)
    assert control == max(real(word)["input_ids"])
    prompt = Prompt(real, f"a {word} b", 8192)
    shared, rests, _ = prompt.tokenize(f"a{word}", [word, f"{word}{word}\n"])
    fixed = real(PREFIX)["input_ids"] + real(SUFFIX)["input_ids"]
    for rest in rests:
        assert [*shared, *rest].count(control) == fixed.count(control)


def test_long_texts_are_truncated_before_the_suffix(real: Any) -> None:
    prompt = Prompt(real, DEFAULT_INSTRUCT, 100)
    shared, rests, truncated = prompt.tokenize(QUERY, ["yes " * 50, "yes", "no " * 50])
    assert truncated == [0, 2]
    assert [len(shared) + len(rest) for rest in rests] == [100, len(shared) + 1 + 9, 100]
    assert all(list(rest[-9:]) == real(SUFFIX)["input_ids"] for rest in rests)


def test_a_query_that_leaves_no_room_for_texts_is_blamed_itself(real: Any) -> None:
    prompt = Prompt(real, DEFAULT_INSTRUCT, 150)
    message = r"The query is too long.* has at least 252 tokens, and max_length=150.*Shorten the"
    with pytest.raises(InvalidInputError, match=message):
        prompt.tokenize("krill " * 90, ["a", "b"])


def test_of_a_huge_text_no_more_is_tokenized_than_has_room(
    real: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Prompt(real, DEFAULT_INSTRUCT, 100)
    text = "penguins eat krill " * 1_000_000
    encoded = []
    encode = prompt._encode
    monkeypatch.setattr(prompt, "_encode", lambda bodies: encoded.extend(bodies) or encode(bodies))
    assert prompt.tokenize(QUERY, [text]) == prompt.tokenize(QUERY, [text[:9_000]])
    with pytest.raises(InvalidInputError, match="The query is too long"):
        prompt.tokenize(text, [text])
    assert max(map(len, encoded)) < 20_000


@pytest.mark.parametrize("max_length", [48, 100.0])
def test_a_max_length_without_room_for_a_text_is_refused(real: Any, max_length: Any) -> None:
    with pytest.raises(InvalidInputError, match="max_length must be a whole number of at least 49"):
        Prompt(real, DEFAULT_INSTRUCT, max_length)


@pytest.mark.parametrize("instruct", ["", "\ud800"])
def test_an_instruct_must_be_a_text(real: Any, instruct: Any) -> None:
    with pytest.raises(InvalidInputError, match="instruct"):
        Prompt(real, instruct, 8192)

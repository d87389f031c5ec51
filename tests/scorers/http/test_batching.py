"""Batching: how texts become requests, and how few tokens are counted for that."""

from __future__ import annotations

import math
import unicodedata
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_rerank import InvalidInputError, Limits
from qwen_rerank.scorers.http import batching
from qwen_rerank.scorers.http.batching import Plan, TokenRatio, byte_bound, pack, plan
from qwen_rerank.testing.loopback import token_count
from qwen_rerank.text.normalization import normalize
from qwen_rerank.text.tokenizer import count_tokens

SMALL = Limits(documents=5, item_tokens=20, request_tokens=50)

limits = st.builds(
    Limits,
    documents=st.integers(1, 20),
    item_tokens=st.integers(1, 100),
    request_tokens=st.integers(1, 300),
)
token_counts = st.lists(st.integers(1, 400), min_size=1, max_size=60)
concurrencies = st.integers(1, 9)


def cost(query_tokens: int, tokens: int, limits: Limits) -> int:
    return min(query_tokens + tokens, limits.request_tokens)


def first_fit(query_tokens: int, text_tokens: list[int], limits: Limits) -> int:
    """How many requests textbook first-fit makes."""
    requests: list[list[int]] = []
    for tokens in text_tokens:
        size = cost(query_tokens, tokens, limits)
        for request in requests:
            room = limits.request_tokens - sum(request)
            if room >= size and len(request) < limits.documents:
                request.append(size)
                break
        else:
            requests.append([size])
    return len(requests)


@given(st.integers(1, 50), token_counts, limits, concurrencies)
def test_every_text_is_in_exactly_one_request(
    query_tokens: int, text_tokens: list[int], limits: Limits, concurrency: int
) -> None:
    requests = pack([query_tokens, *text_tokens], limits, concurrency)
    assert sorted(chain.from_iterable(requests)) == list(range(len(text_tokens)))
    assert all(requests)


@given(st.integers(1, 50), token_counts, limits, concurrencies)
def test_every_request_is_within_the_limits_or_a_single_text(
    query_tokens: int, text_tokens: list[int], limits: Limits, concurrency: int
) -> None:
    for request in pack([query_tokens, *text_tokens], limits, concurrency):
        tokens = query_tokens * len(request) + sum(text_tokens[index] for index in request)
        assert len(request) <= limits.documents
        assert tokens <= limits.request_tokens or len(request) == 1


@given(st.integers(1, 50), token_counts, limits, concurrencies)
@example(1, [7, 5, 6, 5, 6, 5], Limits(request_tokens=20), 1)  # first-fit decreasing makes 3
def test_there_are_no_more_rounds_than_with_first_fit(
    query_tokens: int, text_tokens: list[int], limits: Limits, concurrency: int
) -> None:
    requests = pack([query_tokens, *text_tokens], limits, concurrency)
    fitted = first_fit(query_tokens, text_tokens, limits)
    assert math.ceil(len(requests) / concurrency) <= math.ceil(fitted / concurrency)


@given(st.integers(1, 50), token_counts, limits, concurrencies)
def test_texts_that_fit_one_request_share_it(
    query_tokens: int, text_tokens: list[int], limits: Limits, concurrency: int
) -> None:
    whole = Limits(len(text_tokens), limits.item_tokens, 60 * 450)
    assert len(pack([query_tokens, *text_tokens], whole, concurrency)) == 1


@pytest.mark.parametrize(
    ("texts", "concurrency", "sizes"),
    [
        (5, 4, [5]),
        (6, 4, [2, 2, 1, 1]),  # as many as run concurrently
        (6, 8, [1] * 6),  # but none empty
        (22, 4, [3, 3, 3, 3, 3, 3, 2, 2]),  # in two rounds
        (6, 1, [3, 3]),
    ],
)
def test_texts_that_do_not_fit_one_request_are_shared_out_evenly(
    texts: int, concurrency: int, sizes: list[int]
) -> None:
    requests = pack([1] + [3] * texts, SMALL, concurrency)
    assert sorted(map(len, requests), reverse=True) == sizes


def test_first_fit_decreasing_is_used_if_it_is_better() -> None:
    text_tokens = [3, 3, 5, 5]  # with the query's token 4, 4, 6, 6: two requests of 4 + 6
    capacity = Limits(request_tokens=10)
    assert first_fit(1, text_tokens, capacity) == 3
    assert len(pack([1, *text_tokens], capacity, 1)) == 2


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("é" * 10)
@example("\u0344" * 10)  # NFC makes it longer
@example("<|im_start|>")
def test_bytes_are_an_upper_bound_of_tokens(text: str) -> None:
    assert token_count(text) <= byte_bound(text)


def test_nothing_is_counted_if_the_bytes_fit() -> None:
    counted: list[str] = []
    texts = ["a" * 9] * 4
    planned = plan("q", texts, SMALL, 1, lambda text: len(counted.append(text) or ""))
    assert planned == Plan([[0, 1, 2, 3]])
    assert counted == []


@pytest.mark.parametrize("exact", [True, False])
def test_bytes_that_ask_for_more_requests_than_the_documents_do_are_estimated_or_counted(
    exact: bool,
) -> None:
    texts = ["你好世界"] * 5  # 12 bytes and 2 tokens each
    planned = plan("q", texts, SMALL, 1, token_count, exact=exact)
    assert planned == Plan([[0, 1, 2, 3, 4]], estimated_bytes=0 if exact else 65)


def test_nothing_is_counted_if_half_the_bytes_fit() -> None:
    planned = plan("q", ["a" * 500] * 100, Limits(), 8, not_counted)  # 50,000 bytes
    assert planned == Plan([list(range(100))], estimated_bytes=50_100)


def test_an_estimate_counts_sixteen_texts_spread_evenly() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 100 if len(text) > 1 else 1

    texts = [f"{index:03} {'word ' * 80}" for index in range(240)]
    planned = plan("q", texts, Limits(), 4, count)
    assert planned.is_estimated
    assert [text[:3] for text in counted[1:]] == [f"{index:03}" for index in range(0, 240, 15)]
    assert len(planned.requests) == 1  # 24,000 tokens by the estimate


def test_an_estimate_is_higher_if_the_texts_differ_more() -> None:
    alike, different = (["a" * 400] * 270, ["a" * 400, "b" * 400] * 135)
    tokens = {"q": 1, "a": 50, "b": 150}
    requests = [
        len(plan("q", texts, Limits(), 2, lambda text: tokens[text[0]]).requests)
        for texts in (alike, different)
    ]
    assert requests == [1, 2]


def test_a_known_ratio_needs_no_sample() -> None:
    texts = ["a" * 500] * 240  # 120,000 bytes
    assert len(plan("q", texts, Limits(), 4, not_counted, ratio=0.2).requests) == 1
    assert len(plan("q", texts, Limits(), 4, not_counted, ratio=0.3).requests) == 4


def test_a_learned_ratio_follows_a_rise_at_once_and_a_fall_slowly() -> None:
    ratio = TokenRatio()
    assert ratio.estimate is None
    ratio.learn(0, 1_000)  # the service does not report tokens
    assert ratio.estimate is None
    ratio.learn(200, 1_000)
    assert ratio.estimate == pytest.approx(0.22)
    ratio.learn(400, 1_000)
    assert ratio.estimate == pytest.approx(0.44)
    ratio.learn(200, 1_000)
    assert 0.4 < (ratio.estimate or 0) < 0.44
    ratio.learn(1_000, 1_000)
    assert ratio.estimate == 1


def not_counted(text: str) -> int:
    raise AssertionError(text)


def test_more_documents_than_the_limit_need_no_count_of_tokens() -> None:
    requests = plan("q", ["a"] * 12, SMALL, 1, not_counted).requests
    assert [len(request) for request in requests] == [4, 4, 4]


def test_only_texts_that_may_exceed_the_item_limit_are_counted() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 3

    long = "a" * 21
    assert plan("q", ["short", long], SMALL, 1, count) == Plan([[0, 1]])
    assert counted == [long]


def test_items_over_the_limit_are_reported() -> None:
    texts = ["a " * 21, "short", "b " * 30]
    assert plan("q", texts, SMALL, 1, token_count) == Plan([], [1, 3])
    assert plan("q " * 30, ["short"], SMALL, 1, token_count) == Plan([], [0])


def test_a_text_too_large_for_any_request_is_sent_alone() -> None:
    limits = Limits(documents=5, item_tokens=100, request_tokens=50)
    requests = plan("q", ["short", "a " * 80, "short too"], limits, 1, token_count).requests
    assert sorted(requests) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("query", "texts", "named"), [("\ud800", ["a"], "The query"), ("q", ["a", "\udfff"], "Text 1")]
)
def test_half_a_surrogate_pair_is_refused_and_named(
    query: str, texts: list[str], named: str
) -> None:
    with pytest.raises(InvalidInputError, match=named):
        plan(query, texts, SMALL, 1, token_count)


def test_of_a_text_that_is_too_long_in_any_case_only_a_part_is_counted() -> None:
    def count(text: str) -> int:
        assert len(text) <= 500
        return len(text)

    limits = Limits(item_tokens=100)
    assert plan("q", ["a " * 10_000, "short"], limits, 1, count) == Plan([], [1])


@given(st.integers(2, 8), st.lists(st.integers(1, 30), min_size=9, max_size=60), limits)
def test_a_text_goes_where_textbook_first_fit_puts_it(
    query_tokens: int, text_tokens: list[int], limits: Limits
) -> None:
    costs = [cost(query_tokens, tokens, limits) for tokens in text_tokens]
    fitted = batching._first_fit(range(len(costs)), costs, limits)
    assert len(fitted) == first_fit(query_tokens, text_tokens, limits)


@pytest.mark.timeout(20)
def test_first_fit_of_many_large_texts_does_not_take_quadratic_time() -> None:
    sizes = [0] + [2_900 + number % 97 for number in range(50_000)]
    assert len(pack(sizes, Limits(documents=9), 1)) == math.ceil(50_000 / 9)


@pytest.mark.timeout(20)
def test_a_long_run_of_marks_does_not_take_quadratic_time() -> None:
    marks = "a" + "\u0300\u0316" * 200_000  # 24 s in Python's own normalization
    assert plan("q", [marks], Limits(), 1, count_tokens) == Plan([], [1])


@given(st.text(st.sampled_from("ae\u0300\u0316\u0323\u0344가각"), max_size=25))
def test_text_without_long_runs_of_marks_is_normalized_as_by_python(text: str) -> None:
    assert normalize("NFC", text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", ["documents", "item_tokens", "request_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_an_invalid_limit_is_refused_and_named(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"limits.{name}"):
        Limits(**{name: value})  # type: ignore[arg-type]

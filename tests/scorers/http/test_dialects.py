"""Reading responses: strict about the ranking, lenient about everything beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_rerank import (
    AuthenticationError,
    ContentBlockedError,
    InvalidInputError,
    RateLimitError,
    ServiceError,
)
from qwen_rerank.scorers.http.dialects.base import Dialect, ErrorResponse, InvalidRankingError
from qwen_rerank.scorers.http.dialects.dashscope import DashScopeDialect
from qwen_rerank.scorers.http.dialects.servers import COMMON, SERVERS

DASHSCOPE = DashScopeDialect()

RESULTS = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]

either = pytest.mark.parametrize("dialect", [DASHSCOPE, COMMON], ids=["DashScope", "server"])


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def assert_read(dialect: Dialect, body: bytes) -> None:
    ranking = dialect.parse_ranking(body)
    assert (ranking.indices, ranking.scores) == ([1, 0], [0.75, 0.25])
    assert ranking.tokens >= 0
    assert ranking.request_id is None or ranking.request_id


# --- Rankings


@either
@pytest.mark.parametrize(
    "body",
    [
        RESULTS,
        {"results": RESULTS},
        {"output": {"results": RESULTS}},
        {"object": "list", "data": RESULTS, "model": "rerank-2", "usage": {"total_tokens": 26}},
        {"code": 200, "message": "success", "data": {"results": RESULTS}},
        {"code": "200", "msg": "OK", "data": {"output": {"results": RESULTS}}},
        {"code": 0, "message": "", "result": {"results": RESULTS}},
        {"code": "Success", "data": RESULTS, "error": None},
        {"code": "", "message": "", "output": {"results": RESULTS}},
        {"code": None, "data": {"data": RESULTS}},
        {"code": 20000, "data": {"results": RESULTS}},
        {"output": {"text": "none"}, "data": "none", "results": RESULTS},
        {"status": "ok", "response": {"rankings": RESULTS, "documents": ["a", "b"]}},
        {"items": [{"index": 1, "relevanceScore": 0.75}, {"index": 0, "relevanceScore": 0.25}]},
    ],
    ids=str,
)
def test_results_are_found_in_any_of_the_usual_containers(dialect: Dialect, body: Any) -> None:
    assert_read(dialect, encoded(body))


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
beside = st.dictionaries(
    st.sampled_from(["id", "request_id", "usage", "model", "message", "object", "meta", "error"])
    | st.text(max_size=5).filter(lambda key: key not in ("code", "data", "output", "result")),
    any_json | st.fixed_dictionaries({"total_tokens": any_json}),
)


@settings(max_examples=40)
@given(beside, st.sampled_from([{}, {"code": ""}, {"code": 200}]), any_json)
def test_whatever_is_beside_the_ranking_never_costs_it(
    beside: dict[str, Any], code: dict[str, Any], document: Any
) -> None:
    results = [{**result, "document": document} for result in RESULTS]
    assert_read(DASHSCOPE, encoded({**beside, **code, "output": {**beside, "results": results}}))
    assert_read(COMMON, encoded({**beside, **code, "results": results}))


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 79}, 79),
        ({"total_tokens": 79.0}, 79),
        ({"total_tokens": 78.6}, 78),
        ({"total_tokens": -5}, 0),
        ({"total_tokens": "79"}, 0),
        ({"total_tokens": True}, 0),
        ({"total_tokens": None}, 0),
        ({"input_tokens": 5}, 0),
        ({"input_tokens": 5, "total_tokens": 79}, 79),
        ([{"total_tokens": 79}], 0),
        (7, 0),
        (None, 0),
    ],
    ids=str,
)
def test_tokens_are_a_count_above_zero_or_unknown(usage: Any, tokens: int) -> None:
    body = encoded({"output": {"results": RESULTS}, "usage": usage})
    assert DASHSCOPE.parse_ranking(body).tokens == tokens


def test_tokens_are_also_found_where_cohere_xinference_and_siliconflow_have_them() -> None:
    for meta in (
        {"billed_units": {"input_tokens": 79, "output_tokens": 0}, "tokens": {"input_tokens": 80}},
        {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 79}},
        {"billed_units": None, "tokens": {"input_tokens": 79}},
    ):
        assert COMMON.parse_ranking(encoded({"results": RESULTS, "meta": meta})).tokens == 79
    meta = {"billed_units": None, "tokens": None}
    assert COMMON.parse_ranking(encoded({"results": RESULTS, "meta": meta})).tokens == 0


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"request_id": "r"}, "r"),
        ({"request_id": 7, "id": "r"}, "7"),
        ({"request_id": None, "id": "r"}, "r"),
        ({"id": {"a": 1}}, None),
        ({"id": True}, None),
    ],
    ids=str,
)
def test_a_request_id_is_a_string_or_an_integer(ids: Any, expected: str | None) -> None:
    assert COMMON.parse_ranking(encoded({**ids, "results": RESULTS})).request_id == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"document": "half a pair: \\ud800", "results": %s}' % encoded(RESULTS),
        b"\xef\xbb\xbf" + encoded({"results": RESULTS}),
        json.dumps({"results": RESULTS}).encode("utf-16"),
        b' \n{"usage": NaN, "results": %s}\n' % encoded(RESULTS),
    ],
    ids=["half a surrogate pair", "a byte order mark", "UTF-16", "NaN beside the ranking"],
)
def test_unusual_json_is_read(body: bytes) -> None:
    assert_read(COMMON, body)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ([{"index": "0", "score": 0.5}], r"results\.0\.index: expected an integer, got str"),
        ([{"index": 0.0, "score": 0.5}], r"index: expected an integer, got 0\.0"),
        ([{"index": True, "score": 0.5}], "index: expected an integer, got True"),
        ([{"score": 0.5}], r"results\.0\.index: missing"),
        ([*RESULTS, {"index": 0}], r"results\.2\.relevance_score: missing"),
        ([*RESULTS, {"index": 2, "score": 0.5}], r"results\.2\.relevance_score: missing"),
        ([{"index": 0, "score": "0.5"}], r"score: expected a finite number, got str"),
        ([{"index": 0, "score": True}], "score: expected a finite number, got True"),
        ([{"index": 0, "score": None}], "score: expected a finite number, got None"),
        ([{"index": 0, "score": float("nan")}], "score: expected a finite number, got nan"),
        ([{"index": 0, "score": float("inf")}], "score: expected a finite number, got inf"),
        ([{"index": 0, "score": 10**400}], "score: expected a finite number, got int"),
        ([{"index": 0, "score": -1e6}], "expected a number from -999999 to inf"),
        (["a"], r"results\.0: expected an object, got str"),
        ([[0, 0.5]], r"results\.0: expected an object, got list"),
        ({"0": 0.5}, "results: expected a list"),
        (None, "results: expected a list"),
    ],
    ids=str,
)
def test_what_is_not_an_index_or_a_score_is_refused_and_named(results: Any, says: str) -> None:
    with pytest.raises(InvalidRankingError, match=says):
        COMMON.parse_ranking(encoded({"results": results}))


@pytest.mark.parametrize("score", [-0.01, 1.01, 38])
def test_dashscopes_scores_are_probabilities(score: float) -> None:
    body = encoded({"output": {"results": [{"index": 0, "relevance_score": score}]}})
    with pytest.raises(InvalidRankingError, match="expected a number from 0 to 1"):
        DASHSCOPE.parse_ranking(body)


def test_integers_are_scores_too() -> None:
    results = [{"index": 0, "relevance_score": 1}, {"index": 1, "relevance_score": 0}]
    scores = DASHSCOPE.parse_ranking(encoded({"output": {"results": results}})).scores
    assert [*map(type, scores)] == [float, float]
    assert scores == [1, 0]


@either
@pytest.mark.parametrize("code", ["Throttling", "429", 500, "InternalError"])
def test_an_error_code_beside_results_is_an_error(dialect: Dialect, code: Any) -> None:
    with pytest.raises(InvalidRankingError, match="code"):
        dialect.parse_ranking(encoded({"code": code, "data": {"results": RESULTS}}))


@either
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "M", "code": 429}, "results": []},
        {"success": False, "message": "M", "status": 429, "data": []},
        {"code": 0, "data": {"error": "M", "status_code": 429, "results": []}},
    ],
    ids=str,
)
def test_an_error_in_place_of_results_is_an_error(dialect: Dialect, body: Any) -> None:
    with pytest.raises(InvalidRankingError, match="error"):
        dialect.parse_ranking(encoded(body))
    error = dialect.parse_error(encoded(body))
    assert (error.message, dialect.map_error(error, 200)[0]) == ("M", RateLimitError)


# --- Errors


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"code": "C", "message": "M", "request_id": "r"}, ErrorResponse("C", "M", "r")),
        ({"code": 429, "msg": "M"}, ErrorResponse("", "M", "", 429)),
        ({"code": "503", "message": "M"}, ErrorResponse("503", "M", "", 503)),
        ({"code": 10001, "message": "M"}, ErrorResponse("", "M")),
        ({"error": {"message": "M", "type": "T", "code": 400}}, ErrorResponse("T", "M", "", 400)),
        ({"error": "M", "error_type": "T"}, ErrorResponse("T", "M")),
        ({"detail": "M"}, ErrorResponse("", "M")),
        ({"code": 200, "data": {"code": "C", "message": "M"}}, ErrorResponse("C", "M")),
        ({"code": 200, "message": "success", "data": None}, ErrorResponse()),
        ({"code": 0, "message": "ok", "data": {}}, ErrorResponse()),
        ({"message": "Success"}, ErrorResponse()),
        ({"code": ["C"], "message": {"M": 1}, "request_id": 7}, ErrorResponse("", "", "7")),
        ({"code": "\ud800", "message": "\ud800"}, ErrorResponse("?", "?")),
        ("M", ErrorResponse()),
        (["M"], ErrorResponse()),
    ],
    ids=str,
)
def test_errors_are_read_in_any_of_the_usual_forms(body: Any, error: ErrorResponse) -> None:
    assert COMMON.parse_error(encoded(body)) == error


@settings(max_examples=40)
@given(st.binary() | any_json.map(encoded) | beside.map(encoded))
def test_reading_an_error_never_fails(body: bytes) -> None:
    error = COMMON.parse_error(body)
    assert {*map(type, (error.code, error.message, error.request_id))} == {str}


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"code": "Throttling.RateQuota"}, 400, RateLimitError),
        ({"code": "DataInspectionFailed.Output"}, 200, ContentBlockedError),
        ({"code": 401, "message": "M"}, 200, AuthenticationError),
        ({"code": 429, "message": "M"}, 200, RateLimitError),
        ({"code": 400, "message": "M"}, 200, InvalidInputError),
        ({"code": 500, "message": "M"}, 200, ServiceError),
        ({"code": 401, "message": "M"}, 503, ServiceError),
        ({"status": 401, "message": "M"}, 202, AuthenticationError),
        ({"error": {"code": "data_inspection_failed"}}, 400, ContentBlockedError),
        ({"error": {"code": "invalid_api_key"}}, 200, AuthenticationError),
        ({}, 302, ServiceError),
        ({}, 418, ServiceError),
    ],
    ids=str,
)
def test_an_error_is_mapped_by_its_code_and_then_by_its_status(
    body: Any, status: int, kind: type[Exception]
) -> None:
    error = DASHSCOPE.parse_error(encoded(body))
    assert DASHSCOPE.map_error(error, status)[0] is kind


TOO_LONG = [
    (500, "input is too large to process. increase the physical batch size"),
    (500, "input (1032 tokens) is too large to process. increase the physical batch size"),
    (400, "the request exceeds the available context size, try increasing it"),
    (400, "This model's maximum context length is 512 tokens. However, your prompt has 513."),
    (400, "The prompt (2053 tokens) is longer than the maximum model length of 2048."),
    (400, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
    (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 613"),
]


def test_reading_a_long_message_takes_little_time() -> None:
    """Patterns with a gap would take minutes here, and hold up the process meanwhile."""
    for words in ("model ", "logprobs of ", "unexpected keyword arguments "):
        error = COMMON.parse_error(encoded({"message": words * 100_000}))
        assert COMMON.map_error(error, 400)[0] is InvalidInputError


@either
def test_a_passing_failure_has_a_remedy(dialect: Dialect) -> None:
    advice = {408: "deadline=", 429: "requests_per_minute", 500: "Fallback", 503: "Fallback"}
    for status, expected in advice.items():
        assert expected in str(dialect.map_error(ErrorResponse(), status)[1])


def test_a_passing_failure_has_the_same_remedy_by_its_code() -> None:
    for code, status in (("Throttling.RateQuota", 429), ("RequestTimeOut", 408)):
        by_code = DASHSCOPE.map_error(ErrorResponse(code), 400)
        assert by_code == DASHSCOPE.map_error(ErrorResponse(), status)


@pytest.mark.parametrize(("status", "message"), TOO_LONG)
def test_a_text_that_is_too_long_for_a_server_has_a_remedy(status: int, message: str) -> None:
    for name, option in (("vllm", "--max-model-len"), ("llama.cpp", "--ubatch-size")):
        kind, remedy = SERVERS[name].map_error(ErrorResponse("", message), status)
        assert kind is InvalidInputError
        assert remedy is not None
        assert "PassageScorer" in remedy
        assert option in remedy


def test_a_busy_server_is_not_taken_for_a_text_that_is_too_long() -> None:
    busy = ErrorResponse("", "No slot with the requested context size is free.")
    assert SERVERS["llama.cpp"].map_error(busy, 503)[0] is ServiceError


# --- Requests


@pytest.mark.parametrize("name", SERVERS)
def test_top_n_goes_to_servers_that_take_it(name: str) -> None:
    body = SERVERS[name].request_body("m", "q", ["a"], None, 1)
    takes_none = name in ("tei", "completions", "ollama", "deepinfra")
    assert body.get("top_n") == (None if takes_none else 1)
    assert "top_n" not in COMMON.request_body("m", "q", ["a", "b"], None, 1)
    parameters = DASHSCOPE.request_body("qwen3-rerank", "q", ["a"], None, 1)["parameters"]
    assert parameters == {"return_documents": False, "top_n": 1}

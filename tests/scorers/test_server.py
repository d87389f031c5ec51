"""ServerScorer against loopback servers, each written from that project's source."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from qwen_rerank import (
    AuthenticationError,
    BadResponseError,
    ContentBlockedError,
    InvalidInputError,
    MissingKeyError,
    QwenRerankError,
    RateLimitError,
    Record,
    RerankEngine,
    Scorer,
    Scores,
    ServerName,
    ServerScorer,
    ServiceError,
)
from qwen_rerank.scorers.http.dialects.servers import SERVERS as DIALECTS
from qwen_rerank.testing.faults import breaks_off, drops, hangs, refuses, says
from qwen_rerank.testing.loopback import Fault, token_count
from tests.support.servers import MODEL, SERVERS, VLLM, LlamaCpp, Server, Xinference
from tests.support.transport import Handler, RawServer, read_request

INSTRUCTED = {"vllm": "instruction", "sglang": "instruct", "dashscope": "instruct"}
NEEDS_MODEL = ("xinference", "dashscope")
KEY = "sk-server"
TOO_LONG = [
    (500, "input is too large to process. increase the physical batch size"),
    (400, "This model's maximum context length is 512 tokens. However, you requested 2001."),
]
"""What llama.cpp and vLLM say, and with which status."""

TOO_LONG_REMEDY = "PassageScorer"
SAID: list[tuple[int, str, type[QwenRerankError], str]] = [
    (404, "The model `m` does not exist.", InvalidInputError, "model="),
    (400, "model 'm' not found", InvalidInputError, "model="),
    (400, "Model not found in the model list, uid: m", InvalidInputError, "model="),
    (400, "Invalid model: 'm'", InvalidInputError, "model="),
    (400, "Score API is only enabled for num_labels == 1.", InvalidInputError, "hf_overrides"),
    (400, "The model does not support Rerank (Score) API", InvalidInputError, "a reranker"),
    (424, "model is not a re-ranker model", InvalidInputError, "a reranker"),
    (400, "MultiModalParam is not supported for Qwen3", InvalidInputError, "multimodal=True"),
    (
        400,
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
        InvalidInputError,
        "--max-logprobs",
    ),
    (
        400,
        "Detected Qwen3 reranker chat template, but the server is not in generation mode.",
        InvalidInputError,
        "without --is-embedding",
    ),
    (400, "Invalid rerank request adaptation.", InvalidInputError, "--chat-template"),
    (503, "The request queue is full.", ServiceError, "max_concurrency"),
    (503, "Loading model", ServiceError, "has loaded its model"),
    (429, "model m is currently overloaded", RateLimitError, "max_concurrency"),
    (429, "Slow down.", RateLimitError, "the server's own limit"),
    (
        500,
        "Unexpected keyword arguments: {'enable_qwen3_rerank_template': False}",
        InvalidInputError,
        "--model-engine vllm",
    ),
    (
        503,
        "server busy, please try again.  maximum pending requests exceeded",
        ServiceError,
        "OLLAMA_MAX_QUEUE",
    ),
    (
        400,
        "request (600 tokens) exceeds the available context size (512)",
        InvalidInputError,
        TOO_LONG_REMEDY,
    ),
    (
        400,
        "The input (9 tokens) is longer than the model's context length (8 tokens).",
        InvalidInputError,
        TOO_LONG_REMEDY,
    ),
    (400, "the input length exceeds the context length", InvalidInputError, TOO_LONG_REMEDY),
    (
        422,
        "`inputs` must have less than 512 tokens. Given: 600",
        InvalidInputError,
        TOO_LONG_REMEDY,
    ),
]
"""What servers say, the status, the type of the error, and a part of its remedy."""


def scored(values: list[float]) -> list[str]:
    """Texts that a loopback server gives these scores."""
    return [f"text {index} score={value}" for index, value in enumerate(values)]


Score = Callable[[Scorer, str, list[str]], Scores]


@pytest.fixture(params=["score", "ascore"])
def score(request: pytest.FixtureRequest) -> Score:
    """Score, or await a score."""
    if request.param == "score":
        return lambda scorer, query, texts: scorer.score(query, texts)
    return lambda scorer, query, texts: asyncio.run(scorer.ascore(query, texts))


@pytest.fixture(params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(name: str) -> Iterator[Server]:
    """Each server in turn."""
    with SERVERS[name]() as running:
        yield running


@pytest.fixture
def vllm() -> Iterator[Server]:
    with VLLM() as running:
        yield running


def scorer_of(server: Server, name: Any, **options: Any) -> ServerScorer:
    return ServerScorer(server.root, dialect=name, **{"model": MODEL, **options})


def test_every_server_that_can_be_named_has_a_loopback_server() -> None:
    others = ["completions", "ollama", "deepinfra", "generic"]  # in test_prompts.py
    assert [*SERVERS, *others] == list(DIALECTS) == list(get_args(ServerName))


# --- Requests and responses


def test_scores_are_in_the_order_of_the_texts(server: Server, name: str, score: Score) -> None:
    values = [0.2, 0.9, 0.5]
    assert score(scorer_of(server, name), "q", scored(values)).values == values


def test_options_that_are_not_given_are_not_sent(server: Server, name: str) -> None:
    scorer_of(server, name, model=MODEL if name in NEEDS_MODEL else None).score("q", ["one", "two"])
    (request,) = server.received
    extra = {"tei": {"truncate": True}, "sglang": {"return_documents": False}}.get(name, {})
    if name in NEEDS_MODEL:
        extra = {"model": MODEL}
    assert request.body == {"query": "q", server.texts: ["one", "two"], **extra}
    assert "Authorization" not in request.headers


def test_longer_items_are_truncated_to_max_item_tokens(server: Server, name: str) -> None:
    scorer = scorer_of(server, name, max_item_tokens=20)
    scores = scorer.score("q " * 30, ["short score=0.1", "score=0.2 " + "word " * 30])
    assert (scores.values, scores.usage.truncated) == ([0.1, 0.2], 2)
    (request,) = server.received
    assert max(map(token_count, (request.query, *request.documents))) == 20
    limits = {each: request.body[each] for each in request.body if each.startswith("max_tokens")}
    is_vllm = name == "vllm"
    assert limits == ({"max_tokens_per_query": 20, "max_tokens_per_doc": 20} if is_vllm else {})


def test_no_item_is_truncated_with_truncate_false(server: Server, name: str) -> None:
    scorer = scorer_of(server, name, max_item_tokens=20, truncate=False)
    with pytest.raises(InvalidInputError, match=r"1 of 2 items .* exceed the 20 tokens .*: text 0"):
        scorer.score("q", ["word " * 30])
    assert server.received == []
    scorer.score("q", ["short"])
    assert server.received[0].body.get("truncate") is (False if name == "tei" else None)


def test_the_compatible_endpoint_has_the_limits_of_the_model() -> None:
    url = "https://dashscope.aliyuncs.com"
    for model, item_tokens in (("qwen3-rerank", 4_000), ("qwen3.7-text-rerank", 30_000)):
        assert ServerScorer(url, model=model, api_key=KEY).limits.item_tokens == item_tokens


def test_the_model_and_the_key_are_sent(server: Server, name: str) -> None:
    server.key = KEY
    scorer_of(server, name, api_key=KEY).score("q", ["one"])
    assert server.received[0].model == MODEL


@pytest.mark.parametrize("name", INSTRUCTED)
def test_the_instruction_is_sent_under_the_servers_name_for_it(server: Server, name: str) -> None:
    scorer_of(server, name, instruct="Find the answer.").score("q", ["one"])
    assert server.received[0].body[INSTRUCTED[name]] == "Find the answer."


@pytest.mark.parametrize("name", sorted(set(SERVERS) - set(INSTRUCTED)))
def test_an_instruction_is_refused_if_the_server_takes_none(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"does not take instruct, got 'Find\.'"):
        ServerScorer("http://localhost:9", dialect=name, model=MODEL, instruct="Find.")  # type: ignore[arg-type]


def test_an_instruction_is_refused_if_the_server_is_unknown() -> None:
    with pytest.raises(InvalidInputError, match="dialect="):
        ServerScorer("http://localhost:9/v1/rerank", instruct="Find.")


@pytest.mark.parametrize("name", NEEDS_MODEL)
def test_a_missing_model_is_refused_if_the_server_needs_one(name: str) -> None:
    with pytest.raises(InvalidInputError, match="model="):
        ServerScorer("http://localhost:9", dialect=name)  # type: ignore[arg-type]


def test_tokens_are_the_servers_count(server: Server, name: str) -> None:
    tokens = scorer_of(server, name).score("q", ["one", "two"]).usage.tokens
    counts_none = name in ("sglang", "tei", "xinference")
    assert tokens == (0 if counts_none else 4)


@pytest.mark.parametrize("name", ["vllm", "tei"])
def test_a_request_has_batch_size_texts(server: Server, name: str, score: Score) -> None:
    values = [index / 100 for index in range(100)]
    scores = score(scorer_of(server, name, batch_size=20, max_concurrency=5), "q", scored(values))
    assert scores.values == values
    assert [len(request.body[server.texts]) for request in server.received] == [20] * 5


@pytest.mark.parametrize(("name", "requests"), [("tei", 10), ("vllm", 3), ("dashscope", 1)])
def test_the_default_batch_size_suits_the_server(server: Server, name: str, requests: int) -> None:
    scorer_of(server, name, max_concurrency=1).score("q", [str(index) for index in range(300)])
    assert len(server.received) == requests


def test_texts_of_any_length_are_sent_without_counting_tokens(vllm: Server) -> None:
    code = (
        "import sys, qwen_rerank\n"
        f"scorer = qwen_rerank.ServerScorer({vllm.root!r}, dialect='vllm')\n"
        "texts = ['文字' * 5_000 + str(index) for index in range(50)]\n"
        "assert len(scorer.score('q', texts).values) == 50\n"
        "assert not {'dashscope', 'tiktoken'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert [len(request.body["documents"]) for request in vllm.received] == [50]


def test_half_a_surrogate_pair_is_refused_before_sending(vllm: Server) -> None:
    with pytest.raises(InvalidInputError, match="Text 1 "):
        scorer_of(vllm, "vllm").score("q", ["a", "b\ud800"])
    assert vllm.received == []


def test_up_to_max_concurrency_requests_run_concurrently(vllm: Server, score: Score) -> None:
    vllm.answer_only_when(in_flight=3)  # fewer would hang, and fail by the deadline
    scorer = scorer_of(vllm, "vllm", batch_size=1, max_concurrency=3, deadline=20)
    score(scorer, "q", ["a"] * 10)
    assert vllm.most_in_flight == 3


def test_logits_are_scores_unless_asked_otherwise(vllm: Server) -> None:
    values = [-8.25, 3.5, 0.0]
    assert scorer_of(vllm, "vllm").score("q", scored(values)).values == values


def test_logits_become_probabilities_on_request(server: Server, name: str) -> None:
    values = [-900.0, -2.0, 0.0, 2.0, 900.0]
    scores = scorer_of(server, name, logits=True).score("q", scored(values)).values
    assert scores == pytest.approx([0, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1])


@pytest.mark.parametrize("dialect", ["completions", "ollama"])
def test_logits_are_refused_where_we_compute_the_probabilities(dialect: Any) -> None:
    with pytest.raises(InvalidInputError, match="logits=True has no effect"):
        ServerScorer("http://localhost:8000", dialect=dialect, model="m", logits=True)


def test_large_logits_rank_although_their_probabilities_are_equal(vllm: Server) -> None:
    records = [Record(str(logit), {"text": f"score={logit}"}) for logit in (38, 45, 40)]
    engine = RerankEngine(scorer_of(vllm, "vllm", logits=True), rerank_field="text")
    ranking = engine.rerank("q", records)
    assert [(record.id, record.score) for record in ranking] == [("45", 1), ("40", 1), ("38", 1)]


# --- Addresses


@pytest.mark.parametrize(
    ("url", "name", "path"),
    [
        ("", "vllm", "/v1/rerank"),
        ("/", "vllm", "/v1/rerank"),
        ("/v1", "vllm", "/v1/rerank"),
        ("/v2/rerank", "vllm", "/v2/rerank"),
        ("/rerank/", "vllm", "/rerank"),
        ("/v1/rerank", None, "/v1/rerank"),
        ("/v1/reranking", None, "/v1/reranking"),
        ("/rerank", None, "/rerank"),
        ("/rerank", "tei", "/rerank"),
        ("", "tei", "/rerank"),
        ("/gateway/tei", "tei", "/gateway/tei/rerank"),
        ("/gateway/v1", "sglang", "/gateway/v1/rerank"),
        ("", "dashscope", "/compatible-api/v1/reranks"),
        ("/compatible-api/v1", "dashscope", "/compatible-api/v1/reranks"),
        ("/compatible-api/v1/reranks", None, "/compatible-api/v1/reranks"),
        ("/v1/chat/completions", "vllm", "/v1/rerank"),
        ("/gateway/v1/score", "vllm", "/gateway/v1/rerank"),
        ("/v1/chat/completions", "completions", "/v1/completions"),
        ("/gateway/v1/rerank", "completions", "/gateway/v1/completions"),
        ("/api/predict/mine", "completions", "/api/predict/mine/v1/completions"),
        ("/v1", "ollama", "/api/generate"),
        ("/gateway/api/chat", "ollama", "/gateway/api/generate"),
        ("/v1/openai", "deepinfra", "/v1/inference/m"),
    ],
)
def test_an_incomplete_address_is_completed(url: str, name: Any, path: str) -> None:
    scorer = ServerScorer(f"http://localhost:8000{url}", dialect=name, model="m")
    assert scorer.url == f"http://localhost:8000{path}"


@pytest.mark.parametrize("dialect", [None, "dashscope"])
@pytest.mark.parametrize(
    "path", ["", "/compatible-mode/v1", "/api/v1", "/compatible-api/v1/reranks"]
)
def test_any_address_of_dashscopes_own_is_turned_into_that_of_the_endpoint(
    dialect: Any, path: str
) -> None:
    host = "https://dashscope-intl.aliyuncs.com"
    scorer = ServerScorer(host + path, dialect=dialect, model="qwen3-rerank")
    assert scorer.url == f"{host}/compatible-api/v1/reranks"


def test_a_server_of_your_own_at_alibaba_cloud_is_not_dashscope() -> None:
    url = "https://1.cn-shanghai.pai-eas.aliyuncs.com/api/predict/mine/v1/rerank"
    scorer = ServerScorer(url)
    assert (scorer.url, scorer.limits.documents) == (url, 128)


@pytest.mark.parametrize("host", ["http://rerank", "http://v1"])
def test_the_host_is_not_part_of_the_path(host: str) -> None:
    assert ServerScorer(host, dialect="vllm").url == f"{host}/v1/rerank"
    with pytest.raises(InvalidInputError, match="does not show which server"):
        ServerScorer(host)


@pytest.mark.parametrize("path", ["", "/v1", "/score", "/v1/chat/completions"])
def test_an_ambiguous_address_is_refused_with_the_choices(path: str) -> None:
    with pytest.raises(InvalidInputError, match=r"'vllm', .* or 'generic'"):
        ServerScorer(f"http://localhost:8000{path}")


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for name, kind in SERVERS.items() for path in kind.paths if name != "tei"],
)
def test_a_server_at_a_usual_path_needs_no_dialect(kind: type[Server], path: str) -> None:
    with kind() as server:
        values = ServerScorer(server.root + path, model=MODEL).score("q", scored([0.1, 0.7])).values
    assert values == [0.1, 0.7]


def test_the_wrong_server_is_an_error_with_a_remedy() -> None:
    with SERVERS["tei"]() as server, pytest.raises(InvalidInputError, match="dialect="):
        ServerScorer(f"{server.root}/rerank").score("q", ["a"])


def test_a_wrong_path_is_an_error_that_names_it(server: Server, name: str) -> None:
    scorer = ServerScorer(f"{server.root}/v3/rerank", dialect=name, model=MODEL)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="/v3/rerank") as failure:
        scorer.score("q", ["a"])
    assert failure.value.status == 404
    assert len(server.received) == 1


@pytest.mark.parametrize("name", ["vllm", "xinference", "dashscope"])
def test_a_model_that_is_not_served_is_an_error(server: Server, name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"model|Model"):
        scorer_of(server, name, model="another").score("q", ["a"])


# --- Failures


def test_an_error_has_the_servers_message_and_code(server: Server, name: str) -> None:
    server.faults.append(refuses(400, "Overlong", "Text 0 is too long."))
    with pytest.raises(InvalidInputError, match=r"Text 0 is too long\.") as failure:
        scorer_of(server, name).score("q", ["a"])
    assert failure.value.code == (None if name == "xinference" else "Overlong")


@pytest.mark.parametrize("name", ["dashscope"])
@pytest.mark.parametrize(
    ("code", "kind", "requests"),
    [
        ("DataInspectionFailed", ContentBlockedError, 1),
        ("Arrearage", AuthenticationError, 1),
        ("Throttling.RateQuota", RateLimitError, 2),
    ],
)
def test_dashscopes_codes_mean_the_same_at_its_compatible_endpoint(
    server: Server,
    name: str,
    code: str,
    kind: type[Exception],
    requests: int,
) -> None:
    server.faults.extend([refuses(400, code, "Refused.")] * 2)
    with pytest.raises(kind):
        scorer_of(server, name, max_retries=1, backoff=0).score("q", ["a"])
    assert len(server.received) == requests


@pytest.mark.parametrize(
    ("said", "status", "kind", "code"),
    [
        ({"error": {"message": "M.", "type": "T", "code": 400}}, 400, InvalidInputError, "T"),
        ({"error": "M.", "error_type": "Validation"}, 413, InvalidInputError, "Validation"),
        ({"error": "M.", "error_type": "Backend"}, 424, ServiceError, "Backend"),
        ({"error": "M."}, 401, AuthenticationError, None),
        ({"detail": "M."}, 403, AuthenticationError, None),
        ({"detail": [{"loc": ["body"], "msg": "M."}]}, 422, InvalidInputError, None),
        ("M.", 404, InvalidInputError, None),
    ],
)
def test_an_error_that_a_retry_cannot_fix_is_raised_immediately(
    vllm: Server, said: Any, status: int, kind: type[Exception], code: str | None
) -> None:
    text = said if isinstance(said, str) else json.dumps(said)
    vllm.faults.append(says(text, status))
    with pytest.raises(kind, match=r"M\.") as failure:
        scorer_of(vllm, "vllm").score("q", ["a"])
    assert isinstance(failure.value, QwenRerankError)
    assert (failure.value.status, failure.value.code) == (status, code)
    assert len(vllm.received) == 1


@pytest.mark.parametrize(
    "fault",
    [
        drops,
        breaks_off,
        says("<html>Bad gateway", 502, "text/html"),
        says('{"error": "Model is overloaded", "error_type": "Overloaded"}', 429),
        says('{"error": {"message": "Internal", "type": "InternalServerError", "code": 500}}', 500),
        says(
            '{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}', 503
        ),
        says('{"object": "error", "message": "Busy.", "type": "Busy", "code": 503}'),
        says('{"error": "Busy."}'),
    ],
)
def test_an_error_that_a_retry_can_fix_is_retried(vllm: Server, fault: Fault) -> None:
    vllm.faults.append(fault)
    scores = scorer_of(vllm, "vllm", backoff=0).score("q", scored([0.3]))
    assert (scores.values, scores.usage.retries) == ([0.3], 1)


def test_a_server_that_does_not_rerank_is_an_error_with_a_remedy() -> None:
    with LlamaCpp() as server:
        message = "This server does not support reranking."
        server.faults.append(refuses(501, "not_supported_error", message))
        with pytest.raises(ServiceError, match="--reranking"):
            scorer_of(server, "llama.cpp", max_retries=0).score("q", ["a"])


def test_a_batch_that_is_too_large_for_the_server_is_an_error_with_a_remedy() -> None:
    with SERVERS["tei"]() as server, pytest.raises(InvalidInputError, match="Lower batch_size"):
        scorer_of(server, "tei", batch_size=64).score("q", ["a"] * 64)


def test_what_servers_say_becomes_the_right_error_and_remedy(vllm: Server) -> None:
    scorer = scorer_of(vllm, "vllm", max_retries=0)
    for status, said, kind, remedy in SAID:
        vllm.faults.append(refuses(status, "", said))
        with pytest.raises(kind, match=re.escape(remedy)) as failure:
            scorer.score("q", ["a"])
        assert type(failure.value) is kind
        assert said.split("  ")[0] in str(failure.value)


@pytest.mark.parametrize(("status", "said"), TOO_LONG)
def test_a_text_that_is_too_long_is_not_sent_again_and_named_with_a_remedy(
    vllm: Server, score: Score, status: int, said: str
) -> None:
    vllm.faults.append(refuses(status, "BadRequestError", said))
    texts = ["short", "long " * 2_000, "short too"]
    with pytest.raises(InvalidInputError) as failure:
        score(scorer_of(vllm, "vllm"), "q", texts)
    assert said in str(failure.value)
    assert "The longest text is text 1, with 10,000 characters." in str(failure.value)
    assert re.search("PassageScorer.*--max-model-len", str(failure.value))
    assert len(vllm.received) == 1


def test_the_longest_text_is_named_by_its_index_in_the_call(vllm: Server) -> None:
    status, said = TOO_LONG[0]
    vllm.faults.append(refuses(status, "BadRequestError", said))
    texts = ["a", "bb", "ccc"]
    with pytest.raises(InvalidInputError) as failure:
        scorer_of(vllm, "vllm", batch_size=1, max_concurrency=1).score("q", texts)
    (refused,) = vllm.received[0].documents
    named = f"The longest text is text {texts.index(refused)}, with {len(refused)} characters."
    assert named in str(failure.value)


WHOLE = b'{"results": [{"index": 0, "relevance_score": 0.25}], "usage": {"total_tokens": 3}}'


def raw_response(head: str, body: bytes = WHOLE) -> Handler:
    """Responds to each request of a connection with these bytes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return handler


def test_a_whole_ranking_is_read_whatever_is_unusual_about_its_status_and_headers() -> None:
    heads = [
        "200 OK",
        "201 Created",
        "203 Non-Authoritative Information",
        "206 Partial Content",
        "103 Early Hints\r\n\r\nHTTP/1.1 200 OK",
        *(f"200 OK\r\nContent-Encoding: {name}" for name in ("gzip", "deflate", "br", "UTF-8")),
        f"200 OK\r\nSet-Cookie: a={'b' * 30_000}",
    ]
    for head in heads:
        with RawServer([raw_response(head)]) as server:
            scores = ServerScorer(f"{server.base_url}/rerank").score("q", ["a"])
        assert (scores.values, scores.usage.tokens, scores.usage.retries) == ([0.25], 3, 0), head


def test_a_response_that_repeats_long_texts_is_read(vllm: Server) -> None:
    vllm.faults.extend([says(WHOLE + b" " * (17 << 20))] * 2)
    scorer = scorer_of(vllm, "vllm")
    assert scorer.score("q", ["a" * (1 << 20)]).values == [0.25]
    with pytest.raises(BadResponseError, match="larger than 16 MiB"):
        scorer.score("q", ["a"])


@pytest.mark.parametrize(
    ("head", "body", "kind", "naming"),
    [
        ("200 OK\r\nContent-Encoding: br", b"\x8b\x02", BadResponseError, "'br'.*send gzip"),
        (f"200 OK\r\nContent-Encoding: {KEY}", b"\x8b", BadResponseError, r"'\*\*\*'"),
        (f"200 OK\r\nX-Echo: {KEY}{'b' * 70_000}", WHOLE, ServiceError, "reading: .*bbb"),
        (
            "301 Moved\r\nLocation: http://there/",
            b"<html>301",
            ServiceError,
            "to http://there/.*use",
        ),
        (f"302 Found\r\nLocation: /?key={KEY}", b"", ServiceError, r"to /\?key=\*\*\*,"),
        ("204 No Content", b"", BadResponseError, "Invalid JSON"),
    ],
    ids=["encoding", "key as encoding", "key in a header", "redirect", "key in redirect", "empty"],
)
def test_what_headers_say_is_named_without_the_key(
    head: str, body: bytes, kind: type[QwenRerankError], naming: str
) -> None:
    with RawServer([raw_response(head, body)]) as server:
        scorer = ServerScorer(f"{server.base_url}/rerank", api_key=KEY, max_retries=0)
        with pytest.raises(kind, match=naming) as failure:
            scorer.score("q", ["a"])
    error: BaseException | None = failure.value
    while error is not None:
        assert KEY not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("value", ["-1e6", "null", "NaN", "1e999"])
def test_a_score_that_is_not_a_number_is_refused(vllm: Server, value: str) -> None:
    vllm.faults.append(says(f'[{{"index": 0, "score": {value}}}]'))
    with pytest.raises(BadResponseError, match=r"0\.score: expected a"):
        scorer_of(vllm, "vllm").score("q", ["a"])


@pytest.mark.parametrize(
    ("indices", "named"),
    [
        ([0, 1], "1 missing"),
        ([0, 1, 1], "1 repeated"),
        ([0, 1, 2, 3], "not sent"),
        ([], "3 missing"),
    ],
)
def test_a_response_without_exactly_one_score_per_text_is_refused(
    vllm: Server, indices: list[int], named: str
) -> None:
    vllm.faults.append(says(json.dumps([{"index": index, "score": 0.5} for index in indices])))
    with pytest.raises(BadResponseError, match=named):
        scorer_of(vllm, "vllm").score("q", ["a", "b", "c"])


def test_a_server_that_cannot_be_reached_is_a_service_error(score: Score) -> None:
    scorer = ServerScorer("http://127.0.0.1:9/rerank", max_retries=0)
    with pytest.raises(ServiceError, match=r"Could not connect to 127\.0\.0\.1:9: "):
        score(scorer, "q", ["a"])


async def test_a_cancelled_call_closes_its_requests(vllm: Server) -> None:
    vllm.faults.append(hangs)
    task = asyncio.create_task(scorer_of(vllm, "vllm").ascore("q", ["a"]))
    assert await asyncio.to_thread(vllm.arrived.wait, 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(vllm.disconnected.wait, 25)


# --- Keys


def test_a_wrong_key_is_an_error_that_does_not_show_it(server: Server, name: str) -> None:
    server.key = "another"
    scorer = scorer_of(server, name, api_key=KEY)
    with pytest.raises(AuthenticationError) as failure:
        scorer.score("q", ["a"])
    assert KEY not in repr(scorer) + str(failure.value) + repr(failure.value)
    assert KEY.encode() not in pickle.dumps(scorer) + pickle.dumps(failure.value)


def test_a_key_in_the_servers_message_is_masked(vllm: Server) -> None:
    vllm.faults.append(says(json.dumps({"error": f"Wrong key {KEY}!"}), 401))
    with pytest.raises(AuthenticationError, match=r"Wrong key \*\*\*!"):
        scorer_of(vllm, "vllm", api_key=KEY).score("q", ["a"])


@pytest.mark.parametrize("key", ["", "sk secret", "sk-secret\n", "sk-секрет"])
def test_an_invalid_key_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(MissingKeyError) as failure:
        ServerScorer("http://localhost:9/rerank", api_key=key)
    assert "secret" not in str(failure.value)


def test_without_a_key_none_is_taken_from_the_environment(
    vllm: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_RERANK_SERVER_KEY", KEY)
    scorer = pickle.loads(pickle.dumps(scorer_of(vllm, "vllm")))
    scorer.score("q", ["a"])
    assert "Authorization" not in vllm.received[0].headers


def test_an_unpickled_scorer_never_sends_less_than_its_key(
    vllm: Server, score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = pickle.loads(pickle.dumps(scorer_of(vllm, "vllm", api_key=KEY)))
    with pytest.raises(MissingKeyError, match="QWEN_RERANK_SERVER_KEY"):
        score(loaded, "q", ["a"])
    assert vllm.received == []
    monkeypatch.setenv("QWEN_RERANK_SERVER_KEY", KEY)
    vllm.key = KEY
    assert score(loaded, "q", scored([0.3])).values == [0.3]


def test_a_key_over_plain_http_to_another_machine_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ServerScorer("http://reranker.example:8000/rerank")
    with pytest.warns(UserWarning, match="reranker.example") as warned:
        ServerScorer("http://reranker.example:8000/rerank", api_key=KEY)
    assert warned[0].filename == __file__


# --- Options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": "localhost:8000/rerank"}, "url"),
        ({"url": "http://user:word@localhost/rerank"}, "url"),
        ({"url": "http://localhost/rerank?key=word"}, "url"),
        ({"url": None}, "url"),
        ({"dialect": "vLLM"}, "got 'vLLM'. Did you mean 'vllm'"),
        ({"dialect": ["vllm"]}, "dialect must be one of"),
        ({"model": ""}, "model"),
        ({"dialect": "vllm", "instruct": " "}, "instruct"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"timeout": 0}, "timeout"),
        ({"deadline": -1}, "deadline"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_an_invalid_option_is_refused_and_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInputError, match=named) as failure:
        ServerScorer(**{"url": "http://localhost:8000/rerank", **options})
    assert "word" not in str(failure.value)


def test_the_repr_has_the_address_and_the_model() -> None:
    scorer = ServerScorer("http://localhost:8000", dialect="vllm")
    assert scorer.model == "localhost:8000"
    assert repr(scorer) == "ServerScorer('http://localhost:8000/v1/rerank', model='localhost:8000')"


def test_the_model_is_named_if_it_is_given() -> None:
    with Xinference() as server:
        scorer = scorer_of(server, "xinference")
        assert scorer.model == MODEL
        assert scorer.score("q", ["a"]).values == [0.0]

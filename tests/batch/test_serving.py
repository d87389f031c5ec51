"""A scorer behind Ray Serve, for clients of Jina's and of DashScope's protocol."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dashscope as sdk
import pytest

from qwen_rerank import (
    AuthenticationError,
    DashScopeScorer,
    EmbeddedScorer,
    InvalidInputError,
    MissingKeyError,
    RateLimitError,
    Scorer,
    Scores,
    ServerScorer,
    Usage,
)
from tests.batch.conftest import started
from tests.cli.process import environment

ray = pytest.importorskip("ray")
httpx = pytest.importorskip("httpx")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
]

KEY = "sk-first"
GZIP = {"Content-Encoding": "gzip"}
IMAGE = {"text": "A penguin.", "image": "https://example.com/penguin.png"}
QUERY, TEXTS = "What do penguins eat?", ["Cars drive.", "Penguins eat krill.", "Krill swim."]


def relevance(query: str, text: str) -> float:
    """Return the share of the query's words that are in the text."""
    words = set(query.lower().strip("?").split())
    return len(words & set(text.lower().strip(".").split())) / len(words)


class Gate(Scorer):
    """Waits for the file `wait…` if the query starts so, fails on demand, and logs each call."""

    model = "gate"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        values = [relevance(query, text) for text in texts]
        return Scores(values, Usage(tokens=10, texts_sent=len(texts)))

    async def ascore(self, query: str, texts: Sequence[str]) -> Scores:
        if "throttled" in query:
            raise RateLimitError("The service is busy.", retry_after=7)
        if "refused key" in query:
            raise AuthenticationError("The key of the scorer is wrong.")
        if "broken" in query:
            raise KeyError("a text of the user")
        with (self.folder / "calls").open("a") as file:
            file.write(f"{query}\n")
        gate = query.split()[0]
        while gate.startswith("wait") and not (self.folder / gate).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # the test that opens the gate is another process
        return self.score(query, texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """A server with two keys, one replica, and room for four calls and two that wait."""
    changed = {
        "QWEN_RERANK_SERVE_KEY": f"{KEY}, sk-second",
        "PYTHONPATH": environment()["PYTHONPATH"],
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    from ray import serve

    from qwen_rerank.batch.serving import application

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
    start = partial(ray.init, "local", log_to_driver=False, configure_logging=False, **options)
    started(start, ray.shutdown)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        app = application(lambda: Gate(folder), max_ongoing_requests=4, max_queued_requests=2)
        serve.run(app, name="gate")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def post(server: str, body: Any, path: str = "/v1/rerank", key: str = KEY) -> Any:
    return httpx.post(
        f"{server}{path}", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60
    )


def expected() -> list[float]:
    return [relevance(QUERY, text) for text in TEXTS]


def test_our_server_scorer_gets_the_scores_of_the_bare_scorer(server: str) -> None:
    scorer = ServerScorer(f"{server}/v1/rerank", api_key="sk-second", timeout=60)
    scores = scorer.score(QUERY, TEXTS)
    assert scores.values == pytest.approx(expected())
    assert scores.usage.tokens == 10
    native = DashScopeScorer(api_key=KEY, base_url=f"{server}/api/v1", timeout=60)
    assert native.score(QUERY, TEXTS).values == pytest.approx(expected())


def test_dashscopes_sdk_can_be_pointed_at_it(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk, "base_http_api_url", f"{server}/api/v1")
    response = sdk.TextReRank.call(
        model="qwen3-rerank", query=QUERY, documents=TEXTS, top_n=2, return_documents=True,
        api_key=KEY,
    )  # fmt: skip
    assert response.status_code == 200
    found = [(each["index"], each["document"]["text"]) for each in response.output.results]
    order = sorted(range(3), key=lambda index: -expected()[index])[:2]
    assert found == [(index, TEXTS[index]) for index in order]
    assert response.usage.total_tokens == 10
    refused = sdk.TextReRank.call(
        model="qwen3-rerank", query=QUERY, documents=TEXTS, api_key="sk-wrong"
    )
    assert (refused.status_code, refused.code) == (401, "InvalidApiKey")


def test_results_have_the_form_that_jinas_and_coheres_clients_read(server: str) -> None:
    documents = [*TEXTS[:2], {"text": TEXTS[2]}, " "]
    body = {"model": "any", "query": QUERY, "documents": documents, "return_documents": True}
    paths = (
        "/v1/rerank", "/v2/rerank", "/rerank", "/v1//rerank/", "/reranks", "/v1/reranks",
        "/compatible-api/v1/reranks",
    )  # fmt: skip
    for path in paths:
        answer = post(server, body, path).json()
        assert {"id", "model", "results", "usage"} <= answer.keys()
        assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert {each["index"] for each in answer["results"]} == {0, 1, 2, 3}
        assert answer["results"][0]["document"] == {"text": "Penguins eat krill."}
        assert answer["results"][-1] | {"document": 0} == {
            "index": 3, "relevance_score": 0.0, "document": 0,
        }  # fmt: skip


@pytest.mark.parametrize(
    "sent",
    [
        {"top_n": 2, "return_documents": None, "max_chunks_per_doc": None, "kwargs": "{}"},
        {"top_n": "2", "return_documents": "true", "return_len": "true", "model": None},
        {"top_n": 2.0, "query": {"text": QUERY}, "instruct": "", "rank_fields": ["text"]},
    ],
    ids=["xinference", "ragflow", "jina-m0"],
)
def test_what_clients_fill_in_for_unset_options_is_accepted(
    server: str, sent: dict[str, Any]
) -> None:
    answer = post(server, {"query": QUERY, "documents": TEXTS, **sent})
    assert answer.status_code == 200, answer.text
    found = answer.json()["results"]
    assert [each["index"] for each in found] == [1, 0]
    assert {"document" in each for each in found} == {sent.get("return_documents") == "true"}


def test_half_of_a_surrogate_pair_is_replaced(server: str) -> None:
    body = rb'{"query": "eat \ud800", "documents": ["eat \udfff"], "return_documents": true}'
    headers = {"Authorization": f"bearer {KEY}", "Content-Type": "application/json"}
    answer = httpx.post(f"{server}/v1/rerank", content=body, headers=headers, timeout=60)
    assert answer.json()["results"][0]["document"] == {"text": "eat \ufffd"}


def test_a_wrong_or_missing_key_is_a_401_and_health_needs_none(server: str) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    for key in ("sk-wrong", "sk", f"{KEY}x"):
        refused = post(server, body, key=key)
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "InvalidApiKey"
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    with pytest.raises(AuthenticationError):
        ServerScorer(f"{server}/v1/rerank", api_key="sk-wrong", timeout=60).score(QUERY, TEXTS)
    unread = httpx.post(f"{server}/v1/rerank", content=b"{", timeout=60)
    assert unread.status_code == 401
    assert httpx.get(f"{server}/health", timeout=60).json() == {"status": "ok"}
    assert httpx.head(f"{server}/ready", timeout=60).status_code == 200
    assert httpx.get(f"{server}/ready", timeout=60).json()["status"] == "ready"
    assert httpx.get(f"{server}/v1/models", timeout=60).status_code == 401


def test_errors_have_a_status_a_code_and_a_message(server: str) -> None:
    for body, status, code, message in (
        ({"query": QUERY}, 400, "InvalidParameter", "documents"),
        ({"query": QUERY, "documents": []}, 400, "InvalidParameter", "documents"),
        ({"query": " ", "documents": TEXTS}, 400, "InvalidParameter", "query is blank"),
        ({"query": QUERY, "documents": TEXTS, "top_n": 0}, 400, "InvalidParameter", "top_n"),
        ({"query": QUERY, "documents": TEXTS, "instruct": "x"}, 400, "InvalidParameter", "choose"),
        ({"query": QUERY, "documents": [None]}, 400, "InvalidParameter", "documents.0"),
        ({"query": QUERY, "documents": [IMAGE]}, 400, "InvalidParameter", "Images"),
        ([QUERY], 400, "InvalidParameter", "JSON object"),
        ({"query": "throttled", "documents": TEXTS}, 429, "Throttling", "busy"),
        ({"query": "refused key", "documents": TEXTS}, 502, "ScorerFailed", "is wrong"),
        ({"query": "broken", "documents": TEXTS}, 500, "InternalError", "failed with KeyError."),
    ):
        answer = post(server, body)
        assert answer.status_code == status, answer.text
        error = answer.json()
        assert error["code"] == error["error"]["type"] == code
        assert message in error["message"]
        assert error["message"] == error["detail"] == error["error"]["message"]
        assert "a text of the user" not in answer.text
        assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)


def test_requests_that_no_endpoint_can_read_get_errors_of_the_same_form(server: str) -> None:
    body = json.dumps({"query": QUERY, "documents": TEXTS}).encode()
    as_json = {"Content-Type": "application/json"}
    for method, path, content, headers, status, message in (
        ("POST", "/v1/rank", body, as_json, 404, "/v1/rerank"),
        ("GET", "/v1/rerank", None, {}, 405, "GET"),
        ("POST", "/v1/rerank", body, {"Content-Type": "text/plain"}, 415, "got text/plain"),
        ("POST", "/v1/rerank", body, {}, 415, "Content-Type: application/json; got none"),
        ("POST", "/v1/rerank", gzip.compress(body), {**as_json, **GZIP}, 415, "uncompressed"),
        ("POST", "/v1/rerank", body[:-1], as_json, 400, "Expecting ',' delimiter at character"),
        ("POST", "/v1/rerank", "é".encode("latin-1"), as_json, 400, "UTF-8"),
        ("POST", "/v1/rerank", b"", as_json, 400, "JSON object"),
    ):
        sent = {**headers, "Authorization": f"Bearer {KEY}"}
        answer = httpx.request(method, f"{server}{path}", content=content, headers=sent, timeout=60)
        assert answer.status_code == status, answer.text
        error = answer.json()
        assert message in error["message"] == error["detail"]
        assert {"code", "request_id", "error"} <= error.keys()


def test_a_scorer_gets_all_requests_at_once_so_that_it_can_batch_them(
    server: str, folder: Path
) -> None:
    (folder / "calls").touch()
    queries = [f"wait-for-all penguins {number}" for number in range(4)]
    scorer = ServerScorer(f"{server}/v1/rerank", api_key=KEY, timeout=60)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(scorer.score, query, TEXTS) for query in queries]
        while not {*queries} <= {*(folder / "calls").read_text().splitlines()}:
            assert not any(each.done() for each in waiting)
        (folder / "wait-for-all").touch()
        found = [each.result().values for each in waiting]
    for query, values in zip(queries, found, strict=True):
        assert values == pytest.approx([relevance(query, text) for text in TEXTS])


def test_a_full_queue_is_a_429_with_retry_after(server: str, folder: Path) -> None:
    body = {"documents": TEXTS}
    with ThreadPoolExecutor(12) as pool:
        answers = [
            pool.submit(post, server, {**body, "query": f"wait-long {number}"})
            for number in range(12)
        ]
        refused: list[Any] = []
        while not refused:
            done = [answer.result() for answer in answers if answer.done()]
            refused = [answer for answer in done if answer.status_code == 429]
        (folder / "wait-long").touch()
        found = [answer.result() for answer in answers]
    assert {answer.status_code for answer in found} == {200, 429}
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    assert sum(answer.status_code == 200 for answer in found) >= 4


def test_invalid_options_are_named() -> None:
    from qwen_rerank.batch.serving import application

    for options, message in (
        ({"max_queued_requests": 0}, "max_queued_requests"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas must be .* at least 3, got 2"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_cpus": float("nan")}, "num_cpus"),
        ({"scorer": EmbeddedScorer()}, "scorer must be a class or a function"),
    ):
        arguments: dict[str, Any] = {"scorer": EmbeddedScorer, **options}
        with pytest.raises(InvalidInputError, match=message):
            application(**arguments)


@pytest.mark.parametrize("listed", ["", " , ", "sk one", "sk-schlüssel"])
def test_a_variable_that_holds_no_key_never_opens_the_server(
    listed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwen_rerank.batch.serving import application

    monkeypatch.setenv("QWEN_RERANK_SERVE_KEY", listed)
    with pytest.raises(MissingKeyError, match="QWEN_RERANK_SERVE_KEY"):
        application(EmbeddedScorer)


@pytest.mark.parametrize("best", [0.1, 0.0, -2.0])
def test_clients_without_tiers_get_the_order_of_a_cascade_and_blank_texts_last(best: float) -> None:
    from qwen_rerank.batch.serving import _ranked

    scores = Scores([0.9, best, 0.8, best + 0.5], tiers=[1, 0, 1, 0])
    ranked = _ranked(scores, [0, 1, 2, 4], 6)
    assert [index for index, _ in ranked] == [4, 1, 0, 2, 3, 5]
    values = [value for _, value in ranked]
    assert values[:2] == [best + 0.5, best]
    assert values[:4] == sorted({*values[:4]}, reverse=True)
    assert values[4] == values[5] <= min(values[:4])


def test_tie_breakers_rank_equal_scores() -> None:
    from qwen_rerank.batch.serving import _ranked

    scores = Scores([1.0, 1.0, 0.5], tie_breakers=[38.0, 45.0, 0.0])
    assert _ranked(scores, range(3), 3) == [(1, 1.0), (0, 1.0), (2, 0.5)]

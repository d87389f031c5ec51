"""Gateways: headers, proxies and certificates of a scorer's own."""

from __future__ import annotations

import asyncio
import pickle
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import langchain_core.load
import pytest
import trustme

import llamaindex_qwen_rerank
from langchain_qwen_rerank import QwenRerank
from qwen_rerank import (
    DashScopeScorer,
    InvalidInputError,
    QwenReRanker,
    QwenRerankError,
    ServerScorer,
)
from qwen_rerank.errors import ServiceError
from qwen_rerank.testing.faults import refuses, says
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.clients import CLIENTS, PLUGINS, arank, rank
from tests.support.servers import VLLM
from tests.support.transport import ConnectProxy, TLSFront

SECRET = "gw-0123456789"
HEADERS = {"X-Gateway-Token": SECRET, "user-agent": "mine/1.0"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """A file with the authority."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def front(dashscope: LoopbackDashScope, authority: trustme.CA) -> Iterator[TLSFront]:
    """TLS in front of the service, with a certificate that nobody trusts by default."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "api.example").configure_cert(context)
    with TLSFront(dashscope, context) as running:
        yield running


def locals_of(error: BaseException) -> str:
    """The local variables of the frames that an error passed, except this test's."""
    shown, traceback = "", error.__traceback__
    while traceback := traceback and traceback.tb_next:
        shown += repr({**traceback.tb_frame.f_locals, "self": None})
    return shown


# --- Headers


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_headers_are_sent_and_shown_nowhere(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    client = make(headers=HEADERS, max_retries=0)
    assert rank(client, ["score=0.5"]) == [("score=0.5", 0.5)]
    sent = dashscope.received[0].headers
    assert (sent["X-Gateway-Token"], sent.getall("User-Agent")) == (SECRET, ["mine/1.0"])  # type: ignore[attr-defined]
    assert sent["Authorization"] == f"Bearer {KEY}"
    dashscope.faults.append(says(f'{{"code": "X", "message": "token {SECRET}"}}', 400))
    with pytest.raises(QwenRerankError, match=r"token \*\*\*"):
        rank(client, ["a"])
    dashscope.faults.append(refuses(500, "InternalError"))
    with pytest.raises(ServiceError) as failure:
        rank(client, ["a"])
    shown = [repr(client), repr(pickle.dumps(client)), langchain_core.load.dumps(client)]
    if hasattr(client, "model_dump_json"):
        shown += [repr(client.model_dump()), client.model_dump_json()]
    assert SECRET not in "".join(shown) + locals_of(failure.value)


@pytest.mark.parametrize("make", PLUGINS.values(), ids=PLUGINS)
def test_secrets_that_were_not_saved_are_asked_for_again(
    dashscope: LoopbackDashScope, make: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidInputError, match=r"X-Gateway-Token is missing.*Pass headers="):
        rank(pickle.loads(pickle.dumps(make(headers=HEADERS))), ["a"])
    with pytest.raises(InvalidInputError, match=r"user and password is missing.*Pass proxy="):
        rank(pickle.loads(pickle.dumps(make(proxy="http://me:mine@127.0.0.1:9"))), ["a"])
    client = make(headers=HEADERS, proxy="http://me:mine@127.0.0.1:9")
    if hasattr(client, "model_dump"):
        dumped = client.model_dump()
        assert dumped["proxy"] == "http://***@127.0.0.1:9"
        with pytest.raises(InvalidInputError, match="is missing"):
            type(client)(**dumped)
    assert dashscope.received == []


def test_a_servers_headers_can_hold_its_authorization() -> None:
    with VLLM() as server:
        scorer = ServerScorer(server.root, dialect="vllm", headers={"Authorization": "Basic bWU="})
        scorer.score("q", ["a"])
        assert server.received[0].headers["Authorization"] == "Basic bWU="
        with pytest.raises(InvalidInputError, match="api_key="):
            ServerScorer(server.root, dialect="vllm", api_key="k", headers={"authorization": "x"})


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"headers": {"X-A": "secret\r\nX-B: 1"}}, "'X-A' is empty, or has a line break"),
    ({"headers": {"X-A": ""}}, "'X-A' is empty"),
    ({"headers": {"X A": "1"}}, "'X A' cannot be the name"),
    ({"headers": {"X-A": "1", "x-a": "2"}}, "'x-a' is there twice"),
    ({"headers": {"authorization": "Bearer secret"}}, "Use api_key= instead"),
    ({"headers": {"Content-Type": "text/plain"}}, "'Content-Type', which is set for every"),
    ({"headers": {"Proxy-Authorization": "Basic secret"}}, "password in proxy= instead"),
    ({"proxy": "socks5://me:secret@p:1"}, "SOCKS is not supported"),
    ({"proxy": "p:3128"}, "http://host:port"),
    ({"proxy": "http://me:se/cret@p:1"}, "Percent-encode"),
    ({"proxy": ""}, "http://host:port"),
    ({"ca_bundle": "missing.pem"}, "ca_bundle='missing.pem': No such file"),
    ({"ca_bundle": __file__}, "Could not read certificates"),
    ({"ca_bundle": ""}, "path of a file or a folder"),
    ({"ssl_context": "no"}, r"ssl\.SSLContext, got str"),
    ({"ssl_context": ssl.create_default_context(), "ca_bundle": "a"}, "exclude each other"),
]


def test_what_cannot_be_used_is_refused_at_construction_and_not_quoted() -> None:
    for options, naming in INVALID:
        for make in (DashScopeScorer, QwenRerank):
            with pytest.raises(InvalidInputError, match=naming) as failure:
                make(api_key=KEY, **options)
            assert "secret" not in str(failure.value) + locals_of(failure.value)
            assert KEY not in locals_of(failure.value)


@pytest.mark.parametrize(
    "make",
    [
        partial(ServerScorer, "https://a/rerank"),
        partial(QwenReRanker, "q"),
        DashScopeScorer,
        QwenRerank,
        llamaindex_qwen_rerank.QwenRerank,
    ],
)
def test_secrets_in_a_wrong_container_show_nowhere(make: Callable[..., Any]) -> None:
    wrong: list[dict[str, Any]] = [
        {"headers": [("X-Gateway-Token", SECRET)]},
        {"headers": f"X-Gateway-Token: {SECRET}"},
        {"headers": {"X-Gateway-Token": [SECRET]}},
        {"proxy": [f"http://me:{SECRET}@p:1"]},
        {"proxy": f"http://me:{SECRET}@p:1".encode()},
        {"api_key": SECRET.encode()},
        {"rates_store": f"redis://:{SECRET}@r:1".encode(), "requests_per_minute": 1},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"headers|proxy|(?i:api.key)|rates_store") as failure:
            make(**{"api_key": KEY, **options})
        assert SECRET not in f"{failure.value}{failure.value!r}{locals_of(failure.value)}"


# --- Certificates


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_a_private_authority_is_trusted_by_those_who_name_it_only(
    front: TLSFront, bundle: Path, authority: trustme.CA, make: Callable[..., Any]
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = {"base_url": front.base_url, "max_retries": 0}
    trusting = [make(ca_bundle=bundle, **options), make(ssl_context=context, **options)]
    other = make(**options)
    for client in trusting:
        assert rank(client, ["score=0.5"]) == [("score=0.5", 0.5)]
        with pytest.raises(ServiceError, match=r"(?i)certificate.verify.failed"):
            asyncio.run(arank(other, ["score=0.5"]))
    assert rank(pickle.loads(pickle.dumps(trusting[0])), ["score=0.5"]) == [("score=0.5", 0.5)]
    with pytest.raises(InvalidInputError, match="ca_bundle="):
        pickle.dumps(trusting[1])


# --- Proxies


def test_a_proxy_of_its_own_is_used_also_for_this_machine(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    proxy = f"http://me:m%21ne@127.0.0.1:{dashscope.port}"
    DashScopeScorer(base_url="http://localhost:9/api/v1", proxy=proxy).score("q", ["a"])
    (request,) = dashscope.received
    assert request.headers["Host"] == "localhost:9"
    assert request.headers["Proxy-Authorization"] == "Basic bWU6bSFuZQ=="


def test_two_scorers_with_two_proxies_do_not_share_a_tunnel(
    dashscope: LoopbackDashScope, front: TLSFront, bundle: Path
) -> None:
    with ConnectProxy(front.port) as first, ConnectProxy(front.port) as second:
        for user, proxy in (("a", first), ("b", first), ("c", second), ("a", first)):
            DashScopeScorer(
                base_url="https://api.example/api/v1",
                proxy=f"http://{user}:pw@127.0.0.1:{proxy.port}",
                ca_bundle=bundle,
                max_retries=0,
            ).score("q", ["a"])
    assert (len(first.requests), len(second.requests)) == (2, 1)
    assert dashscope.connections == 3
    assert not any("Proxy-Authorization" in request.headers for request in dashscope.received)

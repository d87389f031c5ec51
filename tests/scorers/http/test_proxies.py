"""Proxies: which one a request goes through, and what reaches it."""

from __future__ import annotations

import logging
import os
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
import trustme

from qwen_rerank import InvalidInputError
from qwen_rerank.scorers.http.proxies import proxy_for
from qwen_rerank.testing.loopback import KEY, LoopbackDashScope
from tests.support.interpreter import python
from tests.support.transport import ConnectProxy, TLSFront

ME = f"Basic {b64encode(b'me:m!ne').decode()}"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def found(url: str) -> str | None:
    """The proxy for the URL of a service, without its password."""
    scheme, _, host = url.partition("://")
    proxy = proxy_for(scheme, host, 443 if scheme == "https" else 80)
    return None if proxy is None else str(proxy)


def test_without_variables_there_is_no_proxy() -> None:
    assert found("https://api.example") is None


@pytest.mark.parametrize(
    ("variables", "https", "http"),
    [
        ({"https_proxy": "http://p:1"}, "http://p:1", None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1", None),
        ({"http_proxy": "http://p:1"}, None, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None, None),
        ({"all_proxy": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "http://q:2", "http://p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "http://p:1", None),
        ({"https_proxy": "", "HTTPS_PROXY": "http://q:2"}, "http://q:2", None),
        ({"https_proxy": "p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p"}, "http://p:80", None),
        ({"https_proxy": "https://p"}, "https://p:443", None),
        ({"https_proxy": "http://[2001:db8::1]:3"}, "http://[2001:db8::1]:3", None),
    ],
)
def test_the_environment_names_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], https: str | None, http: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (found("https://api.example"), found("http://api.example")) == (https, http)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.1.2.3", "::1", "0.0.0.0"])
def test_this_machine_is_reached_directly(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    assert found(f"http://{host}") is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_direct"),
    [
        ("api.example", "api.example", True),
        ("API.Example", "api.example", True),
        ("example", "api.example", True),
        (".example", "api.example", True),
        ("*.example", "api.example", True),
        ("pi.example", "api.example", False),
        ("other.example", "api.example", False),
        ("other.example, api.example", "api.example", True),
        ("other.example api.example", "api.example", True),
        ("*", "api.example", True),
        ("api.example:443", "api.example", True),
        ("api.example:8443", "api.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("10.0.0.0/8", "api.example", False),
        ("", "api.example", False),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_no_proxy_excludes_hosts_domains_and_ranges(
    monkeypatch: pytest.MonkeyPatch, variable: str, no_proxy: str, host: str, is_direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv(variable, no_proxy)
    assert (found(f"https://{host}") is None) is is_direct


def test_a_proxy_that_is_set_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("https://api.example") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    assert found("https://api.example") == "http://p:1"


def test_a_socks_proxy_is_ignored_and_said_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://me:mine@p:1")
    with caplog.at_level(logging.WARNING):
        assert found("https://socks.example") is None
        assert found("https://socks.example") is None
    assert caplog.messages == [
        "SOCKS proxies are not supported: connecting to socks.example directly."
    ]


@pytest.mark.parametrize(
    "address",
    [
        "http://me:mi#ne@p:1",
        "http://me:mi/ne@p:1",
        "http://me:mine@p:port",
        "http://me:mine@",
        "http://me:mine@[p",
        "ftp://me:mine@p",
    ],
)
def test_an_invalid_address_is_refused_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(InvalidInputError, match="https_proxy") as failure:
        found("https://api.example")
    assert "ne" not in str(failure.value).replace("environment", "")
    assert failure.value.__cause__ is failure.value.__context__ is None


# --- What reaches a proxy

SCORES = (
    "import qwen_rerank\n"
    "scorer = qwen_rerank.DashScopeScorer(max_retries=0)\n"
    "print(scorer.score('q', ['score=0.5']).values)\n"
)


def test_a_request_to_a_plain_address_goes_through_the_proxy(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "http://api.example/api/v1")
    monkeypatch.setenv("HTTP_PROXY", f"http://me:m%21ne@127.0.0.1:{dashscope.port}")
    out, _ = python(SCORES, "-W", "ignore")  # of a key without encryption
    assert out == "[0.5]\n"
    (request,) = dashscope.received
    assert request.headers["Host"] == "api.example"
    assert request.headers["Proxy-Authorization"] == ME
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def test_a_request_to_a_safe_address_goes_through_a_tunnel(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example").configure_cert(context)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://api.example/api/v1")
    with TLSFront(dashscope, context) as front, ConnectProxy(front.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:m%21ne@127.0.0.1:{proxy.port}")
        assert python(SCORES) == ("[0.5]\n", "")
    (connect,) = proxy.requests
    assert connect.startswith("CONNECT api.example:443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: {ME}\r\n" in connect
    assert KEY not in connect
    assert "Proxy-Authorization" not in dashscope.received[0].headers

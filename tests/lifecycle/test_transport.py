"""The key is sent only to its service: TLS, redirects, unencrypted addresses."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from qwen_rerank import ServiceError
from qwen_rerank.testing.loopback import KEY, PATH, LoopbackDashScope
from tests.support.clients import CLIENTS, Ranked, arank, rank
from tests.support.interpreter import python
from tests.support.transport import TLSFront, redirects_by

RankBy = Callable[[Any, list[str]], Ranked]


@pytest.fixture(params=["sync", "async"])
def rank_by(request: pytest.FixtureRequest) -> RankBy:
    """Both ways to call a client."""
    if request.param == "sync":
        return rank
    return lambda client, texts: asyncio.run(arank(client, texts))


# --- Certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that is not trusted by default."""
    return trustme.CA()


@contextmanager
def https(server: LoopbackDashScope, certificate: trustme.LeafCert) -> Iterator[TLSFront]:
    """Put TLS with this certificate in front of the service."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    with TLSFront(server, context) as front:
        yield front


@pytest.mark.parametrize("make", CLIENTS.values(), ids=CLIENTS)
def test_an_untrusted_certificate_is_an_error_and_nothing_is_sent(
    dashscope: LoopbackDashScope, authority: trustme.CA, make: Callable[..., Any], rank_by: RankBy
) -> None:
    with https(dashscope, authority.issue_cert("127.0.0.1")) as front:
        client = make(base_url=front.base_url, max_retries=0)
        with pytest.raises(ServiceError, match=r"(?i)certificate.verify.failed") as failure:
            rank_by(client, ["a"])
    assert KEY not in str(failure.value)
    assert (front.carried, dashscope.received) == (0, [])


def year(offset: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=365 * offset)


# Authorities are read once per process, so this needs another interpreter.
RANKS = (
    "import os, qwen_rerank\n"
    "scorer = qwen_rerank.DashScopeScorer(base_url=os.environ['FRONT'], max_retries=0)\n"
    "try: print(scorer.score('q', ['score=0.5']).values)\n"
    "except qwen_rerank.ServiceError as error: print(error)\n"
)


@pytest.mark.parametrize(
    ("host", "expires", "said"),
    [
        ("127.0.0.1", year(1), "[0.5]"),
        ("127.0.0.1", year(-1), "certificate has expired"),
        ("elsewhere.example", year(1), "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_must_be_valid_for_the_host_and_the_date(
    dashscope: LoopbackDashScope,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str,
    expires: datetime,
    said: str,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    certificate = authority.issue_cert(host, not_before=year(-2), not_after=expires)
    with https(dashscope, certificate) as front:
        monkeypatch.setenv("FRONT", front.base_url)
        out, err = python(RANKS)
    assert said in out, err
    assert len(dashscope.received) == (said == "[0.5]")


# --- Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])  # another name, and another port
def test_a_redirect_to_another_host_is_an_error_and_nothing_is_sent_there(
    dashscope: LoopbackDashScope, rank_by: RankBy, host: str, status: int
) -> None:
    with LoopbackDashScope() as elsewhere:
        location = f"http://{host}:{elsewhere.port}{PATH}"
        dashscope.faults.append(redirects_by(status, location))
        with pytest.raises(ServiceError) as failure:
            rank_by(CLIENTS["DashScopeScorer"](), ["a"])
    assert failure.value.status == status
    assert (len(dashscope.received), elsewhere.received) == (1, [])


# --- Unencrypted addresses


def warned(base_urls: list[str]) -> list[str]:
    """The warnings of all clients that are created for these addresses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for base_url in base_urls:
            for make in CLIENTS.values():
                make(api_key=KEY, base_url=base_url)
    assert {warning.category for warning in caught} <= {UserWarning}
    return [str(warning.message) for warning in caught]


def test_an_unencrypted_address_warns_once_per_host_and_says_what_to_do() -> None:
    # Once per process: no other test may use these hosts.
    urls = [f"http://plain-{name}.example{port}/api/v1" for name in "ab" for port in ("", ":8080")]
    first, second = warned(urls)
    assert "plain-a.example" in first
    assert "plain-b.example" in second
    assert "https" in first
    assert KEY not in first + second
    assert warned(urls) == []


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://LOCALHOST:8080",
        "http://[::1]:8080",
        "https://proxy.example",
    ],
)
def test_loopback_and_encrypted_addresses_do_not_warn(address: str) -> None:
    assert warned([f"{address}/api/v1"]) == []


# --- Proxies


def test_a_netrc_is_not_read(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    code = "import qwen_rerank; qwen_rerank.DashScopeScorer().score('q', ['a'])"
    assert python(code) == ("", "")
    assert dashscope.received[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_proxys_password_is_in_no_error(
    dashscope: LoopbackDashScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:mine@127.0.0.1:{dashscope.port}")
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://api.example/api/v1")
    out, _ = python(
        "from qwen_rerank import DashScopeScorer, ServiceError\n"
        "try:\n"
        "    DashScopeScorer(max_retries=0).score('q', ['a'])\n"
        "except ServiceError as error:\n"
        "    print(repr(error), repr(error.__cause__), repr(error.__context__))"
    )
    assert "the proxy responded with status" in out
    assert b64encode(b"me:mine").decode() not in out

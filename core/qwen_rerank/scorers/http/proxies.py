"""Which proxy a request goes through, by the usual environment variables."""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.handover import log
from qwen_rerank.options import NOT_SAVED
from qwen_rerank.scorers.http.addresses import is_loopback

__all__ = ["Proxy", "parsed_proxy", "proxy_for"]

_log = logging.getLogger(__name__)

_VARIABLES = {
    "http": ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
"""For each scheme, the variables that name its proxy, in order of preference."""

_NO_PROXY = ("no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        scheme: `"http"`, or `"https"` if the connection to the proxy itself is encrypted.
        host: The proxy's host.
        port: The proxy's port.
        authorization: The value of the Proxy-Authorization header, if the proxy has a user.
    """

    scheme: str
    host: str
    port: int
    authorization: SecretStr | None = None

    @property
    def headers(self) -> Mapping[str, SecretStr]:
        """The headers for the proxy itself."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}

    def without_secrets(self) -> Proxy:
        """The proxy, with a mark in the place of its user and password."""
        return replace(self, authorization=self.authorization and SecretStr(NOT_SAVED))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """Return the proxy for a server, or None to connect to it directly.

    Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` from the environment at every
    call, in lower or upper case. If there are none, the settings of Windows or macOS apply. This
    machine is always reached directly.

    Raises:
        InvalidInputError: The proxy's address is invalid. It is not quoted, as it can hold a
            password.
    """
    if is_loopback(host):
        return None
    proxy = _find_proxy(scheme, host, port, _address(scheme), _first_set(_NO_PROXY))
    if proxy == _INVALID:
        raise InvalidInputError(
            f"The address of the {scheme} proxy is invalid.",
            remedy=f"Check the environment variables {scheme}_proxy and all_proxy. Percent-encode "
            "special characters in the proxy's password.",
        )
    return proxy


def parsed_proxy(address: SecretStr | str) -> Proxy:
    """Return the proxy at an address such as `http://user:password@host:port`.

    Raises:
        InvalidInputError: The address is not that of an HTTP proxy. It is not quoted, as it can
            hold a password.
    """
    proxy = _parsed_or_none(address)
    if proxy is None:
        raise InvalidInputError(
            "proxy must be the address of an HTTP proxy: http://host:port or https://host:port, "
            "with user:password@ before the host if it needs them.",
            remedy="Percent-encode special characters in the password. SOCKS is not supported.",
        )
    return proxy


def _parsed_or_none(address: SecretStr | str) -> Proxy | None:
    """Return the proxy, or None: an error raised here would show the address."""
    plain = address.get_secret_value() if isinstance(address, SecretStr) else address
    try:
        parts = urlsplit(plain)
        is_plain = parts.path in ("", "/") and not parts.query and not parts.fragment
        return _proxy_of(parts) if is_plain else None
    except (ValueError, AttributeError, TypeError):
        return None


def _address(scheme: str) -> str:
    names: tuple[str, ...] = _VARIABLES[scheme]
    if "REQUEST_METHOD" in os.environ:  # under CGI, HTTP_PROXY is a header that anybody can send
        names = tuple(name for name in names if name != "HTTP_PROXY")
    return _first_set(names)


def _first_set(names: Sequence[str]) -> str:
    return next(filter(None, map(os.environ.get, names)), "")


_INVALID: Final = "invalid"


@lru_cache
def _find_proxy(
    scheme: str, host: str, port: int, address: str, no_proxy: str
) -> Proxy | Literal["invalid"] | None:
    """Return the proxy, or "invalid": an error raised here would show the address."""
    if not address and not proxy_bypass(host):
        address = getproxies().get(scheme, "")
    if not address or _is_excluded(host, port, no_proxy):
        return None
    try:
        return _parse_proxy(address, host)
    except ValueError:
        return _INVALID


def _parse_proxy(address: str, host: str) -> Proxy | None:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme.startswith("socks"):
        message = "SOCKS proxies are not supported: connecting to %s directly."
        log(_log, logging.WARNING, message, host)
        return None
    return _proxy_of(parts)


def _proxy_of(parts: SplitResult) -> Proxy:
    """Return the proxy at an address; ValueError if it is not one."""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        is_mark = parts.username == NOT_SAVED
        encoded = f"Basic {b64encode(user.encode()).decode()}"
        authorization = SecretStr(NOT_SAVED if is_mark else encoded)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Proxy(parts.scheme, parts.hostname, port, authorization)


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Whether `no_proxy` names the host: itself, a domain it is in, or a range of addresses."""
    entries = no_proxy.lower().replace(",", " ").split()
    return any(_is_named_by(entry, host, port) for entry in entries)


def _is_named_by(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    name, _, own_port = entry.partition(":")
    domain = name.removeprefix("*").lstrip(".")
    fits = host == domain or host.endswith(f".{domain}")
    return fits and own_port in ("", str(port))

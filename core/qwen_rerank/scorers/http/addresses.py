"""Addresses of services: what can be one, and when sending a key there is unsafe."""

from __future__ import annotations

import warnings
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from qwen_rerank.errors import InvalidInputError

__all__ = ["checked_url", "warn_if_unencrypted"]


def checked_url(name: str, url: str, *, example: str) -> str:
    """The address without white space around it and slashes behind it.

    Args:
        name: What the argument is called in messages.
        url: The address.
        example: An address that can be used, for messages.

    Raises:
        InvalidInputError: It is not one, or holds more than one: the address is then not quoted, as
            what does not belong in it may be a key or a password.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        usable = parts.scheme in ("http", "https") and host and parts.port != 0
    except (ValueError, AttributeError):
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment or "{" in url:
        raise InvalidInputError(
            f"{name} must be an http or https address, with no user, query, fragment or braces.",
            remedy=f"Pass for example {example!r}.",
        )
    return url.strip().rstrip("/")


def warn_if_unencrypted(url: str, *, stacklevel: int) -> None:
    """Warn, once a host and process, where a key would go unencrypted to another machine.

    Args:
        url: A checked address.
        stacklevel: As in `warnings.warn`: 2 is who calls this.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not _is_this_machine(str(parts.hostname)):
        _warn_unencrypted(str(parts.hostname), stacklevel + 1)


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _warn_unencrypted(host: str, stacklevel: int) -> None:
    warnings.warn(
        f"Requests to {host} go over plain http: whoever carries them can read the key and the "
        "texts. Use an https address.",
        stacklevel=stacklevel,
    )

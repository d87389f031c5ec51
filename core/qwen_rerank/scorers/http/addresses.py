"""Addresses of services: which can be used, and when sending a key there is unsafe."""

from __future__ import annotations

import re
import warnings
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.http.environment import environment_setting

__all__ = [
    "checked_url",
    "dashscope_region",
    "dashscope_url",
    "dashscope_workspace",
    "is_dashscope",
    "is_loopback",
    "warn_if_unencrypted",
]

_GATEWAYS = {
    "cn-beijing": "https://dashscope.aliyuncs.com/api/v1",
    "ap-southeast-1": "https://dashscope-intl.aliyuncs.com/api/v1",
}
"""The addresses that all workspaces share, by region."""

_WORKSPACE_HOST = re.compile(r"[^.]+\.([^.]+)\.maas\.aliyuncs\.com")
"""The hosts of workspaces, whose names include the region."""

_GATEWAY_HOST = re.compile(r"(.+\.)?dashscope(-[a-z]+)?\.aliyuncs\.com")
"""The hosts that workspaces share, also in private networks. Others are for users' own servers."""

_ENDPOINT = re.compile(r"/services/rerank(/text-rerank){0,2}$|(?<=/api/v1)/services(/.*)?$")
"""What follows the API's address in the address of one of its endpoints."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
"""A label of a host name: nothing that could lead to another host."""


def checked_url(name: str, url: str, *, example: str) -> str:
    """Return the address without surrounding white space and trailing slashes.

    Args:
        name: The argument's name in messages.
        url: The address.
        example: A valid address, for messages.

    Raises:
        InvalidInputError: The address cannot be used, or has parts that it must not have. It is not
            quoted, because these may be a key or a password.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        is_usable = parts.scheme in ("http", "https") and host and parts.port != 0
    except (ValueError, AttributeError):
        is_usable = False
    if not is_usable or "@" in parts.netloc or parts.query or parts.fragment or "{" in url:
        raise InvalidInputError(
            f"{name} must be an http or https address without user, query, fragment or braces.",
            remedy=f"Pass, for example, {example!r}.",
        )
    return url.strip().rstrip("/")


def warn_if_unencrypted(url: str, *, stacklevel: int) -> None:
    """Warn, once per host and process, that a key would go unencrypted to another machine.

    Args:
        url: A checked address.
        stacklevel: As in `warnings.warn`: 2 is the caller.
    """
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(str(parts.hostname)):
        _warn_unencrypted(str(parts.hostname), stacklevel + 1)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: localhost, a loopback address, or 0.0.0.0 or ::."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return False


@cache
def _warn_unencrypted(host: str, stacklevel: int) -> None:
    warnings.warn(
        f"Requests to {host} are not encrypted: anyone on the network can read the key and the "
        "texts. Use an https address.",
        stacklevel=stacklevel,
    )


def is_dashscope(url: str) -> bool:
    """Whether a checked address is one of DashScope's own."""
    host = urlsplit(url).hostname or ""
    return any(own.fullmatch(host) for own in (_GATEWAY_HOST, _WORKSPACE_HOST))


def dashscope_url(base_url: str | None, workspace: str | None, region: str | None) -> str:
    """Return the address of DashScope's native API, up to and including `/api/v1`.

    An address of one of its endpoints, and any address on the service's own hosts, is turned into
    that of the native API.

    Args:
        base_url: The address; if None, that of the environment, else that of the workspace or the
            region. `{workspace_id}` in it is replaced.
        workspace: The workspace's id.
        region: The region; if None, that of the environment.

    Raises:
        InvalidInputError: An argument cannot be used, or the region has no address that all
            workspaces share.
    """
    for name, label in (("workspace", workspace), ("region", region)):
        if label is not None:
            _check_label(name, label)
    setting = environment_setting("base_url") if base_url is None else None
    name, url = setting or ("base_url", base_url)
    if url is not None:
        if workspace is not None and isinstance(url, str):
            url = url.replace("{workspace_id}", workspace)
        return _native_url(name, url)
    return _regional_url(workspace, region or _environment_label("region"))


def dashscope_workspace(workspace: str | None) -> str | None:
    """Return the workspace; if None, that of the environment.

    Raises:
        InvalidInputError: The environment's cannot be one.
    """
    return _environment_label("workspace") if workspace is None else workspace


def _environment_label(option: str) -> str | None:
    setting = environment_setting(option)
    if setting is None:
        return None
    _check_label(*setting)
    return setting.value


def _check_label(name: str, label: str) -> None:
    if not (isinstance(label, str) and _LABEL.fullmatch(label)):
        raise InvalidInputError(f"{name} must be letters, digits and hyphens, got {label!r}.")


def _native_url(name: str, url: str) -> str:
    example = _GATEWAYS["cn-beijing"]
    url = checked_url(name, url, example=example)
    parts = urlsplit(url)
    path = "/api/v1" if is_dashscope(url) else _ENDPOINT.sub("", parts.path)
    if "/compatible-" in path:
        raise InvalidInputError(
            f"{name} {url!r} is the address of an OpenAI-compatible API, which is not supported "
            "here.",
            remedy=f"Use the address of the native API, such as {example!r}.",
        )
    return parts._replace(path=path).geturl()


def _regional_url(workspace: str | None, region: str | None) -> str:
    if workspace and region:
        return f"https://{workspace}.{region}.maas.aliyuncs.com/api/v1"
    try:
        return _GATEWAYS[region or "cn-beijing"]
    except KeyError:
        raise InvalidInputError(
            f"The region {region!r} has no address that all workspaces share.",
            remedy=f"Pass workspace= too, or one of the regions {', '.join(_GATEWAYS)}.",
        ) from None


def dashscope_region(base_url: str, region: str | None) -> str | None:
    """Return the region of an address of the native API; None if it is not known.

    Args:
        base_url: The address.
        region: The user's option, which counts if the address is not the service's own.

    Raises:
        InvalidInputError: The option is not the region of the address.
    """
    own = _region_of_host(urlsplit(base_url).hostname or "")
    if own and region and own != region:
        raise InvalidInputError(
            f"region is {region!r}, but the address {base_url!r} is in {own!r}.",
            remedy="Pass only one of them. The address may come from DASHSCOPE_BASE_URL or "
            "DASHSCOPE_HTTP_BASE_URL.",
        )
    return own or region or _environment_label("region")


def _region_of_host(host: str) -> str | None:
    for region, gateway in _GATEWAYS.items():
        if host == urlsplit(gateway).hostname:
            return region
    workspace_host = _WORKSPACE_HOST.fullmatch(host)
    return workspace_host[1] if workspace_host else None

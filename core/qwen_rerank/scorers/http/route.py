"""How requests reach a service: through which proxy, with which headers, trusting whom."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.options import NOT_SAVED, RequestArguments
from qwen_rerank.scorers.http.auth import Headers
from qwen_rerank.scorers.http.proxies import Proxy, parsed_proxy

if TYPE_CHECKING:
    import ssl

__all__ = ["Route"]

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""The name of a header (RFC 9110, section 5.6.2)."""

_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")
"""The value of a header, without the characters that RFC 9110 calls obsolete."""

_OURS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length"}
    | {"content-type", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
"""Headers that say how a request is written and its response read."""

_OPTIONS = {
    "authorization": "api_key=",
    "proxy-authorization": "the user and the password in proxy=",
    "x-dashscope-workspace": "workspace=",
}
"""Headers that options are for."""


@dataclass(frozen=True, slots=True)
class Route:
    """How requests of one scorer reach the service.

    Pickles have the names of the headers and the address of the proxy, but no secrets.

    Attributes:
        headers: Headers besides those of the scorer.
        proxy: The proxy; None for the one that the environment names.
        ca_bundle: The file or folder with the authorities to trust; None for the usual ones.
        own_context: The user's own TLS settings; None for the default.
    """

    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    proxy: Proxy | None = None
    ca_bundle: str | None = None
    own_context: ssl.SSLContext | None = None

    @classmethod
    def of(cls, options: RequestArguments, own_headers: Iterable[str]) -> Route:
        """Return the route that a scorer's options describe.

        Args:
            options: All options of requests.
            own_headers: The names of the headers that the scorer itself sends.

        Raises:
            InvalidInputError: An option cannot be used. Values that can be secret are not quoted.
        """
        context, ca_bundle = options["ssl_context"], options["ca_bundle"]
        if context is not None:
            _check_context(context)
        if context is not None and ca_bundle is not None:
            raise InvalidInputError(
                "ssl_context and ca_bundle exclude each other.",
                remedy="Load the authorities with ssl_context.load_verify_locations().",
            )
        proxy = options["proxy"]
        route = cls(
            _checked_headers(options["headers"], frozenset(map(str.lower, own_headers))),
            None if proxy is None else parsed_proxy(proxy),
            None if ca_bundle is None else _checked_path(ca_bundle),
            context,
        )
        _ = route.all_headers({}), route.context  # what is missing is an error now
        return route

    @property
    def context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for the default ones.

        Raises:
            InvalidInputError: `ca_bundle` is not there, or has no certificate.
        """
        if self.ca_bundle is None:
            return self.own_context
        return _context_of(self.ca_bundle, _version_of(self.ca_bundle))

    def all_headers(self, own: Headers) -> Headers:
        """Return these headers together with the scorer's own.

        Raises:
            InvalidInputError: The scorer was unpickled, so that a secret is missing.
        """
        for name, value in self.headers.items():
            if value.get_secret_value() == NOT_SAVED:
                raise _not_saved("headers", f"the value of {name}")
        if self.proxy is not None and self.proxy.authorization == SecretStr(NOT_SAVED):
            raise _not_saved("proxy", "its user and password")
        return {**self.headers, **own}

    def __reduce__(self) -> tuple[Any, ...]:
        if self.own_context is not None:
            raise InvalidInputError(
                "An ssl_context cannot be pickled.", remedy="Pass ca_bundle= instead, if possible."
            )
        headers = dict.fromkeys(self.headers, SecretStr(NOT_SAVED))
        proxy = None if self.proxy is None else self.proxy.without_secrets()
        return (Route, (headers, proxy, self.ca_bundle))


def _check_context(context: object) -> None:
    import ssl  # lazy: few need it

    if not isinstance(context, ssl.SSLContext):
        raise InvalidInputError(
            f"ssl_context must be an ssl.SSLContext, got {type(context).__name__}."
        )


def _not_saved(option: str, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{option}: {what} is missing, because pickles and dumps do not hold secrets.",
        remedy=f"Pass {option}= again.",
    )


def _checked_headers(
    headers: Mapping[str, SecretStr | str] | None, own: frozenset[str]
) -> dict[str, SecretStr]:
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidInputError(f"headers must be a mapping, got {type(headers).__name__}.")
    checked: dict[str, SecretStr] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInputError(f"headers: {name!r} cannot be the name of a header.")
        lower = name.lower()
        if lower in {each.lower() for each in checked}:
            raise InvalidInputError(f"headers: {name!r} is there twice.")
        if lower in _OURS | own or lower == "proxy-authorization":
            option = _OPTIONS.get(lower)
            raise InvalidInputError(
                f"headers cannot contain {name!r}, which is set for every request.",
                remedy=f"Use {option} instead." if option else "Leave it out.",
            )
        if not _is_value(value):
            raise InvalidInputError(
                f"headers: the value of {name!r} is empty, or has a line break or other characters "
                "that a header cannot have."
            )
        shown = "User-Agent" if lower == "user-agent" else name  # replaces our own
        checked[shown] = value if isinstance(value, SecretStr) else SecretStr(value)
    return checked


def _is_value(value: SecretStr | str) -> bool:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    return isinstance(plain, str) and _VALUE.fullmatch(plain) is not None


def _checked_path(path: str | os.PathLike[str]) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidInputError(f"ca_bundle must be the path of a file or a folder, got {path!r}.")
    return os.fspath(path)


def _version_of(ca_bundle: str) -> tuple[int, int]:
    """Return what changes when a file is replaced."""
    try:
        found = Path(ca_bundle).stat()
    except (OSError, ValueError) as error:
        raise _unusable(ca_bundle, error) from error
    return found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=32)
def _context_of(ca_bundle: str, version: tuple[int, int]) -> ssl.SSLContext:
    """Return a context that trusts only these authorities. The same for all scorers."""
    import ssl  # lazy: few need it

    is_folder = Path(ca_bundle).is_dir()
    try:
        if is_folder:
            return ssl.create_default_context(capath=ca_bundle)
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _unusable(ca_bundle, error) from error


def _unusable(ca_bundle: str, error: Exception) -> InvalidInputError:
    reason = getattr(error, "strerror", None) or error
    return InvalidInputError(
        f"Could not read certificates from ca_bundle={ca_bundle!r}: {reason}.",
        remedy="Pass a file with certificates in PEM form, or a folder of such files that c_rehash "
        "of OpenSSL has prepared.",
    )

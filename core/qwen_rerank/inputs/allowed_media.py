"""Which files and addresses of the local network documents may name as their images or videos.

A store that others can write to could otherwise have any file of this machine sent to the service,
or any address of the local network loaded by a server in it. What the program itself puts into a
Content is not checked.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import filterfalse
from os import PathLike, fspath
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.media import Media, MediaKind, redacted_uri

__all__ = ["AllowedMedia"]

_LOCAL_NAME = re.compile(
    r"[^.]*|.*\.(localhost|local|localdomain|internal|intranet|lan|home|corp|private|svc|home\.arpa)"
)
"""Names that the public DNS does not have (RFC 6761, 6762, 8375 and ICANN's reserved names)."""

_IPV4_PREFIXES = tuple(
    IPv6Address(prefix).packed[:12] for prefix in ("::", "::ffff:0:0:0", "64:ff9b::")
)
"""How IPv6 addresses begin that gateways translate to the IPv4 address at their end."""


@dataclass(frozen=True, slots=True)
class AllowedMedia:
    """What documents may name besides data and public addresses.

    Attributes:
        folders: Files below these may be read.
        addresses: The scheme, host and port of servers in the local network.
    """

    folders: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()

    @classmethod
    def of(cls, allowed: Iterable[str | PathLike[str]] | None) -> AllowedMedia:
        """Return what the option `allowed_media` allows.

        Raises:
            InvalidInputError: A value is neither an existing folder nor an http or https address.
        """
        if isinstance(allowed, str | PathLike):
            allowed = [allowed]
        if allowed is not None and not isinstance(allowed, Iterable):
            raise InvalidInputError(
                f"allowed_media must be folders or http addresses, got {allowed!r}."
            )
        values = [*(() if allowed is None else allowed)]
        addresses = [value for value in values if isinstance(value, str) and "://" in value]
        folders = [value for value in values if value not in addresses]
        return cls(tuple(map(_folder, folders)), tuple(map(_address, addresses)))

    def checked(self, kind: MediaKind, media: Media) -> Media:
        """Return the image or video that a document names, if that is allowed.

        Raises:
            InvalidInputError: It is a file outside the folders, or at an address of the local
                network.
        """
        if isinstance(media, PathLike):
            return self._checked_file(kind, media)
        if isinstance(media, str) and media[:5].lower() != "data:":
            self._check_url(kind, media)
        return media

    def _checked_file(self, kind: MediaKind, path: PathLike[str]) -> Path:
        try:
            file = Path(path).resolve()  # follows links
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidInputError(f"Could not read the {kind}: {reason}.") from error
        if not any(file.is_relative_to(folder) for folder in self.folders):
            raise InvalidInputError(
                f"The {kind} is the local file {fspath(path)!r}, which documents may not name.",
                remedy="Pass allowed_media= with the folders of your files, or create a Content "
                "from the file.",
            )
        return file

    def _check_url(self, kind: MediaKind, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:  # as_uri says what is wrong with it
            return
        if _is_local(parts) and not self._has_address(parts):
            raise InvalidInputError(
                f"The {kind} {redacted_uri(url)} is at an address of the local network, which "
                "documents may not name.",
                remedy="Pass allowed_media= with the address of that server, such as "
                '"http://images.internal:8080", or create a Content from the address.',
            )

    def _has_address(self, parts: SplitResult) -> bool:
        try:
            return _origin(parts) in self.addresses
        except ValueError:  # a port that is no number
            return False


def _folder(path: str | PathLike[str]) -> Path:
    try:
        folder = Path(path).resolve()
        is_folder = path != "" and folder.is_dir()  # an unset variable is not this folder
    except (TypeError, ValueError, OSError, RuntimeError):
        is_folder = False
    if not is_folder:
        raise InvalidInputError(
            f"allowed_media must be folders or http addresses, and {path!r} is not a folder.",
            remedy="Create the folder, or check the path.",
        )
    return folder


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        origin = _origin(parts)
    except ValueError:
        parts, origin = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise InvalidInputError(
            f"allowed_media must be folders or http addresses, got {redacted_uri(url)}.",
            remedy='Pass for example "http://images.internal:8080".',
        )
    return origin


def _origin(parts: SplitResult) -> str:
    """Return the scheme, host and port of an address."""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{_host(parts)}:{port}"


def _host(parts: SplitResult) -> str:
    """Return the host as a resolver sees it: ordinary digits and dots, none at the end,
    and no invisible characters.
    """
    host = unicodedata.normalize("NFKC", parts.hostname or "").lower().replace("\u3002", ".")
    return "".join(filterfalse(_is_ignored, host)).rstrip(".")


def _is_ignored(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _is_local(parts: SplitResult) -> bool:
    """Whether the host of an address can be in the local network. No name is looked up."""
    if parts.scheme not in ("http", "https"):
        return False  # not an address that can be loaded at all
    if "\\" in parts.netloc:  # parsers differ on where such a host ends
        return True
    host, percent, _ = _host(parts).partition("%")
    if percent and ":" not in host:  # some parsers decode names
        return True
    try:
        # Resolvers take an IPv4 address in other forms too, such as 2130706433 or 0x7f.1.
        address = ip_address(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, ValueError):
        return _LOCAL_NAME.fullmatch(host) is not None
    address = _translated(address)
    return not address.is_global or address.is_multicast


def _translated(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address.packed[:12] in _IPV4_PREFIXES:
        return IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour or address

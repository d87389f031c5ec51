"""Images and videos as URIs: URLs are checked, files and bytes become data URIs."""

from __future__ import annotations

import binascii
import os
import re
import stat
from base64 import b64encode
from os import PathLike, fspath
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from qwen_rerank.errors import InvalidInputError

__all__ = ["MAX_FILE_BYTES", "Media", "MediaKind", "as_uri", "from_base64", "redacted_uri"]

Media: TypeAlias = str | bytes | PathLike[str]
"""An image or a video: its URL, its data URI, its bytes, or the path of a file."""

MediaKind: TypeAlias = Literal["image", "video"]

MAX_FILE_BYTES = 64 * 2**20
"""The largest file that is read: 64 MiB. The service publishes no limit; this one is ours."""

_DATA_URI = re.compile(r"data:(?P<kind>\w+)/[\w.+-]+(;[\w=.+-]+)*;base64", re.IGNORECASE)

_SHOWN_CHARACTERS = 60


def as_uri(kind: MediaKind, media: Media) -> str:
    """Return the media as a URL or a base64 data URI.

    Args:
        kind: What the media must be: an image or a video.
        media: A URL or data URI, which is checked; bytes, or the path of a file, which are encoded.

    Raises:
        InvalidInputError: The media is not of this kind, or can't be read.
    """
    if isinstance(media, str):
        _check_uri(kind, media)
        return str(media)
    if isinstance(media, PathLike):
        return _data_uri(kind, _file_bytes(kind, media), f"the file {fspath(media)!r} is")
    if isinstance(media, bytes):
        return _data_uri(kind, media, "the bytes are")
    raise InvalidInputError(
        f"{kind} must be a URL, a data URI, a path or bytes, got {type(media).__name__}."
    )


def from_base64(data: str | bytes, media_type: str | None) -> Media:
    """Return base64 data as a data URI, or as bytes if the media type is not known.

    Args:
        data: The base64 data. White space in it is ignored.
        media_type: The media type, such as `"image/png"`.

    Raises:
        InvalidInputError: The media type is not known, and the data is not base64.
    """
    text = "".join((data if isinstance(data, str) else data.decode("latin-1")).split())
    return f"data:{media_type};base64,{text}" if media_type else _decode(text)


def redacted_uri(uri: str) -> str:
    """Return a URI to show in messages: without its data, and without user, query and fragment.

    Those parts of a URL can contain passwords and signatures.
    """
    if uri[:5].lower() == "data:":
        return f"{_shorten(uri.partition(',')[0])},… ({len(uri):,} characters)"
    if "://" not in uri:
        return repr(_shorten(uri))
    scheme, _, rest = uri.partition("://")
    address = rest.partition("?")[0].partition("#")[0]
    host, slash, path = address.partition("/")
    return repr(_shorten(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"))


def _check_uri(kind: MediaKind, uri: str) -> None:
    head, comma, data = uri.partition(",")
    if (match := _DATA_URI.fullmatch(head)) and comma and data:
        if match["kind"].lower() != kind:
            raise InvalidInputError(
                f"{kind} must be a data URI of type {kind}/…, got {redacted_uri(uri)}."
            )
        _decode(data)
    elif not _is_url(uri):
        raise InvalidInputError(
            f"{kind} must be an http or https URL or a base64 data URI, got {redacted_uri(uri)}.",
            remedy="Check its host and port."
            if uri.startswith(("http://", "https://"))
            else "Pass a file as pathlib.Path(…), and raw data as bytes.",
        )


def _is_url(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        uri.encode()
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a lone surrogate, or a port above 65535
        return False
    return parts.scheme in ("http", "https") and has_host and uri.split() == [uri]


def _decode(base64: str) -> bytes:
    try:
        return binascii.a2b_base64(base64, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        raise InvalidInputError(f"The base64 data is invalid: {error}.") from None


def _file_bytes(kind: MediaKind, path: PathLike[str]) -> bytes:
    """Read a regular file. A pipe or a device is refused: reading one might never end."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("not a regular file")
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"Could not read the {kind} {fspath(path)!r}: {reason}.") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"The {kind} {fspath(path)!r} is larger than {MAX_FILE_BYTES // 2**20} MiB.",
            remedy=f"Make it smaller, or pass a URL from which the service can load the {kind}.",
        )
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; opening a pipe would otherwise wait until something writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _data_uri(kind: MediaKind, data: bytes, source_is: str) -> str:
    import filetype  # lazy: few callers need it

    media_type = filetype.guess_mime(data) or "of an unknown type"
    if not media_type.startswith(f"{kind}/"):
        raise InvalidInputError(
            f"{kind} must be of a known {kind} type, but {source_is} {media_type}.",
            remedy=f"If it is a valid {kind}, pass it as a data URI: data:{kind}/…;base64,….",
        )
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

"""Reading HTTP/1.1 responses. Pure: bytes in, a response out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

__all__ = [
    "MAX_RESPONSE_BYTES",
    "HTTPResponse",
    "InvalidResponseError",
    "ResponseParser",
    "ResponseTooLargeError",
    "decompress",
]

MAX_RESPONSE_BYTES = 16 * 2**20
"""The largest response that is read. Scores take about 60 bytes per document."""

_MAX_HEAD_BYTES = 64 * 2**10
_MAX_CHUNK_LINE_BYTES = 4 * 2**10

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}")


class InvalidResponseError(Exception):
    """What the server sent is not a valid HTTP/1.1 response."""


class ResponseTooLargeError(Exception):
    """The response is larger than `MAX_RESPONSE_BYTES`."""


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A complete response.

    Attributes:
        status: The status, such as 200.
        headers: The headers, by their names in lower case. Repeated ones are joined by commas.
        body: The body as it was sent, which can be compressed.
        keeps_alive: Whether the connection can be used for another request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    keeps_alive: bool


class _Framing(Enum):
    """How the end of a body is found (RFC 9112, section 6.3)."""

    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


class ResponseParser:
    """Reads one response.

    Args:
        to_connect: Whether the request was a CONNECT: a successful response to it has no body.
    """

    def __init__(self, *, to_connect: bool = False) -> None:
        self._to_connect = to_connect
        self._buffer = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._framing = _Framing.LENGTH
        self._has_head = False
        self._keeps_alive = False
        self._body_length = 0
        self._body_start = 0
        self._chunks = bytearray()
        self._chunk_start = 0

    @property
    def has_started(self) -> bool:
        """Whether any byte has arrived."""
        return self._has_head or bool(self._buffer)

    def feed(self, data: bytes) -> HTTPResponse | None:
        """Take the next bytes, and return the response if it is complete.

        Raises:
            InvalidResponseError: The bytes are not an HTTP/1.1 response.
            ResponseTooLargeError: The response is too large.
        """
        self._buffer += data
        while not self._has_head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise InvalidResponseError("The response has no end of headers.")
                return None
            self._read_head(bytes(self._buffer[:end]), end + 4)
        if self._framing is _Framing.LENGTH:
            end = self._body_start + self._body_length
            is_complete = len(self._buffer) >= end
            return (
                self._response(self._buffer[self._body_start : end], end) if is_complete else None
            )
        if len(self._buffer) - self._body_start > MAX_RESPONSE_BYTES:
            raise ResponseTooLargeError
        if self._framing is _Framing.CHUNKED and self._read_chunks():
            return self._response(self._chunks, self._chunk_start)
        return None

    def feed_eof(self) -> HTTPResponse | None:
        """Return the response if the end of the connection completes it."""
        if not self._has_head or self._framing is not _Framing.CLOSE:
            return None
        return self._response(self._buffer[self._body_start :], len(self._buffer))

    def _response(self, body: bytearray, end: int) -> HTTPResponse:
        keeps_alive = self._keeps_alive and len(self._buffer) == end
        return HTTPResponse(self._status, self._headers, bytes(body), keeps_alive)

    def _read_head(self, head: bytes, end: int) -> None:
        status_line, *lines = head.decode("latin-1").split("\r\n")
        match = _STATUS_LINE.fullmatch(status_line)
        if match is None:
            raise InvalidResponseError("The response does not begin with an HTTP/1.1 status line.")
        self._status = int(match[2])
        if self._status < 200:  # an interim response, before the real one
            del self._buffer[:end]
            return
        self._headers = _read_headers(lines)
        self._has_head, self._body_start = True, end
        self._framing = self._find_framing()
        tokens = _tokens(self._headers.get("connection", ""))
        says_alive = "close" not in tokens if match[1] == "1" else "keep-alive" in tokens
        self._keeps_alive = says_alive and self._framing is not _Framing.CLOSE

    def _find_framing(self) -> _Framing:
        is_tunnel = self._to_connect and self._status < 300
        if is_tunnel or self._status in (204, 304):
            return _Framing.LENGTH
        if "transfer-encoding" in self._headers:
            if _tokens(self._headers["transfer-encoding"]) != ["chunked"]:
                raise InvalidResponseError("The response has an unknown Transfer-Encoding.")
            self._chunk_start = self._body_start
            return _Framing.CHUNKED
        if "content-length" not in self._headers:
            return _Framing.CLOSE
        lengths = set(_tokens(self._headers["content-length"]))
        length = lengths.pop()
        if lengths or not _WHOLE_NUMBER.fullmatch(length):
            raise InvalidResponseError("The response has an invalid Content-Length.")
        self._body_length = int(length)
        if self._body_length > MAX_RESPONSE_BYTES:
            raise ResponseTooLargeError
        return _Framing.LENGTH

    def _read_chunks(self) -> bool:
        """Read all chunks that have arrived, and say whether the last one is among them."""
        while (line_end := self._buffer.find(b"\r\n", self._chunk_start)) >= 0:
            size = _read_chunk_size(self._buffer[self._chunk_start : line_end])
            if size == 0:
                return self._read_trailers(line_end)
            start, end = line_end + 2, line_end + 2 + size
            if len(self._buffer) < end + 2:
                return False
            if self._buffer[end : end + 2] != b"\r\n":
                raise InvalidResponseError("The response has an invalid chunk.")
            self._chunks += self._buffer[start:end]
            self._chunk_start = end + 2
        if len(self._buffer) - self._chunk_start > _MAX_CHUNK_LINE_BYTES:
            raise InvalidResponseError("The response has an invalid chunk.")
        return False

    def _read_trailers(self, last_chunk: int) -> bool:
        """Skip the headers after the last chunk, whose line ends here."""
        end = self._buffer.find(b"\r\n\r\n", last_chunk)
        if end < 0:
            if len(self._buffer) - last_chunk > _MAX_HEAD_BYTES:
                raise InvalidResponseError("The response has no end of trailers.")
            return False
        self._chunk_start = end + 4
        return True


def _read_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name.strip() != name:
            raise InvalidResponseError("The response has an invalid header.")
        name, value = name.lower(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _read_chunk_size(line: bytearray) -> int:
    match = _CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise InvalidResponseError("The response has an invalid chunk.")
    return int(match[1], 16)


def _tokens(value: str) -> list[str]:
    """The comma-separated parts of a header, in lower case."""
    return [part.strip().lower() for part in value.split(",")]


def decompress(body: bytes, encoding: str) -> bytes:
    """Decode a body by its Content-Encoding.

    Raises:
        InvalidResponseError: The encoding is neither gzip nor deflate, or the body is damaged.
        ResponseTooLargeError: The decoded body is too large.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise InvalidResponseError(f"The response has the unknown Content-Encoding {name!r}.")
    is_raw = name == "deflate" and body[:1] != b"x"  # some servers leave out zlib's header
    decoder = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS + 32)
    try:
        decoded = decoder.decompress(body, MAX_RESPONSE_BYTES + 1)
    except zlib.error as error:
        raise InvalidResponseError(f"The response's {name} encoding is damaged.") from error
    if len(decoded) > MAX_RESPONSE_BYTES:
        raise ResponseTooLargeError
    if not decoder.eof:
        raise InvalidResponseError(f"The response's {name} encoding is damaged.")
    return decoded

"""Decoding compressed response bodies, up to a size limit."""

from __future__ import annotations

import zlib

from qwen_rerank.scorers.http.pool import InvalidResponseError, ResponseTooLargeError

__all__ = ["decompress"]


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decode a body by its Content-Encoding.

    Raises:
        InvalidResponseError: The encoding is neither gzip nor deflate, and the body is not plain
            JSON either; or the body is damaged.
        ResponseTooLargeError: The decoded body is larger than `max_bytes`.
    """
    name = encoding.strip().lower()
    if name in ("", "identity") or _is_json(body):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise InvalidResponseError(f"The response has the unknown Content-Encoding {name!r}.")
    is_raw = name == "deflate" and body[:1] != b"x"  # some servers leave out zlib's header
    decoder = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS + 32)
    try:
        decoded = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidResponseError(f"The response's {name} encoding is damaged.") from error
    if len(decoded) > max_bytes:
        raise ResponseTooLargeError
    if not decoder.eof:
        raise InvalidResponseError(f"The response's {name} encoding is damaged.")
    return decoded


def _is_json(body: bytes) -> bool:
    """Whether the body is JSON, whatever its header says: some proxies decompress and keep it.

    Neither gzip nor deflate begins a JSON object or list with a byte that JSON begins with.
    """
    return body[:64].lstrip()[:1] in (b"{", b"[")

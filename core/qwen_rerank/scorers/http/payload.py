"""Writing request bodies as JSON: large ones in pieces, so that no other thread waits for long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic_core import to_json

from qwen_rerank.inputs.content import Content, Item

__all__ = ["PIECE", "json_pieces", "size_of"]

PIECE = 256 * 2**10
"""Characters that are written at once, which takes about a millisecond."""


def size_of(items: Sequence[Item]) -> int:
    """The number of characters in the items, data URIs included."""
    if {*map(type, items)} <= {str}:
        return sum(map(len, cast(Sequence[str], items)))
    return sum(map(_size, items))


def _size(item: Item) -> int:
    if isinstance(item, Content):
        return sum(len(part) for part in (item.text, item.image, item.video) if part)
    return len(item)


def json_pieces(value: Any) -> list[bytes]:
    """Write a value as JSON, in pieces of about `PIECE` bytes."""
    pieces, part = [], bytearray()
    for token in _json_tokens(value):
        part += token
        if len(part) >= PIECE:
            pieces.append(bytes(part))
            part.clear()
    return [*pieces, bytes(part)]


def _json_tokens(value: Any) -> Iterator[bytes]:
    """Write a value as JSON, no more than `PIECE` characters of it at a time."""
    if isinstance(value, str):
        yield b'"'
        for start in range(0, len(value), PIECE):
            yield to_json(value[start : start + PIECE])[1:-1]
        yield b'"'
    elif isinstance(value, Mapping):
        for number, (key, each) in enumerate(value.items()):
            yield (b"," if number else b"{") + to_json(key) + b":"
            yield from _json_tokens(each)
        yield b"}" if value else b"{}"
    elif isinstance(value, Sequence):
        for number, each in enumerate(value):
            yield b"," if number else b"["
            yield from _json_tokens(each)
        yield b"]" if value else b"[]"
    else:
        yield to_json(value)

"""From texts to requests under a service's limits. Pure: no I/O, no clock, no model."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.limits import Limits

__all__ = ["Plan", "byte_bound", "fits_one_request", "pack", "plan"]


class Plan(NamedTuple):
    """How texts go out.

    Attributes:
        requests: For each request, the places of its texts; every place is in exactly one.
        oversized: How many items, the query included, are over the limit of tokens an item.
    """

    requests: list[list[int]]
    oversized: int


def plan(
    query: str, texts: Sequence[str], limits: Limits, count_tokens: Callable[[str], int]
) -> Plan:
    """Pack the texts into as few requests as we can.

    Counting tokens exactly is dear, so a bound stands in wherever it settles the matter: exact
    counts are taken of the items that may be over the item limit, and of all of them only where
    the bounds ask for more requests than the number of documents does.

    Args:
        query: Goes into every request.
        texts: The documents' texts, at least one.
        limits: What a request may hold.
        count_tokens: Gives the exact count of tokens of a text.

    Raises:
        InvalidInputError: A text that can't be written as UTF-8.
    """
    if fits_one_request(query, texts, limits):
        return Plan([list(range(len(texts)))], oversized=0)
    items = [query, *texts]
    tokens = _bounds(query, texts)
    for place, item in enumerate(items):
        if tokens[place] > limits.item_tokens:
            tokens[place] = count_tokens(item)
    requests = pack(tokens[0], tokens[1:], limits)
    if len(requests) > math.ceil(len(texts) / limits.documents):
        tokens = [count_tokens(item) for item in items]
        requests = pack(tokens[0], tokens[1:], limits)
    return Plan(requests, oversized=sum(count > limits.item_tokens for count in tokens))


def fits_one_request(query: str, texts: Sequence[str], limits: Limits) -> bool:
    """Whether everything certainly fits in one request: told by bounds alone, at almost no cost.

    Raises:
        InvalidInputError: A text that can't be written as UTF-8.
    """
    query_bound, *bounds = _bounds(query, texts)
    return (
        len(texts) <= limits.documents
        and max(query_bound, *bounds) <= limits.item_tokens
        and query_bound * len(texts) + sum(bounds) <= limits.request_tokens
    )


def _bounds(query: str, texts: Sequence[str]) -> list[int]:
    return [byte_bound(item, place) for place, item in enumerate((query, *texts))]


def pack(query_tokens: int, text_tokens: Sequence[int], limits: Limits) -> list[list[int]]:
    """Put each text in a request: the better of first-fit and first-fit decreasing.

    A text costs its own tokens and the query's once more. One that is too large for any request
    goes alone, since the service may cut it. A text over the item limit counts in full: whether
    the service cuts before it counts is not published, and this is right either way.
    """
    room = limits.request_tokens
    costs = [min(query_tokens + count, room) for count in text_tokens]
    in_order = range(len(costs))
    decreasing = sorted(in_order, key=costs.__getitem__, reverse=True)
    first_fit, first_fit_decreasing = (
        _first_fit(order, costs, limits) for order in (in_order, decreasing)
    )
    return min(first_fit, first_fit_decreasing, key=len)


def byte_bound(text: str, place: int = 0) -> int:
    """The most tokens that the text can have: its bytes, as each token is at least one.

    Bytes of UTF-8 after NFC, which the Qwen tokenizer applies first. Holds for any byte-level BPE.
    """
    try:
        return len(text) if text.isascii() else len(unicodedata.normalize("NFC", text).encode())
    except UnicodeEncodeError as error:
        item = "the query" if place == 0 else f"text {place - 1}"
        raise InvalidInputError(
            f"{item} holds {text[error.start]!r}, half of a surrogate pair, which UTF-8 has not.",
            remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
        ) from None


def _first_fit(order: Iterable[int], costs: Sequence[int], limits: Limits) -> list[list[int]]:
    rooms = _Rooms(len(costs), limits.request_tokens)
    requests: list[list[int]] = [[] for _ in costs]
    for place in order:
        number = rooms.first_with(costs[place])
        requests[number].append(place)
        full = len(requests[number]) == limits.documents
        rooms.take(number, costs[place], full)
    return [request for request in requests if request]


_FULL = -1


class _Rooms:
    """The room left in each of `count` requests; finds the first with enough in log(count).

    A binary tree in an array: each node holds the largest room below it, the leaves the requests'.
    """

    def __init__(self, count: int, room: int) -> None:
        self._leaves = 1 << max(count - 1, 0).bit_length()
        self._most = [room] * (2 * self._leaves)

    def first_with(self, cost: int) -> int:
        node = 1
        while node < self._leaves:
            node *= 2
            if self._most[node] < cost:
                node += 1
        return node - self._leaves

    def take(self, number: int, cost: int, full: bool) -> None:
        node = number + self._leaves
        self._most[node] = _FULL if full else self._most[node] - cost
        while node > 1:
            node //= 2
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])

"""From texts to requests under a service's limits. Pure: no I/O, no clock, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.scorers.limits import Limits
from qwen_rerank.scorers.normalizing import normalize

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

    Counting tokens exactly is slow, so their byte bound is used wherever it decides the packing.
    Exact counts are taken of the items that may be over the item limit, and of all items only
    where the bounds ask for more requests than the number of documents does.

    Args:
        query: Goes into every request.
        texts: The documents' texts, at least one.
        limits: What a request may hold.
        count_tokens: Gives the exact count of tokens of a text.

    Raises:
        InvalidInputError: A text that can't be written as UTF-8.
    """
    count = cache(count_tokens)
    items = [query, *texts]
    tokens = [
        count(item) if bound > limits.item_tokens else bound
        for item, bound in zip(items, _bounds(query, texts), strict=True)
    ]
    requests = pack(tokens[0], tokens[1:], limits)
    if len(requests) > math.ceil(len(texts) / limits.documents):
        tokens = [count(item) for item in items]
        requests = pack(tokens[0], tokens[1:], limits)
    return Plan(requests, oversized=sum(tokens_ > limits.item_tokens for tokens_ in tokens))


def fits_one_request(query: str, texts: Sequence[str], limits: Limits) -> bool:
    """Whether everything certainly fits in one request: told by bounds alone, at almost no cost.

    Raises:
        InvalidInputError: A text that can't be written as UTF-8.
    """
    # A character is at least a byte: what is too long by characters needs no closer look.
    if len(texts) > limits.documents or sum(map(len, texts)) > limits.request_tokens:
        return False
    bounds = _bounds(query, texts)
    tokens = bounds[0] * len(texts) + sum(bounds[1:])
    return max(bounds) <= limits.item_tokens and tokens <= limits.request_tokens


def pack(query_tokens: int, text_tokens: Sequence[int], limits: Limits) -> list[list[int]]:
    """Put each text in a request: the better of first-fit and first-fit decreasing.

    A text costs its own tokens and the query's once more. Whether the service cuts a text over the
    item limit before it counts is not published: it counts in full here, which is never too much
    for a request. One that is larger than a whole request goes alone, in the hope that it is cut.
    """
    costs = [min(query_tokens + tokens, limits.request_tokens) for tokens in text_tokens]
    in_order = range(len(costs))
    decreasing = sorted(in_order, key=costs.__getitem__, reverse=True)
    return min((_first_fit(order, costs, limits) for order in (in_order, decreasing)), key=len)


def _first_fit(order: Iterable[int], costs: Sequence[int], limits: Limits) -> list[list[int]]:
    requests: list[list[int]] = []
    rooms: list[int] = []  # what is left in each
    for place in order:
        for number, room in enumerate(rooms):
            if room >= costs[place] and len(requests[number]) < limits.documents:
                break
        else:
            number = len(requests)
            requests.append([])
            rooms.append(limits.request_tokens)
        requests[number].append(place)
        rooms[number] -= costs[place]
    return requests


def byte_bound(text: str) -> int:
    """The most tokens that the text can have: its bytes, as each token is at least one.

    Bytes of UTF-8 after NFC, which the Qwen tokenizer applies first. Holds for any byte-level BPE.

    Raises:
        UnicodeEncodeError: The text holds half of a surrogate pair.
    """
    return len(normalize("NFC", text).encode())


def _bounds(query: str, texts: Sequence[str]) -> list[int]:
    bounds = []
    for place, item in enumerate((query, *texts)):
        try:
            bounds.append(byte_bound(item))
        except UnicodeEncodeError:
            name = "The query" if place == 0 else f"Text {place - 1}"
            raise InvalidInputError(
                f"{name} holds half of a surrogate pair, which UTF-8 cannot encode.",
                remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
            ) from None
    return bounds

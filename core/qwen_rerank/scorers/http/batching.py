"""From texts to requests under a service's limits. Pure: no I/O, no clock, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from heapq import heappop, heappush
from typing import NamedTuple, cast

from qwen_rerank.inputs.content import Content, Item, text_of
from qwen_rerank.scorers.catalog import Limits
from qwen_rerank.text.normalization import normalize
from qwen_rerank.validation import not_utf8

__all__ = ["Plan", "byte_bound", "pack", "plan"]


class Plan(NamedTuple):
    """How texts go out.

    Attributes:
        requests: For each request, the places of its texts; every place is in exactly one.
        oversized: How many items, the query included, are over the limit of tokens an item.
        estimated: Whether tokens were estimated: a request may turn out to be too large.
    """

    requests: list[list[int]]
    oversized: int = 0
    estimated: bool = False


def plan(
    query: Item,
    items: Sequence[Item],
    limits: Limits,
    concurrency: int,
    count_tokens: Callable[[str], int],
    *,
    exact: bool = False,
) -> Plan:
    """Pack the items into requests that are all answered as soon as can be.

    A request holds items of one kind: texts, images (with a text or without) or videos, as many as
    the limits allow of it. Only texts are weighed: how many tokens an image is is not published.

    Counting tokens takes longer than everything else, so it is done only as far as needed. A text's
    bytes are a bound, and enough where they ask for no more requests than the number of documents
    does. Else its tokens are estimated: as half its bytes where that is enough, else by a sample of
    the texts. At worst, rarely, the service refuses a request as too large, which is then planned
    again by exact counts. What may be over the item limit is counted in any case.

    Args:
        query: Goes into every request.
        items: The documents.
        limits: What a request may hold.
        concurrency: How many requests run at the same time.
        count_tokens: Gives the exact count of tokens of a text.
        exact: Count, where the bounds do not settle it.

    Raises:
        InvalidInputError: A text that can't be written as UTF-8.
    """
    if {*map(type, items)} <= {str}:
        texts = cast(Sequence[str], items)
        return _plan(text_of(query), texts, limits, concurrency, count_tokens, exact)
    _bounds(text_of(query), list(map(text_of, items)))  # an error should name the place in items
    parts = []
    for kind, places in _by_kind(items).items():
        texts = [text_of(items[place]) for place in places]
        own = replace(limits, documents=getattr(limits, kind))
        part = _plan(text_of(query), texts, own, concurrency, count_tokens, exact)
        parts.append(part._replace(requests=[[places[i] for i in each] for each in part.requests]))
    of_query = _plan(text_of(query), [], limits, concurrency, count_tokens, exact).oversized
    return Plan(
        [request for part in parts for request in part.requests],
        of_query + sum(part.oversized - of_query for part in parts),
        any(part.estimated for part in parts),
    )


def _by_kind(items: Sequence[Item]) -> dict[str, list[int]]:
    """The places of the items that one request may hold, by the name of their limit."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        held = item.modalities if isinstance(item, Content) else ()
        kind = "videos" if "video" in held else "images" if "image" in held else "documents"
        places.setdefault(kind, []).append(place)
    return places


def _plan(
    query: str,
    texts: Sequence[str],
    limits: Limits,
    concurrency: int,
    count_tokens: Callable[[str], int],
    exact: bool,
) -> Plan:
    """A plan of items of one kind, of which these are the texts."""
    if _fits_one_request(query, texts, limits):
        return Plan([list(range(len(texts)))] if texts else [])
    count = cache(count_tokens)
    items, bounds = (query, *texts), _bounds(query, texts)

    def sizes(share: float = 1.0) -> list[int]:
        """The items' tokens: counted where they may be too many, else a share of their bytes."""
        return [
            count(item) if bound > limits.item_tokens else math.ceil(share * bound)
            for item, bound in zip(items, bounds, strict=True)
        ]

    tokens = sizes()
    oversized = sum(size > limits.item_tokens for size in tokens)
    by_count = _rounded(math.ceil(len(texts) / limits.documents), concurrency)
    if _aim(_costs(tokens, limits), limits, concurrency) <= by_count:
        return Plan(pack(tokens, limits, concurrency), oversized)
    if exact:
        return Plan(pack([count(item) for item in items], limits, concurrency), oversized)
    tokens = sizes(_ENOUGH)
    if _aim(_costs(tokens, limits), limits, concurrency) > by_count:
        tokens = [count(query), *sizes(_tokens_a_byte(texts, count))[1:]]
    return Plan(pack(tokens, limits, concurrency), oversized, estimated=True)


_ENOUGH = 0.5
"""More tokens a byte than prose has: the examples' English has 0.23 and their Chinese 0.26."""

_SAMPLE = 16
"""How many texts are counted for an estimate, spread evenly over all of them."""


def _tokens_a_byte(texts: Sequence[str], count: Callable[[str], int]) -> float:
    """How many tokens a byte of the texts is, by a sample; rather too many, at most 1.

    The ratio of the sample's totals, and two of its standard errors (Cochran, Sampling Techniques,
    chapter 6).
    """
    sample = texts[:: math.ceil(len(texts) / _SAMPLE)]
    sizes, tokens = [byte_bound(text) for text in sample], [count(text) for text in sample]
    size = max(1, sum(sizes))
    share = sum(tokens) / size
    errors = (own - share * bound for own, bound in zip(tokens, sizes, strict=True))
    variance = sum(error**2 for error in errors) / max(1, len(sample) - 1)
    return min(1.0, share + 2 * math.sqrt(variance * len(sample)) / size)


def _fits_one_request(query: str, texts: Sequence[str], limits: Limits) -> bool:
    """Whether everything certainly fits in one request: told by bounds alone, at almost no cost."""
    # A character is at least a byte: what is too long by characters needs no closer look.
    if len(texts) > limits.documents or sum(map(len, texts)) > limits.request_tokens:
        return False
    bounds = _bounds(query, texts)
    tokens = bounds[0] * len(texts) + sum(bounds[1:])
    return max(bounds) <= limits.item_tokens and tokens <= limits.request_tokens


def pack(tokens: Sequence[int], limits: Limits, concurrency: int) -> list[list[int]]:
    """Put each text in a request: in one if it can be, else in requests of equal size.

    A text costs its own tokens and the query's once more, in whichever request: splitting costs
    nothing, and a smaller request is answered sooner. So where one request does not do, as many
    are made as run at the same time, or a multiple of it.

    Whether the service cuts a text over the item limit before it counts is not published: it counts
    in full here, which is never too much for a request. One that is larger than a whole request
    goes alone, in the hope that it is cut.

    Args:
        tokens: Those of the query, and then those of each text.
        limits: What a request may hold.
        concurrency: How many requests run at the same time.

    Returns:
        For each request, the places of its texts.
    """
    costs = _costs(tokens, limits)
    count = _aim(costs, limits, concurrency)
    if count <= 1:
        return [list(range(len(costs)))] * count
    return _balanced(count, costs, limits) or _filled(costs, limits)


def _costs(tokens: Sequence[int], limits: Limits) -> list[int]:
    query, *texts = tokens
    return [min(query + text, limits.request_tokens) for text in texts]


def _aim(costs: Sequence[int], limits: Limits, concurrency: int) -> int:
    """How many requests there should be."""
    fewest = max(len(costs) / limits.documents, sum(costs) / limits.request_tokens)
    return min(_rounded(math.ceil(fewest), concurrency), len(costs))


def _rounded(requests: int, concurrency: int) -> int:
    """So many that none of those that run at the same time idles; one stays one."""
    return requests if requests <= 1 else math.ceil(requests / concurrency) * concurrency


def _balanced(count: int, costs: Sequence[int], limits: Limits) -> list[list[int]] | None:
    """So many requests of almost equal cost, the largest text first; None where one overflows."""
    requests: list[list[int]] = [[] for _ in range(count)]
    open_requests = [(0, number) for number in range(count)]  # a heap, by cost
    for place in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        if not open_requests:
            return None
        cost, number = heappop(open_requests)
        cost += costs[place]
        if cost > limits.request_tokens:
            return None
        requests[number].append(place)
        if len(requests[number]) < limits.documents:
            heappush(open_requests, (cost, number))
    return [sorted(places) for places in requests]


def _filled(costs: Sequence[int], limits: Limits) -> list[list[int]]:
    """As few requests as the better of first-fit and first-fit decreasing finds."""
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
    return len(text) if text.isascii() else len(normalize("NFC", text).encode())


def _bounds(query: str, texts: Sequence[str]) -> list[int]:
    bounds = []
    for place, item in enumerate((query, *texts)):
        try:
            bounds.append(byte_bound(item))
        except UnicodeEncodeError:
            name = "The query" if place == 0 else f"Text {place - 1}"
            raise not_utf8(name) from None
    return bounds

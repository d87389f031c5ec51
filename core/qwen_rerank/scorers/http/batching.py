"""Batch texts into requests within a service's limits. Pure: no I/O, no clock, no model."""

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
    """How texts are batched into requests.

    Attributes:
        requests: For each request, the indices of its texts. Every index is in exactly one request.
        oversized: How many items, including the query, exceed the limit of tokens per item.
        estimated: Whether tokens were estimated, so that a request may turn out to be too large.
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
    """Batch the items into requests so that all scores arrive as early as possible.

    A request holds items of one kind: texts, images (with or without text) or videos, up to the
    limit for that kind. Only the tokens of texts count: those of images are not published.

    Counting tokens takes longer than everything else, so it is done only if needed. A text's bytes
    are an upper bound of its tokens. If that bound needs no more requests than the number of
    documents does, it is used. Otherwise tokens are estimated: as half the bytes if that is enough,
    else from a sample of the texts. In rare cases the service then refuses a request as too large,
    and it is planned again with exact counts. Texts that may exceed the item limit are always
    counted.

    Args:
        query: The query, which is part of every request.
        items: The documents.
        limits: What a request may hold.
        concurrency: How many requests run at the same time.
        count_tokens: Returns the exact number of tokens of a text.
        exact: Count all tokens if the bounds are not enough.

    Raises:
        InvalidInputError: A text can't be encoded in UTF-8.
    """
    if {*map(type, items)} <= {str}:
        texts = cast(Sequence[str], items)
        return _plan_texts(text_of(query), texts, limits, concurrency, count_tokens, exact)
    _byte_bounds(text_of(query), list(map(text_of, items)))  # errors name the index in items
    parts = []
    for kind, indices in _indices_by_limit(items).items():
        texts = [text_of(items[index]) for index in indices]
        own = replace(limits, documents=getattr(limits, kind))
        part = _plan_texts(text_of(query), texts, own, concurrency, count_tokens, exact)
        parts.append(part._replace(requests=[[indices[i] for i in each] for each in part.requests]))
    of_query = _plan_texts(text_of(query), [], limits, concurrency, count_tokens, exact).oversized
    return Plan(
        [request for part in parts for request in part.requests],
        of_query + sum(part.oversized - of_query for part in parts),
        any(part.estimated for part in parts),
    )


def _indices_by_limit(items: Sequence[Item]) -> dict[str, list[int]]:
    """Return the indices of the items of each kind, by the name of the kind's limit."""
    indices: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        held = item.modalities if isinstance(item, Content) else ()
        kind = "videos" if "video" in held else "images" if "image" in held else "documents"
        indices.setdefault(kind, []).append(index)
    return indices


def _plan_texts(
    query: str,
    texts: Sequence[str],
    limits: Limits,
    concurrency: int,
    count_tokens: Callable[[str], int],
    exact: bool,
) -> Plan:
    """Return the plan for items of one kind with these texts."""
    if _fits_one_request(query, texts, limits):
        return Plan([list(range(len(texts)))] if texts else [])
    count = cache(count_tokens)
    items, bounds = (query, *texts), _byte_bounds(query, texts)

    def sizes(share: float = 1.0) -> list[int]:
        """Return the items' tokens: counted if they may be too many, else a share of the bytes."""
        return [
            count(item) if bound > limits.item_tokens else math.ceil(share * bound)
            for item, bound in zip(items, bounds, strict=True)
        ]

    tokens = sizes()
    oversized = sum(size > limits.item_tokens for size in tokens)
    by_count = _rounded_up(math.ceil(len(texts) / limits.documents), concurrency)
    if _request_count(_costs_of_texts(tokens, limits), limits, concurrency) <= by_count:
        return Plan(pack(tokens, limits, concurrency), oversized)
    if exact:
        return Plan(pack([count(item) for item in items], limits, concurrency), oversized)
    tokens = sizes(_HIGH_TOKENS_PER_BYTE)
    if _request_count(_costs_of_texts(tokens, limits), limits, concurrency) > by_count:
        tokens = [count(query), *sizes(_tokens_per_byte(texts, count))[1:]]
    return Plan(pack(tokens, limits, concurrency), oversized, estimated=True)


_HIGH_TOKENS_PER_BYTE = 0.5
"""More tokens per byte than prose has: English in the examples has 0.23, Chinese 0.26."""

_SAMPLE_SIZE = 16
"""How many texts to count for an estimate, spread evenly over all texts."""


def _tokens_per_byte(texts: Sequence[str], count: Callable[[str], int]) -> float:
    """Estimate the tokens per byte of the texts from a sample: rather too high, at most 1.

    This is the ratio of the sample's totals plus two standard errors (Cochran, Sampling Techniques,
    chapter 6).
    """
    sample = texts[:: math.ceil(len(texts) / _SAMPLE_SIZE)]
    sizes, tokens = [byte_bound(text) for text in sample], [count(text) for text in sample]
    size = max(1, sum(sizes))
    share = sum(tokens) / size
    errors = (own - share * bound for own, bound in zip(tokens, sizes, strict=True))
    variance = sum(error**2 for error in errors) / max(1, len(sample) - 1)
    return min(1.0, share + 2 * math.sqrt(variance * len(sample)) / size)


def _fits_one_request(query: str, texts: Sequence[str], limits: Limits) -> bool:
    """Whether everything surely fits in one request. Uses only bounds, so it is almost free."""
    # Each character has at least one byte, so too many characters are too many bytes.
    if len(texts) > limits.documents or sum(map(len, texts)) > limits.request_tokens:
        return False
    bounds = _byte_bounds(query, texts)
    tokens = bounds[0] * len(texts) + sum(bounds[1:])
    return max(bounds) <= limits.item_tokens and tokens <= limits.request_tokens


def pack(tokens: Sequence[int], limits: Limits, concurrency: int) -> list[list[int]]:
    """Put the texts into one request if they fit, else into requests of equal size.

    A text costs its own tokens and the query's tokens in any request, so more requests cost nothing
    extra, and the service answers smaller ones sooner. If one request is not enough, their number
    is therefore `concurrency` or a multiple of it.

    It is not published whether the service truncates texts over the item limit before it counts
    tokens. All tokens count here, so a request is never too large. A text that is larger than a
    whole request gets its own, in case the service truncates it.

    Args:
        tokens: The tokens of the query, then of each text.
        limits: What a request may hold.
        concurrency: How many requests run at the same time.

    Returns:
        For each request, the indices of its texts.
    """
    costs = _costs_of_texts(tokens, limits)
    count = _request_count(costs, limits, concurrency)
    if count <= 1:
        return [list(range(len(costs)))] * count
    return _balanced_requests(count, costs, limits) or _fewest_requests(costs, limits)


def _costs_of_texts(tokens: Sequence[int], limits: Limits) -> list[int]:
    query, *texts = tokens
    return [min(query + text, limits.request_tokens) for text in texts]


def _request_count(costs: Sequence[int], limits: Limits, concurrency: int) -> int:
    """Return how many requests to send."""
    fewest = max(len(costs) / limits.documents, sum(costs) / limits.request_tokens)
    return min(_rounded_up(math.ceil(fewest), concurrency), len(costs))


def _rounded_up(requests: int, concurrency: int) -> int:
    """Round up to a multiple of the concurrency, so that no slot is idle; one request stays one."""
    return requests if requests <= 1 else math.ceil(requests / concurrency) * concurrency


def _balanced_requests(count: int, costs: Sequence[int], limits: Limits) -> list[list[int]] | None:
    """Return `count` requests of similar cost, largest text first; None if one is too large."""
    requests: list[list[int]] = [[] for _ in range(count)]
    open_requests = [(0, number) for number in range(count)]  # a heap, by cost
    for index in sorted(range(len(costs)), key=costs.__getitem__, reverse=True):
        if not open_requests:
            return None
        cost, number = heappop(open_requests)
        cost += costs[index]
        if cost > limits.request_tokens:
            return None
        requests[number].append(index)
        if len(requests[number]) < limits.documents:
            heappush(open_requests, (cost, number))
    return [sorted(indices) for indices in requests]


def _fewest_requests(costs: Sequence[int], limits: Limits) -> list[list[int]]:
    """Return the fewer requests of first-fit and first-fit decreasing."""
    in_order = range(len(costs))
    decreasing = sorted(in_order, key=costs.__getitem__, reverse=True)
    return min((_first_fit(order, costs, limits) for order in (in_order, decreasing)), key=len)


def _first_fit(order: Iterable[int], costs: Sequence[int], limits: Limits) -> list[list[int]]:
    requests: list[list[int]] = []
    rooms: list[int] = []  # tokens left in each request
    for index in order:
        for number, room in enumerate(rooms):
            if room >= costs[index] and len(requests[number]) < limits.documents:
                break
        else:
            number = len(requests)
            requests.append([])
            rooms.append(limits.request_tokens)
        requests[number].append(index)
        rooms[number] -= costs[index]
    return requests


def byte_bound(text: str) -> int:
    """Return the most tokens that a text can have: its bytes, as each token has at least one.

    Counts bytes of UTF-8 after NFC, which the Qwen tokenizer applies first. Holds for any
    byte-level BPE.

    Raises:
        UnicodeEncodeError: The text holds half of a surrogate pair.
    """
    return len(text) if text.isascii() else len(normalize("NFC", text).encode())


def _byte_bounds(query: str, texts: Sequence[str]) -> list[int]:
    bounds = []
    for index, item in enumerate((query, *texts)):
        try:
            bounds.append(byte_bound(item))
        except UnicodeEncodeError:
            name = "The query" if index == 0 else f"Text {index - 1}"
            raise not_utf8(name) from None
    return bounds

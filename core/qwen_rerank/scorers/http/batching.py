"""Batching texts into requests within a service's limits. Pure: no I/O, no clock, no model."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from heapq import heappop, heappush
from typing import NamedTuple, cast

from qwen_rerank.inputs.content import Content, Item, text_of
from qwen_rerank.scorers.catalog import Limits
from qwen_rerank.text.normalization import normalize
from qwen_rerank.text.tokenizer import exceeds
from qwen_rerank.validation import is_utf8, not_utf8

__all__ = ["Plan", "TokenRatio", "byte_bound", "pack", "plan"]


class Plan(NamedTuple):
    """How texts are batched into requests.

    Attributes:
        requests: For each request, the indices of its texts in ascending order. Every index is in
            exactly one.
        oversized: The items that exceed the token limit per item: 0 for the query, 1 for the first
            text, and so on. If there are any, `requests` is empty: shorten them and plan again.
        estimated_bytes: The bytes of all texts, and of the query once per text, if tokens were
            estimated from them; 0 if they were not.
    """

    requests: list[list[int]]
    oversized: Sequence[int] = ()
    estimated_bytes: int = 0

    @property
    def is_estimated(self) -> bool:
        """Whether tokens were estimated, so that the service can find a request too large."""
        return self.estimated_bytes > 0


class TokenRatio:
    """The tokens per byte of a scorer's texts, learned from what the service bills.

    It follows a rise at once and a fall slowly, as a request that is too large must be sent again.
    """

    def __init__(self) -> None:
        self._highest: float | None = None

    def learn(self, tokens: int, size: int) -> None:
        """Take in the tokens and bytes of a call; 0 tokens if the service does not report them."""
        if tokens:
            ratio, highest = tokens / size, self._highest or 0.0
            self._highest = max(ratio, highest + _FALL * (ratio - highest))

    @property
    def estimate(self) -> float | None:
        """The ratio to assume for the next call, with some reserve; None if nothing is known."""
        return None if self._highest is None else min(1.0, _RESERVE * self._highest)


_FALL = 0.1
_RESERVE = 1.1


def plan(
    query: Item,
    items: Sequence[Item],
    limits: Limits,
    concurrency: int,
    count_tokens: Callable[[str], int],
    *,
    ratio: float | None = None,
    exact: bool = False,
) -> Plan:
    """Batch the items into requests that are all answered as soon as possible.

    A request holds items of one kind (texts, images with or without text, or videos), as many as
    the limits allow for that kind. Only text counts towards the token limits, as the number of
    tokens of an image is not published.

    Counting tokens takes longer than everything else, so no more are counted than needed. The bytes
    of a text are an upper bound. They are enough if they ask for no more requests than the number
    of documents does. Otherwise the tokens are estimated: as half of the bytes if that is enough,
    else by the ratio of tokens to bytes, which is known from earlier calls or taken from a sample
    of the texts. An estimate can be too low, though this is rare. The service then refuses the
    request, and it is planned again with exact counts. Items that may exceed the limit per item are
    always counted, and those that do are listed instead of batched.

    Args:
        query: The query, which is part of every request.
        items: The documents.
        limits: The size limits of a request.
        concurrency: How many requests run at the same time.
        count_tokens: Returns the exact number of tokens of a text.
        ratio: The tokens per byte to assume; None to find it from a sample.
        exact: Count the tokens if the bounds are not enough, instead of estimating them.

    Raises:
        InvalidInputError: A text cannot be encoded as UTF-8.
    """

    def plan_texts(texts: Sequence[str], limits: Limits) -> Plan:
        return _plan_texts(
            text_of(query), texts, limits, concurrency, count_tokens, ratio=ratio, exact=exact
        )

    if {*map(type, items)} <= {str}:
        return plan_texts(cast(Sequence[str], items), limits)
    _byte_bounds(text_of(query), [text_of(item) for item in items])  # errors name the index here
    plans, oversized = [], set[int]()
    for kind, indices in _by_kind(items).items():
        texts = [text_of(items[index]) for index in indices]
        part = plan_texts(texts, replace(limits, documents=getattr(limits, kind)))
        plans.append(part._replace(requests=[[indices[i] for i in each] for each in part.requests]))
        oversized.update(indices[number - 1] + 1 if number else 0 for number in part.oversized)
    if oversized:
        return Plan([], sorted(oversized))
    return Plan(
        [request for part in plans for request in part.requests],
        estimated_bytes=sum(part.estimated_bytes for part in plans),
    )


def _by_kind(items: Sequence[Item]) -> dict[str, list[int]]:
    """The indices of the items that can share a request, by the name of their limit."""
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
    *,
    ratio: float | None = None,
    exact: bool = False,
) -> Plan:
    """A plan for items of one kind, of which these are the texts."""
    bounds = _byte_bounds(query, texts)
    if _fit_one_request(bounds, limits):
        return Plan([list(range(len(texts)))] if texts else [])
    count = cache(count_tokens)
    may_exceed = [n for n, bound in enumerate(bounds) if bound > limits.item_tokens]
    items = {number: texts[number - 1] if number else query for number in may_exceed}
    if oversized := [n for n in items if exceeds(items[n], limits.item_tokens, count)]:
        return Plan([], oversized)
    long = {number: count(item) for number, item in items.items()}
    by_documents = _round_up(math.ceil(len(texts) / limits.documents), concurrency)
    if _estimate_requests(bounds, long, 1.0, limits, concurrency) <= by_documents:
        return Plan(pack(_sizes(bounds, long, 1.0), limits, concurrency))
    if exact:
        sizes = [long.get(number) or count(item) for number, item in enumerate((query, *texts))]
        return Plan(pack(sizes, limits, concurrency))
    if _estimate_requests(bounds, long, _SAFE_RATIO, limits, concurrency) <= by_documents:
        ratio = _SAFE_RATIO
    elif ratio is None:
        long = {0: count(query), **long}
        ratio = _sample_ratio([text for at, text in enumerate(texts, 1) if at not in long], count)
    if _estimate_requests(bounds, long, ratio, limits, concurrency) == 1:
        requests = [list(range(len(texts)))]
    else:
        requests = pack(_sizes(bounds, long, ratio), limits, concurrency)
    return Plan(requests, estimated_bytes=bounds[0] * (len(texts) - 1) + sum(bounds))


_SAFE_RATIO = 0.5
"""More than prose has: the examples' English has 0.23 tokens per byte, and their Chinese 0.26."""

_SAMPLE = 16
"""How many texts are counted for an estimate, spread evenly over all of them."""


def _fit_one_request(bounds: Sequence[int], limits: Limits) -> bool:
    """Whether one request is certainly large enough."""
    documents, total = len(bounds) - 1, sum(bounds) - bounds[0]
    return (
        documents <= limits.documents
        and max(bounds) <= limits.item_tokens
        and bounds[0] * documents + total <= limits.request_tokens
    )


def _sizes(bounds: Sequence[int], counted: Mapping[int, int], ratio: float) -> list[int]:
    """The tokens of the query and of each text: as counted, or else by their bytes."""
    sizes = [math.ceil(ratio * bound) for bound in bounds] if ratio < 1 else list(bounds)
    for number, tokens in counted.items():
        sizes[number] = tokens
    return sizes


def _estimate_requests(
    bounds: Sequence[int],
    counted: Mapping[int, int],
    ratio: float,
    limits: Limits,
    concurrency: int,
) -> int:
    """How many requests the sizes ask for, at this ratio of tokens to bytes."""
    if counted.keys() - {0}:
        costs = _costs(_sizes(bounds, counted, ratio), limits)
        return _target(len(costs), sum(costs), limits, concurrency)
    documents, total = len(bounds) - 1, sum(bounds) - bounds[0]
    query = counted.get(0, ratio * bounds[0])
    return _target(documents, query * documents + ratio * total, limits, concurrency)


def _sample_ratio(texts: Sequence[str], count: Callable[[str], int]) -> float:
    """The tokens per byte of a sample, rather too high than too low; at most 1.

    The ratio of the sample's totals plus two of its standard errors (Cochran, Sampling Techniques,
    chapter 6).
    """
    sample = texts[:: math.ceil(len(texts) / _SAMPLE) or 1]
    sizes, tokens = [byte_bound(text) for text in sample], [count(text) for text in sample]
    size = max(1, sum(sizes))
    ratio = sum(tokens) / size
    errors = (own - ratio * bound for own, bound in zip(tokens, sizes, strict=True))
    variance = sum(error**2 for error in errors) / max(1, len(sample) - 1)
    return min(1.0, ratio + 2 * math.sqrt(variance * len(sample)) / size)


def pack(sizes: Sequence[int], limits: Limits, concurrency: int) -> list[list[int]]:
    """Put each text in a request: all in one if possible, else in requests of equal size.

    A text costs its own tokens and those of the query, whichever request it is in. So more requests
    cost nothing, and smaller ones are answered sooner. If one request is not enough, there are as
    many as run at the same time, or a multiple of that.

    A text that is larger than a whole request, which the limits rarely allow, is sent alone.

    Args:
        sizes: The tokens of the query, and then those of each text.
        limits: The size limits of a request.
        concurrency: How many requests run at the same time.

    Returns:
        For each request, the indices of its texts in ascending order.
    """
    costs = _costs(sizes, limits)
    count = _target(len(costs), sum(costs), limits, concurrency)
    if count <= 1:
        return [list(range(len(costs)))] * count
    return _deal(count, costs, limits) or _balance(count, costs, limits) or _fill(costs, limits)


def _costs(sizes: Sequence[int], limits: Limits) -> list[int]:
    query, *texts = sizes
    return [min(query + text, limits.request_tokens) for text in texts]


def _target(documents: int, cost: float, limits: Limits, concurrency: int) -> int:
    """How many requests there should be."""
    fewest = max(documents / limits.documents, cost / limits.request_tokens)
    return min(_round_up(math.ceil(fewest), concurrency), documents)


def _round_up(requests: int, concurrency: int) -> int:
    """The next multiple of the requests that run at the same time, unless one is enough."""
    return requests if requests <= 1 else math.ceil(requests / concurrency) * concurrency


def _by_cost(costs: Sequence[int]) -> list[int]:
    """The indices of the texts, the most expensive first."""
    return sorted(range(len(costs)), key=costs.__getitem__, reverse=True)


def _deal(count: int, costs: Sequence[int], limits: Limits) -> list[list[int]] | None:
    """Deal the texts out, back and forth; None if that does not make requests of equal cost.

    It does if no text is much more expensive than the others, and takes a tenth of the time.
    """
    order, step = _by_cost(costs), 2 * count
    requests = [sorted(order[at::step] + order[step - 1 - at :: step]) for at in range(count)]
    loads = [sum(map(costs.__getitem__, request)) for request in requests]
    is_equal = max(loads) <= min(limits.request_tokens, _MAX_IMBALANCE * sum(loads) / count)
    return requests if is_equal and max(map(len, requests)) <= limits.documents else None


_MAX_IMBALANCE = 1.05
"""How much more than the average the most expensive request may cost."""


def _balance(count: int, costs: Sequence[int], limits: Limits) -> list[list[int]] | None:
    """Give the next most expensive text to the cheapest request; None if a request overflows."""
    requests: list[list[int]] = [[] for _ in range(count)]
    open_requests = [(0, number) for number in range(count)]  # a heap, by cost
    for index in _by_cost(costs):
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


def _fill(costs: Sequence[int], limits: Limits) -> list[list[int]]:
    """As few requests as the better of first-fit and first-fit decreasing finds."""
    orders = (range(len(costs)), _by_cost(costs))
    return min((_first_fit(order, costs, limits) for order in orders), key=len)


def _first_fit(order: Sequence[int], costs: Sequence[int], limits: Limits) -> list[list[int]]:
    """Put each text in the first request with room for it, in O(n log n)."""
    leaves = 1 << max(0, len(order) - 1).bit_length()
    requests: list[list[int]] = [[] for _ in range(leaves)]
    rooms = [limits.request_tokens] * (2 * leaves)  # a tree: each node has the most room below it
    for index in order:
        node = 1
        while node < leaves:
            node = 2 * node if rooms[2 * node] >= costs[index] else 2 * node + 1
        request = requests[node - leaves]
        request.append(index)
        is_full = len(request) == limits.documents
        rooms[node] = -1 if is_full else rooms[node] - costs[index]
        while node := node // 2:
            rooms[node] = max(rooms[2 * node], rooms[2 * node + 1])
    return [sorted(indices) for indices in requests if indices]


def byte_bound(text: str) -> int:
    """The most tokens that the text can have: its bytes, as each token is at least one byte.

    Bytes of UTF-8 after NFC, which the Qwen tokenizer applies first. Holds for any byte-level BPE.

    Raises:
        UnicodeEncodeError: The text holds half of a surrogate pair.
    """
    return len(text) if text.isascii() else len(normalize("NFC", text).encode())


_QUICK_CHARACTERS = 1_000
"""Up to this length even the worst text is checked for NFC in less than a millisecond."""


def _byte_bounds(query: str, texts: Sequence[str]) -> list[int]:
    """The most tokens that the query and each text can have."""
    items, is_normalized = (query, *texts), unicodedata.is_normalized
    try:
        return [
            len(item)
            if item.isascii()
            else len(item.encode())
            if len(item) <= _QUICK_CHARACTERS and is_normalized("NFC", item)
            else byte_bound(item)
            for item in items
        ]
    except UnicodeEncodeError:
        number = next(number for number, item in enumerate(items) if not is_utf8(item))
        raise not_utf8(f"Text {number - 1}" if number else "The query") from None

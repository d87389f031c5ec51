"""The models of the DashScope service: one table of everything that is published about them.

Sources: Alibaba Cloud Model Studio, "Text rerank" (February, March, June and November 2026) and the
pages of the models. What they don't say is None here.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher, get_close_matches
from functools import cache, lru_cache
from typing import Final, NamedTuple

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.inputs.content import MULTIMODAL, TEXT_ONLY, Modality
from qwen_rerank.validation import check_whole

__all__ = [
    "BEIJING",
    "CATALOG",
    "SINGAPORE",
    "CatalogEntry",
    "Limits",
    "Price",
    "catalog_entry",
    "check_model",
    "model_names",
    "published_limits",
    "published_price",
    "published_prices",
]

_log = logging.getLogger(__name__)

BEIJING: Final = "cn-beijing"
SINGAPORE: Final = "ap-southeast-1"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a request may hold. The defaults are those of qwen3-rerank in Beijing.

    A request's tokens are the query's tokens times the number of documents, plus the documents'
    tokens. The service refuses a request that is over its limit. An item over its limit is cut
    according to the documentation of June 2026, and refused according to November's.

    Attributes:
        documents: Documents per request, at least 1.
        item_tokens: Tokens per query or document, at least 1.
        request_tokens: Tokens per request, at least 1.
        images: Documents per request if each has an image, with or without text; at least 1.
        videos: Documents per request if each has a video; at least 1.

    Raises:
        InvalidInputError: A limit is not a whole number of at least 1.
    """

    documents: int = 500
    item_tokens: int = 4_000
    request_tokens: int = 30_000
    images: int = 40
    videos: int = 4

    def __post_init__(self) -> None:
        for limit in fields(self):
            check_whole(f"limits.{limit.name}", getattr(self, limit.name), at_least=1)


@dataclass(frozen=True, slots=True)
class Price:
    """The list price of a model in a region.

    Alibaba Cloud bills its China account in yuan, and free quotas and discounts apply, so costs at
    this price are estimates.

    Attributes:
        model: The service's name of the model.
        region: The region that serves it, such as `"cn-beijing"`.
        text: US dollars per million tokens of text; None if only a price in yuan is published.
        image: US dollars per million tokens of images; None if the model takes none.
        date: The month in which the price was read, such as `"2026-06"`.
        source: Where the price was read.
        text_cny: Yuan per million tokens of text; None if not published.
        image_cny: Yuan per million tokens of images; None if not published.
    """

    model: str
    region: str
    text: float | None
    image: float | None
    date: str
    source: str
    text_cny: float | None = None
    image_cny: float | None = None

    def of(self, tokens: int) -> float | None:
        """Return the cost of this many tokens of text in US dollars; None if it is not known."""
        return None if self.text is None else self.text * tokens / 1e6


class Source(NamedTuple):
    """A page of the documentation, and the month of the copy that was read."""

    page: str
    month: str


class PerMillion(NamedTuple):
    """A price per million tokens, in one currency; None if it is not published."""

    text: float | None = None
    image: float | None = None


_NOT_PUBLISHED = PerMillion()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """What is published about a model in a region.

    Attributes:
        model: The service's name of the model.
        region: The region that serves it.
        limits: How much a request may hold; None if not published.
        usd: List price in US dollars.
        cny: List price in yuan.
        requests_per_minute: The service's limit per account; None if not published.
        tokens_per_minute: The service's limit per account; None if not published.
        modalities: What the query and the documents may hold.
        takes_instruct: Whether the model takes an instruction; None if not published.
        only_region: Whether the documentation says that no other region serves the model.
        discontinued: The day on which the model was discontinued; None if it is still served.
        successor: The model that the documentation recommends instead of a discontinued one.
        source: Where the limits and the rest were read.
        price_source: Where the price was read; None if `source` has it too.
    """

    model: str
    region: str
    limits: Limits | None = None
    usd: PerMillion = _NOT_PUBLISHED
    cny: PerMillion = _NOT_PUBLISHED
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    modalities: frozenset[Modality] = TEXT_ONLY
    takes_instruct: bool | None = None
    only_region: bool = False
    discontinued: str | None = None
    successor: str | None = None
    source: Source
    price_source: Source | None = None

    @property
    def takes_objects(self) -> bool:
        """Whether the query and the documents are objects, such as {"text": …}, not strings."""
        return self.modalities != TEXT_ONLY

    @property
    def price(self) -> Price | None:
        """The list price; None if none is published."""
        if self.usd.text is None and self.cny.text is None:
            return None
        page, month = self.price_source or self.source
        return Price(self.model, self.region, *self.usd, month, page, *self.cny)


_REFERENCE = Source('Alibaba Cloud Model Studio, "Text rerank", API reference', "2026-06")
_OVERVIEW = Source('Alibaba Cloud Model Studio, "Text rerank", model overview', "2026-03")
_QWEN3 = Source('Alibaba Cloud Model Studio, "qwen3-rerank"', "2026-06")
_QWEN3_7 = Source('Alibaba Cloud Model Studio, "qwen3-7-text-rerank"', "2026-11")
_QWEN3_VL = Source('Alibaba Cloud Model Studio, "qwen3-vl-rerank"', "2026-06")

CATALOG: Sequence[CatalogEntry] = (
    CatalogEntry(
        model="qwen3.7-text-rerank",
        region=BEIJING,
        limits=Limits(documents=500, item_tokens=30_000, request_tokens=120_000),
        cny=PerMillion(text=0.5),
        requests_per_minute=3_000,
        only_region=True,
        source=_QWEN3_7,
    ),
    CatalogEntry(
        model="qwen3-rerank",
        region=BEIJING,
        # Its own page says 30,000 tokens per request, the newest "Text rerank" page 120,000.
        limits=Limits(documents=500, item_tokens=4_000, request_tokens=30_000),
        usd=PerMillion(text=0.069),
        cny=PerMillion(text=0.5),
        requests_per_minute=5_400,
        takes_instruct=True,
        source=_QWEN3,
    ),
    CatalogEntry(
        model="qwen3-rerank",
        region=SINGAPORE,
        limits=Limits(documents=500, item_tokens=4_000, request_tokens=120_000),
        usd=PerMillion(text=0.1),
        requests_per_minute=5_400,
        takes_instruct=True,
        source=_QWEN3,
    ),
    CatalogEntry(
        model="qwen3-vl-rerank",
        region=BEIJING,
        limits=Limits(
            documents=100, item_tokens=8_000, request_tokens=120_000, images=40, videos=4
        ),
        usd=PerMillion(text=0.1, image=0.258),
        cny=PerMillion(text=0.7, image=1.8),
        requests_per_minute=600,
        modalities=MULTIMODAL,
        takes_instruct=True,
        source=_QWEN3_VL,
        price_source=_OVERVIEW,
    ),
    CatalogEntry(
        model="gte-rerank-v2",
        region=BEIJING,
        limits=Limits(documents=500, item_tokens=4_000, request_tokens=30_000),
        usd=PerMillion(text=0.115),
        takes_instruct=False,
        only_region=True,
        source=_REFERENCE,
        price_source=_OVERVIEW,
    ),
    CatalogEntry(
        model="gte-rerank",
        region=BEIJING,
        takes_instruct=False,
        discontinued="2026-05-30",
        successor="qwen3-rerank",
        source=_REFERENCE,
    ),
)
"""One entry per model and region."""

_USUAL = "qwen3-rerank"
"""The model whose limits an unknown model is assumed to have."""


def model_names() -> list[str]:
    """Return the names of the models that are served, each once."""
    return list(dict.fromkeys(entry.model for entry in CATALOG if entry.discontinued is None))


@lru_cache(maxsize=256)
def catalog_entry(model: str, region: str | None = None) -> CatalogEntry:
    """Return the entry that applies to a model.

    That is the model's own entry; else that of the model whose name begins this one, as in
    "qwen3-vl-rerank-2026-01"; else that of qwen3-rerank. If the region has no entry, the model's
    first one applies.

    Args:
        model: The service's name of the model.
        region: The region of the requests; None if it is not known.
    """
    known = {entry.model for entry in CATALOG}
    continued = [name for name in known if model == name or model.startswith(f"{name}-")]
    name = max(continued, key=len, default=_USUAL)
    entries = [entry for entry in CATALOG if entry.model == name]
    return next((entry for entry in entries if entry.region == region), entries[0])


def published_limits(model: str, region: str | None = None) -> Limits:
    """Return the limits of a model; those of qwen3-rerank if they are not published.

    Args:
        model: The service's name of the model, such as `"qwen3-rerank"`.
        region: The region of the requests; None if it is not known.
    """
    return catalog_entry(model, region).limits or Limits()


def published_prices() -> Sequence[Price]:
    """Return all published list prices, by model and region."""
    return [entry.price for entry in CATALOG if entry.price is not None]


def published_price(model: str, region: str | None) -> Price | None:
    """Return the list price of a model in a region; None if it is not known."""
    prices = (price for price in published_prices() if price.model == model)
    return next((price for price in prices if price.region == region), None)


def check_model(model: str, region: str | None, instruct: str | None, *, stacklevel: int) -> None:
    """Check that the service can serve a model. Unknown names pass: they may be new models.

    Warns once per process if the model is discontinued.

    Args:
        model: The service's name of the model.
        region: The region of the requests; None if it is not known.
        instruct: The task instruction, if there is one.
        stacklevel: As in `warnings.warn`: 2 is the caller.

    Raises:
        InvalidInputError: The model's name is a common mistake or an open model's, the region does
            not serve the model, or the model does not take an instruction.
    """
    entries = [entry for entry in CATALOG if entry.model == model]
    if not entries:
        _check_name(model)
        assumed = catalog_entry(model, region).model
        _log.debug("%s is not in the catalog: assuming the limits of %s", model, assumed)
    elif entries[0].discontinued is not None:
        _warn_discontinued(entries[0], stacklevel + 1)
    elif entries[0].only_region and region not in (None, entries[0].region):
        raise _not_served(entries[0], str(region))
    if instruct is not None and catalog_entry(model, region).takes_instruct is False:
        raise InvalidInputError(
            f"{model} does not take instruct, got {instruct!r}.",
            remedy=f'Pass model="{_USUAL}", which does, or leave instruct out.',
        )


_OPEN_MODEL = re.compile(r"(.*[/\\])?(qwen[/\\]|qwen3-(vl-)?reranker-).*", re.IGNORECASE)
"""Names of open Qwen3-Reranker models on Hugging Face and ModelScope, and of local folders."""

_COMMON_MISTAKES = {
    "qwenrerank": "qwen3-rerank",
    "textrerank": "qwen3-rerank",
    "qwenvlrerank": "qwen3-vl-rerank",
}
"""Model names by common mistakes that are more than misspellings, in the form of `_spelling`."""


def _check_name(model: str) -> None:
    """Refuse the names of open models, and misspelled names of known models.

    Names that differ in a number, or that continue a known name after a hyphen, can be new models.
    """
    if _OPEN_MODEL.fullmatch(model):
        raise InvalidInputError(
            f"{model!r} is an open model, which DashScope does not serve.",
            remedy="Run it with LocalScorer, or on a server of your own with ServerScorer. "
            f"DashScope's model is {_USUAL!r}.",
        )
    names = {entry.model for entry in CATALOG}
    spelling, spellings = _spelling(model), {_spelling(name): name for name in names}
    meant = {**_COMMON_MISTAKES, **spellings}.get(spelling)
    if meant is None:
        meant = next((name for name in names if _is_near_miss(model.lower(), name)), None)
    if meant is None and "rerank" not in spelling:  # a new model's name would have that word
        meant = next(iter(get_close_matches(model.lower(), names, 1, 0.8)), None)
    if meant is not None:
        raise InvalidInputError(
            f"{model!r} is not a DashScope model.", remedy=f"Did you mean {meant!r}?"
        )


def _spelling(model: str) -> str:
    """Return the name without what does not matter: case, doubling, separators, word endings."""
    single = re.sub(r"(.)\1+", r"\1", model.lower())
    return re.sub(r"rerank(er|ing)s?", "rerank", re.sub(r"[^a-z0-9]", "", single))


def _is_near_miss(model: str, name: str) -> bool:
    """Whether the names have the same number of words, all similar, with the same digits."""
    words, others = model.split("-"), name.split("-")
    return len(words) == len(others) and all(map(_is_similar, words, others))


def _is_similar(word: str, other: str) -> bool:
    has_same_digits = re.sub(r"[^0-9]", "", word) == re.sub(r"[^0-9]", "", other)
    return has_same_digits and SequenceMatcher(None, word, other).ratio() >= _MIN_SIMILARITY


_MIN_SIMILARITY = 0.75
"""One or two letters of a word differ, but "vl" and "xl" are two words."""


def _not_served(entry: CatalogEntry, region: str) -> InvalidInputError:
    served = [f'model="{other.model}"' for other in CATALOG if other.region == region]
    there = f"Pass {' or '.join(served)}, or" if served else "Pass"
    return InvalidInputError(
        f"{entry.model} is not served in the region {region!r}.",
        remedy=f'{there} region="{entry.region}" and a key of that region.',
    )


@cache
def _warn_discontinued(entry: CatalogEntry, stacklevel: int) -> None:
    warnings.warn(
        f"DashScope discontinued {entry.model} on {entry.discontinued}. Use {entry.successor}.",
        stacklevel=stacklevel,
    )

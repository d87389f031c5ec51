"""What DashScope's models cost: list prices, by model and region.

Alibaba Cloud bills its China account in yuan and knows free quotas and discounts: what a call cost
by this table is an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Price", "published_price", "published_prices"]

_OVERVIEW = 'Alibaba Cloud Model Studio, "Text rerank", model overview'
_MODEL_PAGE = 'Alibaba Cloud Model Studio, "qwen3-rerank", pricing'


@dataclass(frozen=True, slots=True)
class Price:
    """The list price of a model in a region.

    Attributes:
        model: The service's name of the model.
        region: Where it is served, such as `"cn-beijing"`.
        text: US dollars for a million tokens of text.
        image: US dollars for a million tokens of images; None where the model takes none.
        date: The month in which the price was read, such as `"2026-06"`.
        source: Where it was read.
    """

    model: str
    region: str
    text: float
    image: float | None
    date: str
    source: str

    def of(self, tokens: int) -> float:
        """What so many tokens of text cost, in US dollars."""
        return self.text * tokens / 1e6


_PRICES = (
    Price("gte-rerank-v2", "cn-beijing", 0.115, None, "2026-03", _OVERVIEW),
    Price("qwen3-rerank", "cn-beijing", 0.069, None, "2026-06", _MODEL_PAGE),
    Price("qwen3-rerank", "ap-southeast-1", 0.1, None, "2026-06", _MODEL_PAGE),
    Price("qwen3-vl-rerank", "cn-beijing", 0.1, 0.258, "2026-03", _OVERVIEW),
)


def published_prices() -> Sequence[Price]:
    """All list prices that are known, by model and region."""
    return _PRICES


def published_price(model: str, region: str | None) -> Price | None:
    """The list price of a model in a region; None where it is not known."""
    found = (price for price in _PRICES if (price.model, price.region) == (model, region))
    return next(found, None)

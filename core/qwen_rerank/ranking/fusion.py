"""Order documents from several named lists by their ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["fair_order", "fused_order"]

_RRF = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


def fused_order(ranks: Sequence[Mapping[str, int]]) -> list[int]:
    """Order documents by reciprocal rank fusion, best first.

    A document's weight is the sum of 1 / (60 + rank) over the lists that have it. Documents with
    equal weights keep their order.

    Args:
        ranks: Each document's rank, from 1, in every list that has it.

    Returns:
        Indices into `ranks`.
    """
    weights = list(map(_weight, ranks))
    return sorted(range(len(ranks)), key=weights.__getitem__, reverse=True)


def fair_order(ranks: Sequence[Mapping[str, int]]) -> list[int]:
    """Take documents from the lists in turn, best first.

    The first n documents include at least n // k from each of k lists, or all of a shorter list, so
    a longer list, or two that agree, cannot crowd out another. If documents have the same best
    rank, the one with the greater fused weight comes first.

    Args:
        ranks: Each document's rank, from 1, in every list that has it.

    Returns:
        Indices into `ranks`.
    """
    keys = [(min(own.values()), -_weight(own)) for own in ranks]
    return sorted(range(len(ranks)), key=keys.__getitem__)


def _weight(ranks: Mapping[str, int]) -> float:
    return sum(1 / (_RRF + rank) for rank in ranks.values())

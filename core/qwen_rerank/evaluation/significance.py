"""Whether a difference between two runs may be chance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import needed
from qwen_rerank.validation import check_whole, is_finite

__all__ = ["randomisation_test"]

_CELLS = 4_000_000
"""How many signs are drawn at a time, so that memory stays at some 40 MB."""


def randomisation_test(
    differences: Iterable[float], *, rounds: int = 10_000, seed: int = 0
) -> float:
    """How often chance alone gives a mean as far from 0, if each sign could as well be the other.

    The two-sided paired randomisation test (Fisher's) that Smucker, Allan and Carterette recommend
    for comparing two rankers by the same queries ("A comparison of statistical significance tests
    for information retrieval evaluation", CIKM 2007). Signs are drawn at random, and the ranking as
    it is counts as one more round, so that p is never 0 (Phipson and Smyth, "Permutation p-values
    should never be zero", 2010); where all patterns of signs are no more than `rounds`, each is
    tried once, and p is exact. It does not correct for several comparisons.

    Args:
        differences: The second run's value less that of the first, for each query.
        rounds: How many patterns of signs to try, at least 1.
        seed: What the patterns are drawn from; the same seed gives the same p.

    Returns:
        p, above 0 and at most 1; 1 where all differences are 0.

    Raises:
        InvalidInputError: No difference, or one that is no finite number; rounds below 1.
        MissingDependencyError: numpy is not installed.
    """
    check_whole("rounds", rounds, at_least=1)
    check_whole("seed", seed, at_least=0)
    found = list(differences)
    if not found or not all(map(is_finite, found)):
        raise InvalidInputError("differences must be finite numbers, at least one.")
    np = needed("numpy", "The randomisation test")
    given = np.array(found, dtype=float)
    # A little less than what is observed, so that rounding does not part equal sums.
    observed = abs(given.sum()) - 1e-9 * np.abs(given).sum()
    exact = 2 ** len(given) <= rounds
    patterns = _all_signs(np, len(given)) if exact else _some_signs(np, len(given), rounds, seed)
    extreme = sum(int((abs(signs @ given) >= observed).sum()) for signs in patterns)
    return extreme / 2 ** len(given) if exact else (extreme + 1) / (rounds + 1)


def _all_signs(np: Any, count: int) -> Iterator[Any]:
    yield np.array(list(product((-1.0, 1.0), repeat=count)))


def _some_signs(np: Any, count: int, rounds: int, seed: int) -> Iterator[Any]:
    draw = np.random.default_rng(seed)
    at_a_time = max(1, _CELLS // count)
    for start in range(0, rounds, at_a_time):
        shape = min(at_a_time, rounds - start), count
        yield 2 * draw.integers(0, 2, shape, dtype=np.int8) - 1

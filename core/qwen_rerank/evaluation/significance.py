"""Compare two runs query by query, and test whether chance could explain the difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from qwen_rerank.errors import InvalidInputError
from qwen_rerank.evaluation.packages import import_optional
from qwen_rerank.validation import check_whole, is_finite

__all__ = ["Comparison", "compare_values", "randomisation_test"]

_ROUNDING = 1e-9
"""Two values that differ by no more than this are the same."""

_MAX_SIGNS = 4_000_000
"""How many signs to draw at a time: together with their products they take about 40 MB."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run compared with another by one measure.

    Attributes:
        measure: The name of the measure.
        baseline: The name of the run to compare with.
        run: The name of the run that is compared.
        before: The mean of the baseline over the queries.
        after: The mean of the run over the queries.
        better: How many queries have a higher value than in the baseline.
        same: How many queries have the same value.
        worse: How many queries have a lower value.
        p_value: The result of `randomisation_test` for the differences per query.
    """

    measure: str
    baseline: str
    run: str
    before: float
    after: float
    better: int
    same: int
    worse: int
    p_value: float

    @property
    def gain(self) -> float:
        """How much higher the run's mean is than the baseline's; negative if it is lower."""
        return self.after - self.before


def compare_values(
    measure: str,
    baseline: tuple[str, Mapping[str, float]],
    run: tuple[str, Mapping[str, float]],
    *,
    rounds: int,
    seed: int,
) -> Comparison:
    """Compare the values of two runs.

    Args:
        measure: The name of the measure.
        baseline: The name of the run to compare with, and its values by query id.
        run: The name of the other run, and its values for the same queries in the same order.
        rounds: See `randomisation_test`.
        seed: See `randomisation_test`.
    """
    (baseline_name, before), (run_name, after) = baseline, run
    differences = [after[query_id] - before[query_id] for query_id in before]
    better = sum(difference > _ROUNDING for difference in differences)
    worse = sum(difference < -_ROUNDING for difference in differences)
    return Comparison(
        measure=measure,
        baseline=baseline_name,
        run=run_name,
        before=fmean(before.values()),
        after=fmean(after.values()),
        better=better,
        same=len(differences) - better - worse,
        worse=worse,
        p_value=randomisation_test(differences, rounds=rounds, seed=seed),
    )


def randomisation_test(
    differences: Iterable[float], *, rounds: int = 10_000, seed: int = 0
) -> float:
    """Return how often chance alone would give a mean difference at least this far from 0.

    This is the two-sided paired randomisation test (Fisher's), which Smucker, Allan and Carterette
    recommend for comparing two rankers on the same queries ("A comparison of statistical
    significance tests for information retrieval evaluation", CIKM 2007). It flips the signs of the
    differences at random and counts the observed signs as one more round, so that p is never 0
    (Phipson and Smyth, "Permutation p-values should never be zero", 2010). If there are no more
    than `rounds` patterns of signs, it tries each once and p is exact. It does not correct for
    multiple comparisons.

    Args:
        differences: For each query, the value of the second run minus the value of the first.
        rounds: How many patterns of signs to try, at least 1.
        seed: The seed of the random signs. The same seed gives the same p.

    Returns:
        p, above 0 and at most 1; 1 if all differences are 0.

    Raises:
        InvalidInputError: There are no differences, one is not a finite number, or `rounds` or
            `seed` is out of range.
        MissingDependencyError: numpy is not installed.
    """
    check_whole("rounds", rounds, at_least=1)
    check_whole("seed", seed, at_least=0)
    numbers = list(differences)
    if not numbers or not all(map(is_finite, numbers)):
        raise InvalidInputError("differences must be finite numbers, at least one.")
    np = import_optional("numpy", "The randomisation test")
    values = np.array(numbers, dtype=float)
    # Slightly less than the observed sum, so that rounding does not separate equal sums.
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    is_exact = 2 ** len(values) <= rounds
    patterns = (
        _all_signs(np, len(values)) if is_exact else _random_signs(np, len(values), rounds, seed)
    )
    extreme = sum(int((abs(signs @ values) >= observed).sum()) for signs in patterns)
    return extreme / 2 ** len(values) if is_exact else (extreme + 1) / (rounds + 1)


def _all_signs(np: Any, count: int) -> Iterator[Any]:
    yield np.array(list(product((-1.0, 1.0), repeat=count)))


def _random_signs(np: Any, count: int, rounds: int, seed: int) -> Iterator[Any]:
    generator = np.random.default_rng(seed)
    chunk = max(1, _MAX_SIGNS // count)
    for start in range(0, rounds, chunk):
        shape = min(chunk, rounds - start), count
        yield 2 * generator.integers(0, 2, shape, dtype=np.int8) - 1

"""The paired randomisation test, compared with scipy's."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_rerank import InvalidInputError
from qwen_rerank.evaluation import randomisation_test


def by_scipy(differences: Sequence[float], rounds: float = float("inf")) -> float:
    from scipy.stats import permutation_test  # takes seconds to import

    result = permutation_test(
        (differences,),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        n_resamples=rounds,
        vectorized=True,
        rng=1,
    )
    return float(result.pvalue)


@given(st.lists(st.integers(-1_000, 1_000), min_size=2, max_size=10))
@example([0, 0, 898, 141, -940, -334, -334, -334, 898])
def test_few_queries_have_the_exact_p_despite_rounding(thousandths: list[int]) -> None:
    """Scipy gets integers: it misses equal sums of fractions."""
    differences = [value / 1_000 for value in thousandths]
    assert randomisation_test(differences) == pytest.approx(by_scipy(thousandths))


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.05])
def test_many_queries_have_about_the_p_of_scipy(mean: float) -> None:
    draw = random.Random(7)
    differences = [draw.gauss(mean, 0.3) for _ in range(300)]
    assert randomisation_test(differences) == pytest.approx(by_scipy(differences, 9_999), abs=0.02)


def test_without_a_difference_p_is_uniformly_distributed() -> None:
    draw = random.Random(7)
    p_values = [
        randomisation_test([draw.gauss(0, 1) for _ in range(30)], rounds=500) for _ in range(1_000)
    ]
    assert sum(p < 0.05 for p in p_values) == pytest.approx(50, abs=25)
    assert sum(p < 0.5 for p in p_values) == pytest.approx(500, abs=60)


def test_a_seed_gives_the_same_p_in_either_direction() -> None:
    draw = random.Random(7)
    differences = [draw.gauss(0.1, 1) for _ in range(100)]
    assert randomisation_test(differences) == randomisation_test(differences)
    assert randomisation_test(differences) != randomisation_test(differences, seed=1)
    assert randomisation_test([-value for value in differences]) == randomisation_test(differences)


@pytest.mark.parametrize("count", [3, 300])
def test_equal_runs_have_p_1_and_a_certain_gain_never_p_0(count: int) -> None:
    assert randomisation_test([0.0] * count) == 1
    assert randomisation_test([0.1] * count) == pytest.approx(max(2 / 2**count, 1 / 10_001))


def test_differences_may_be_an_array_or_an_iterator() -> None:
    differences = np.array([0.1, -0.2, 0.3])
    expected = randomisation_test([0.1, -0.2, 0.3])
    assert randomisation_test(differences) == expected
    assert randomisation_test(value for value in differences) == expected


@pytest.mark.parametrize("differences", [[], [0.1, float("nan")], [float("inf")], ["a"]])
def test_invalid_differences_are_refused(differences: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="differences"):
        randomisation_test(differences)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"seed": -1}, {"rounds": 1.5}])
def test_invalid_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        randomisation_test([0.1], **options)

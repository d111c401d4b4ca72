"""Intervals and spreads against known values."""

import itertools
import math

import numpy as np
import pytest

from adaptive_jax.evaluation.statistics import binomial_ci95, cross_coverage, mean_of_known, paired_ci95, pass_at_k, spread


@pytest.mark.parametrize(
    ("value", "n", "expected"),
    [(0.5, 100, 0.098), (0.2, 400, 0.0392), (0.9, 900, 0.0196), (0.25, 1, 1.96 * math.sqrt(3) / 4), (0.0, 10, 0), (1.0, 10, 0)],
)
def test_binomial_interval(value: float, n: int, expected: float) -> None:
    assert binomial_ci95(value, n) == pytest.approx(expected)


def test_binomial_interval_is_the_spread_of_binomial_counts() -> None:
    draws = np.random.default_rng(0).binomial(300, 0.3, 100_000) / 300
    assert binomial_ci95(0.3, 300) == pytest.approx(1.96 * draws.std(), rel=0.02)


def test_mean_of_what_is_known() -> None:
    nothing = [np.nan, np.nan, np.nan]
    values = np.array([[1.0, np.nan, 0.5], [0.0, 2.0, 1.0]]).T
    np.testing.assert_allclose(mean_of_known(np.column_stack([values, nothing])), [0.75, 1.0, 0.0])


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.1)
    assert spread(np.array([0.4, 0.6])) == pytest.approx(math.sqrt(0.02))
    assert spread(np.array([0.7])) == 0


@pytest.mark.parametrize("n", [1, 2, 5, 8, 11])
def test_pass_at_k_is_the_mean_over_all_subsets(n: int) -> None:
    """Every count of right completions, every k, against every subset of k completions."""
    for right in range(n + 1):
        wins = np.random.default_rng(right).permutation(np.arange(n) < right)
        for k in range(1, min(n, 8) + 1):
            subsets = [any(wins[list(subset)]) for subset in itertools.combinations(range(n), k)]
            assert pass_at_k(wins, k) == pytest.approx(np.mean(subsets), abs=1e-12)


def test_pass_at_k_keeps_leading_axes() -> None:
    wins = np.random.default_rng(0).random((3, 4, 9)) < 0.3
    estimate = pass_at_k(wins, 2)
    assert estimate.shape == (3, 4)
    for index in np.ndindex(3, 4):
        assert estimate[index] == pass_at_k(wins[index], 2)
    np.testing.assert_allclose(pass_at_k(wins, 1), wins.mean(axis=-1))
    np.testing.assert_array_equal(pass_at_k(wins, 9), wins.any(axis=-1))


@pytest.mark.parametrize("k", [0, -1, 5])
def test_pass_at_k_needs_k_completions(k: int) -> None:
    with pytest.raises(ValueError, match=rf"pass@{k}.*there are 4 completions"):
        pass_at_k(np.zeros((2, 4)), k)


def test_paired_interval_is_that_of_a_mean() -> None:
    differences = np.random.default_rng(1).normal(0.1, 0.5, 2000)
    low, high = paired_ci95(differences)
    half = 1.96 * differences.std() / math.sqrt(2000)
    assert (low + high) / 2 == pytest.approx(differences.mean(), abs=0.1 * half)
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert paired_ci95(differences) == (low, high)
    assert paired_ci95(differences, seed=1) != (low, high)


def test_paired_interval_holds_the_truth_95_times_in_100() -> None:
    """400 experiments: 20 misses are expected, with a standard deviation of 4.4, and a few more as 60 problems are few."""
    rng = np.random.default_rng(2)
    intervals = [paired_ci95(rng.choice([-1.0, 0.0, 0.0, 1.0, 1.0], 60), seed=trial, resamples=500) for trial in range(400)]
    misses = sum(not low <= 0.2 <= high for low, high in intervals)
    assert 8 <= misses <= 40


def test_what_two_methods_share_cancels() -> None:
    shared = (np.random.default_rng(3).random(500) < 0.5).astype(float)
    ours = shared.copy()
    ours[:50] = 1.0
    low, high = paired_ci95(ours - shared)
    assert 0 < low < high < 0.1
    assert high - low < binomial_ci95(0.5, 500)
    assert paired_ci95(shared - shared) == (0, 0)


def test_cross_coverage_by_hand() -> None:
    """Even completions choose for the odd ones, and the other way round."""
    wins = np.array([[[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]]] * 2)
    np.testing.assert_array_equal(cross_coverage(wins, [0, 1]), [0, 0])  # each half chooses what fails on the other
    np.testing.assert_array_equal(cross_coverage(wins, [0]), [0.5, 0.5])
    np.testing.assert_array_equal(cross_coverage(wins, [2, 0]), [1, 1])
    np.testing.assert_array_equal(cross_coverage(wins, [0], samples=(1, 2)), [0.5, 0.5])


def test_cross_coverage_is_not_optimistic() -> None:
    """Settings that are all the same: nothing is to be gained by choosing, though their maximum looks better."""
    wins = np.random.default_rng(4).random((4000, 8, 16)) < 0.3
    assert wins.mean(axis=-1).max(axis=1).mean() > 0.4
    assert cross_coverage(wins, range(8)).mean() == pytest.approx(0.3, abs=0.01)
    expected = np.mean([1 - 0.7**k for k in (1, 2, 4, 8)])
    assert cross_coverage(wins, range(8), samples=(1, 2, 4, 8)).mean() == pytest.approx(expected, abs=0.015)

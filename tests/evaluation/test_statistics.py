"""Intervals and spreads against known values."""

import math

import numpy as np
import pytest

from adaptive_jax.evaluation.statistics import binomial_ci95, spread


@pytest.mark.parametrize(
    ("value", "n", "expected"),
    [(0.5, 100, 0.098), (0.2, 400, 0.0392), (0.9, 900, 0.0196), (0.25, 1, 1.96 * math.sqrt(3) / 4), (0.0, 10, 0), (1.0, 10, 0)],
)
def test_binomial_interval(value: float, n: int, expected: float) -> None:
    assert binomial_ci95(value, n) == pytest.approx(expected)


def test_binomial_interval_is_the_spread_of_binomial_counts() -> None:
    draws = np.random.default_rng(0).binomial(300, 0.3, 100_000) / 300
    assert binomial_ci95(0.3, 300) == pytest.approx(1.96 * draws.std(), rel=0.02)


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.1)
    assert spread(np.array([0.4, 0.6])) == pytest.approx(math.sqrt(0.02))
    assert spread(np.array([0.7])) == 0

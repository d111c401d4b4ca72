"""Confidence intervals and their words."""

import math

import numpy as np


def binomial_ci95(value: float, n: int) -> float:
    """Half-width of the normal 95% interval of a proportion, 1.96 sqrt(p (1 - p) / n), as the paper reports it.

    Args:
        value: the proportion, in [0, 1].
        n: independent trials behind it, at least 1. For a mean over token budgets of the same problems this is the number
            of problems, which makes the interval conservative: budgets of one problem are neither one trial nor several.
    """
    return 1.96 * math.sqrt(value * (1.0 - value) / n)


def spread(values: np.ndarray) -> float:
    """Sample standard deviation over training seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

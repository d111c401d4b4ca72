"""Pass@k, and intervals for what was measured."""

import math
from collections.abc import Sequence

import numpy as np


def binomial_ci95(value: float, n: int) -> float:
    """Half-width of the normal 95% interval of a proportion, 1.96 sqrt(p (1 - p) / n), as the paper reports it.

    Args:
        value: the proportion, in [0, 1].
        n: independent trials behind it, at least 1. For a mean over token budgets of the same problems this is the number
            of problems, which makes the interval conservative: budgets of one problem are neither one trial nor several.
    """
    return 1.96 * math.sqrt(value * (1.0 - value) / n)


def pass_at_k(wins: np.ndarray, k: int) -> np.ndarray:
    """Unbiased estimate of the chance that any of k completions is right, from n >= k of them: 1 - C(n - c, k) / C(n, k).

    The mean over all subsets of k completions of whether the subset has a right one. Source: arXiv 2107.03374, eq. 1.

    Args:
        wins: [..., n] in {0, 1}.
        k: completions that are allowed, 1 to n.

    Returns:
        float64 [...].

    Raises:
        ValueError: k is not in 1..n.
    """
    n = wins.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} completions and k at least 1; there are {n} completions")
    by_count = np.array([1.0 - math.comb(n - right, k) / math.comb(n, k) for right in range(n + 1)])
    return by_count[wins.sum(axis=-1, dtype=np.int64)]


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is not NaN; 0 where nothing is known."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def cross_coverage(wins: np.ndarray, chosen: Sequence[int], samples: Sequence[int] = (1,)) -> np.ndarray:
    """float [Q], an estimate of each problem's best chosen reward without the optimism of a maximum over noisy estimates.

    Half of the completions choose the setting, the other half score it, and the other way round.

    Args:
        wins: [Q, A, G] in {0, 1}, G completions of every problem under every setting; at least twice the largest B.
        chosen: indices S of settings.
        samples: sampling budgets B; the reward is the mean Pass@B over them.
    """
    own = wins[:, list(chosen)]
    halves = own[..., 0::2], own[..., 1::2]
    best = [half.mean(axis=-1).argmax(axis=1) for half in halves]  # the best setting is the best at every B
    rows = np.arange(len(own))
    scores = [pass_at_k(half[rows, index], count) for half, index in zip(halves, best[::-1], strict=True) for count in samples]
    return np.mean(scores, axis=0)


def paired_ci95(differences: np.ndarray, *, seed: int = 0, resamples: int = 4000) -> tuple[float, float]:
    """95% percentile bootstrap interval of a mean difference between two methods on the same problems and draws.

    Problems are resampled, so the interval is as wide as the choice of problems makes it; what the two methods have in common
    cancels in each difference. Source: Efron 1979.

    Args:
        differences: float [Q], one method's score minus the other's, for each problem.
        seed: fixes the resamples.
        resamples: how many.
    """
    count = len(differences)
    picks = np.random.default_rng(seed).integers(0, count, (resamples, count), dtype=np.int32)
    low, high = np.quantile(np.asarray(differences)[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def spread(values: np.ndarray) -> float:
    """Sample standard deviation over training seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

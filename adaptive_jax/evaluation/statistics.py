"""Pass@k, and intervals for what was measured."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Shaped


def binomial_ci95(value: float, n: int) -> float:
    """Half-width of the normal 95% interval of a proportion, 1.96 sqrt(p (1 - p) / n), as the paper reports it.

    Args:
        value: the proportion, in [0, 1].
        n: independent trials behind it, at least 1. For a mean over token budgets of the same problems this is the number
            of problems, which makes the interval conservative: budgets of one problem are neither one trial nor several.
    """
    return 1.96 * math.sqrt(value * (1.0 - value) / n)


def pass_at_k(wins: Shaped[np.ndarray, "*questions completions"], k: int) -> Float64[np.ndarray, "*questions"]:
    """Unbiased estimate of the chance that any of k completions is right, from n >= k of them: 1 - C(n - c, k) / C(n, k).

    The mean over all subsets of k completions of whether the subset has a right one. Source: arXiv 2107.03374, eq. 1.

    Args:
        wins: in {0, 1}, of n completions.
        k: completions that are allowed, 1 to n.

    Raises:
        ValueError: k is not in 1..n.
    """
    n = wins.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} completions and k at least 1; there are {n} completions")
    by_count = np.array([1.0 - math.comb(n - right, k) / math.comb(n, k) for right in range(n + 1)])
    return np.asarray(by_count[wins.sum(axis=-1, dtype=np.int64)])


def mean_of_known(values: Float[np.ndarray, " questions *others"]) -> Float[np.ndarray, " *others"]:
    """The mean over the first axis of what is not NaN; 0 where nothing is known."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def cross_coverage(
    wins: Shaped[np.ndarray, "problems settings completions"],
    chosen: Sequence[int],
    samples: Sequence[int] = (1,),
) -> Float64[np.ndarray, " problems"]:
    """An estimate of each problem's best chosen reward without the optimism of a maximum over noisy estimates.

    Half of the completions choose the setting, the other half score it, and the other way round.

    Args:
        wins: in {0, 1}; at least twice as many completions as the largest B.
        chosen: indices of settings.
        samples: sampling budgets B; the reward is the mean Pass@B over them.
    """
    own = wins[:, list(chosen)]
    halves = own[..., 0::2], own[..., 1::2]
    best = [half.mean(axis=-1).argmax(axis=1) for half in halves]  # the best setting is the best at every B
    rows = np.arange(len(own))
    scores = [pass_at_k(half[rows, index], count) for half, index in zip(halves, best[::-1], strict=True) for count in samples]
    return np.mean(scores, axis=0)


def paired_ci95(differences: Float[np.ndarray, " problems"], *, seed: int = 0, resamples: int = 4000) -> tuple[float, float]:
    """95% percentile bootstrap interval of a mean difference between two methods on the same problems and draws.

    Problems are resampled, so the interval is as wide as the choice of problems makes it; what the two methods have in common
    cancels in each difference. Source: Efron 1979.

    Args:
        differences: one method's score minus the other's, for each problem.
        seed: fixes the resamples.
        resamples: how many.
    """
    count = len(differences)
    picks = np.random.default_rng(seed).integers(0, count, (resamples, count), dtype=np.int32)
    low, high = np.quantile(np.asarray(differences)[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def spread(values: Float[np.ndarray, " seeds"]) -> float:
    """Sample standard deviation over training seeds; 0 for one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

"""The action set of the sequence adapter: few sampling settings that together cover many problems.

Greedy selection on F(S) = mean_i max_{s in S} R(x_i, s) (paper, action-set construction), against the N best by their mean.
R(x_i, s) is problem i's expected reward under setting s. F is monotone and submodular, so the greedy set reaches at least
1 - 1/e of the best one's coverage (Nemhauser, Wolsey and Fisher 1978).

From few completions R is noisy, and a maximum over many settings goes after the noise: settings that are nearly the same look
as if they solved different problems. So R is estimated for all problems and settings together (ours; see `expected_rewards`).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from adaptive_jax.decoding.params import SamplingParams, Value

TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.7, 2.1, 2.5)
FILTERS: tuple[dict[str, Value], ...] = (
    {},
    *({"top_p": p} for p in (0.5, 0.8, 0.9, 0.95, 0.98)),
    *({"top_k": k} for k in (8, 16, 32, 64, 128)),
    *({"min_p": p} for p in (0.01, 0.02, 0.05, 0.1)),
)


def candidates() -> list[SamplingParams]:
    """The 180 settings to choose from, every temperature with every filter. The grid is ours; the paper does not state its."""
    return [SamplingParams(temperature=t, **others) for t in TEMPERATURES for others in FILTERS]


def expected_rewards(
    wins: Shaped[np.ndarray, "problems settings completions"], samples: Sequence[int] = (1,)
) -> Float[np.ndarray, "places settings"]:
    """R, in [0, 1], at each sampling budget in turn for every problem: 1 - (1 - p)^B where p is the chance of one completion.

    p is the share of right completions, less what is noise: settings that are like each other solve like problems, so the true
    p has few large singular values, and those no larger than noise alone would reach are dropped. The noise is measured between
    the completions of a problem under a setting; a Q x A matrix of it has singular values of up to sigma (sqrt Q + sqrt A).

    Args:
        wins: in {0, 1}; at least 2 completions.
        samples: the sampling budgets B; an action set for an adapter that is told B should serve all of them.
    """
    problems, settings, completions = wins.shape
    noise = math.sqrt(wins.var(axis=-1, ddof=1).mean() / completions)
    left, values, right = np.linalg.svd(wins.mean(axis=-1), full_matrices=False)
    kept = np.where(values > noise * (math.sqrt(problems) + math.sqrt(settings)), values, 0.0)
    chance = np.clip((left * kept) @ right, 0.0, 1.0)
    return np.concatenate([1.0 - (1.0 - chance) ** count for count in samples])


def coverage(scores: Float[np.ndarray, "problems settings"], chosen: Sequence[int]) -> float:
    """F(S), the mean over problems of the best chosen setting's score, for indices S of settings."""
    return float(scores[:, list(chosen)].max(axis=1).mean())


def greedy_coverage(scores: Float[np.ndarray, "problems settings"], count: int) -> list[int]:
    """`count` settings, each the one that adds most to the coverage of those before it; where none adds, the best by its mean.

    Args:
        scores: of each setting on each problem.
        count: at most as many as there are settings.
    """
    reached = np.zeros((len(scores), 1))
    means = scores.mean(axis=0)
    chosen: list[int] = []
    for _ in range(count):
        gains = np.maximum(scores, reached).mean(axis=0)
        gains[chosen] = -1.0
        best = int(np.lexsort((-means, -gains))[0])
        chosen.append(best)
        reached = np.maximum(reached, scores[:, [best]])
    return chosen


def top_by_mean(scores: Float[np.ndarray, "problems settings"], count: int) -> list[int]:
    """The `count` settings with the best mean score, the best first."""
    return np.argsort(-scores.mean(axis=0), kind="stable")[:count].tolist()


def save_actions(path: Path, settings: Sequence[SamplingParams]) -> None:
    """Write an action set: a JSON file {"actions": [{"temperature", "top_k", "top_p", "min_p"}, ...]}."""
    path.write_text(json.dumps({"actions": [vars(setting) for setting in settings]}, indent=2) + "\n")


def load_actions(path: Path) -> list[SamplingParams]:
    """The settings of an action-set file, fields that are left out switched off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no action set; names the file, the entry and the field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `python -m experiments.select_actions` writes an action set")
    try:
        content = json.loads(path.read_bytes().decode())
    except ValueError as fault:
        raise ValueError(f"{path}: not JSON ({fault})") from None
    entries = content.get("actions") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path}: no action set; it holds {{"actions": [{{"temperature": 0.7, "top_p": 0.9}}, ...]}}')
    settings = []
    for number, entry in enumerate(entries, start=1):
        try:
            settings.append(_setting(entry))
        except (TypeError, ValueError) as fault:
            raise ValueError(f"{path}, action {number}: {fault}") from None
    return settings


def _setting(entry: object) -> SamplingParams:
    if not isinstance(entry, dict):
        raise ValueError(f"a {type(entry).__name__}, where an object such as {{'temperature': 0.7}} belongs")
    for name, value in entry.items():
        if type(value) not in (int, float):
            raise ValueError(f"{name} is {value!r}; write it as a number")
    return SamplingParams(**entry)

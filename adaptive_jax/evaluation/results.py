"""Result rows and their table: `results.json` and `results.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from adaptive_jax.evaluation.statistics import binomial_ci95, paired_ci95, spread
from adaptive_jax.tasks.problem import VERDICTS

MEAN = "mean"


@dataclass(frozen=True)
class Gain:
    """How far a method is ahead of another, on the same problems and draws.

    Attributes:
        over: the other method.
        value: mean difference, in [-1, 1].
        ci95: its paired bootstrap 95% interval (see `paired_ci95`).
    """

    over: str
    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One number of a result.

    Attributes:
        method: who chose the sampling actions.
        cot: "none", "all" or "mix".
        metric: such as "pass@1".
        budget: token budget in tokens, or "mean" over all of them.
        value: in [0, 1]; with several training seeds, their mean.
        ci95: half-width of the binomial 95% interval over the n questions, in [0, 1].
        n: questions behind the value; those that the grader failed on are left out.
        seeds: training seeds behind the value; 1 where nothing is trained.
        spread: sample standard deviation over the training seeds.
        by_seed: the value of each training seed.
        gain: how far it is ahead of its baseline, where it has one.
        completions: of each question behind the value, in each training seed; None where it was not told.
    """

    method: str
    cot: str
    metric: str
    budget: int | str
    value: float
    ci95: float
    n: int
    seeds: int
    spread: float
    by_seed: tuple[float, ...]
    gain: Gain | None = None
    completions: int | None = None


def budget_rows(
    method: str,
    cot: str,
    metric: str,
    budgets: Sequence[int],
    runs: Sequence[Float[np.ndarray, "questions budgets"]],
    over: tuple[str, Float[np.ndarray, "questions budgets"]] | None = None,
    *,
    completions: int | None = None,
) -> list[Row]:
    """A row for each token budget and one for their mean.

    Args:
        method, cot, metric: see `Row`.
        budgets: token budgets.
        runs: for each training seed each question's score; NaN where it is unknown.
        over: the method that this one is compared with, and its scores.
        completions: see `Row`.
    """
    scores = np.stack([_with_mean(run) for run in runs])
    columns: list[int | str] = [*budgets, MEAN]
    base = None if over is None else _with_mean(over[1])
    rows = [
        _row(method, cot, metric, budget, scores[:, :, i], over and over[0], None if base is None else base[:, i])
        for i, budget in enumerate(columns)
    ]
    return [replace(row, completions=completions) for row in rows]


def _with_mean(scores: Float[np.ndarray, "questions budgets"]) -> Float[np.ndarray, "questions columns"]:
    return np.concatenate([scores, scores.mean(axis=1, keepdims=True)], axis=1)


def pass_rows(
    method: str,
    cot: str,
    budget: int,
    runs: Sequence[Float[np.ndarray, "questions largest"]],
    over: tuple[str, Float[np.ndarray, "questions largest"]] | None = None,
    *,
    completions: int | None = None,
) -> list[Row]:
    """A row for each of Pass@1 to Pass@K.

    Args:
        method, cot, budget: see `Row`.
        runs: for each training seed each question's estimates of Pass@1 to that of the largest k.
        over: the method that this one is compared with, and its estimates.
        completions: see `Row`.
    """
    scores = np.stack(runs)
    rows = [
        _row(method, cot, f"pass@{k + 1}", budget, scores[:, :, k], over and over[0], None if over is None else over[1][:, k])
        for k in range(scores.shape[2])
    ]
    return [replace(row, completions=completions) for row in rows]


def _row(
    method: str,
    cot: str,
    metric: str,
    budget: int | str,
    scores: Float[np.ndarray, "seeds questions"],
    over: str | None,
    base: Float[np.ndarray, " questions"] | None,
) -> Row:
    """A row from the scores of each training seed, and those of the method `over`."""
    known = np.isfinite(scores).all(axis=0)
    by_seed = tuple(float(own.mean()) if known.any() else 0.0 for own in scores[:, known])
    value, count = float(np.mean(by_seed)), int(known.sum())
    gain = None
    if over is not None and base is not None and (both := known & np.isfinite(base)).any():
        ahead = scores[:, both].mean(axis=0) - base[both]
        gain = Gain(over, float(ahead.mean()), paired_ci95(ahead))
    return Row(
        method=method,
        cot=cot,
        metric=metric,
        budget=budget,
        value=value,
        ci95=binomial_ci95(value, max(count, 1)),
        n=count,
        seeds=len(scores),
        spread=spread(np.array(by_seed)),
        by_seed=by_seed,
        gain=gain,
    )


def results_json(
    experiment: str,
    model: str,
    dataset: str,
    rows: Sequence[Row],
    verdicts: Mapping[str, Int[np.ndarray, " verdicts"]] | None = None,
) -> dict[str, Any]:
    """The content of results.json; rows without a gain say nothing of one.

    Args:
        verdicts: for each method, or for all together: how many completions got each of `VERDICTS`.
    """
    counted = {name: dict(zip(VERDICTS, counts.tolist(), strict=True)) for name, counts in (verdicts or {}).items()}
    plain = [{name: value for name, value in asdict(row).items() if value is not None} for row in rows]
    return {"experiment": experiment, "model": model, "dataset": dataset, "rows": plain, "verdicts": counted}


def markdown_table(rows: Sequence[Row]) -> str:
    """Methods down, token budgets across, in per cent with the interval; then the mean's gain, and each training seed's."""
    budgets = list(dict.fromkeys(row.budget for row in rows))
    gains, seeds = any(row.gain for row in rows), any(row.seeds > 1 for row in rows)
    header = ["method", *[f"b = {b}" if b != MEAN else MEAN for b in budgets]]
    header += ["difference of the mean"] * gains + ["mean, each seed"] * seeds
    lines = [table_line(header), table_line([":--", *["--:"] * (len(header) - 1)])]
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.budget: row for row in rows if row.method == method}
        mean, cells = own[MEAN], [percent(own[b]) for b in budgets]
        if gains:
            cells.append(points(mean.gain))
        if seeds:
            cells.append(each_seed(mean))
        lines.append(table_line([method, *cells]))
    return "\n".join(lines) + "\n"


def caption(model: str, dataset: str, rows: Sequence[Row]) -> str:
    """What the numbers of a table are: model, data set, CoT, metric, n, completions and seeds."""
    first = rows[0]
    return (
        f"{model} on {dataset}, CoT {first.cot}: {first.metric.capitalize()} in per cent ± half the binomial 95% interval over "
        f"{sample_size(rows)}, per token budget b. Differences are to the best static setting, in points with their paired "
        f"bootstrap 95% interval. {comparisons(intervals(rows))}\n"
    )


def sample_size(rows: Sequence[Row]) -> str:
    """What is behind each value: "n = 1000 questions, 8 completions each; trained methods: mean over 3 training seeds"."""
    seeds, first = max(row.seeds for row in rows), rows[0]
    each = "" if first.completions is None else f", {first.completions} completion{'s' * (first.completions > 1)} each"
    return f"n = {first.n} questions{each}; trained methods: mean over {seeds} training seed{'s' * (seeds > 1)}"


def intervals(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Those of the rows' gains."""
    return [row.gain.ci95 for row in rows if row.gain]


def comparisons(intervals: Sequence[tuple[float, float]]) -> str:
    """How far the intervals of a table of many differences can be believed, in plain words; nothing where there is none."""
    if not intervals:
        return ""
    clear = sum(low > 0 or high < 0 for low, high in intervals)
    return (
        f"Of {len(intervals)} differences, {clear} have an interval without zero; were there no difference anywhere, about "
        f"{0.05 * len(intervals):.1f} would have one by chance. The intervals are not corrected for being many, and the rows "
        "of a table share questions and draws, so they are not independent."
    )


def percent(row: Row) -> str:
    """A value with half its interval, in per cent: "41.9 ± 3.1"."""
    return f"{100 * row.value:.1f} ± {100 * row.ci95:.1f}"


def each_seed(row: Row) -> str:
    """What each training seed reached, in per cent: "74.5 / 74.3 / 72.6 (sd 1.0)"; nothing for one seed."""
    values = " / ".join(f"{100 * value:.1f}" for value in row.by_seed)
    return f"{values} (sd {100 * row.spread:.1f})" if row.seeds > 1 else ""


def points(gain: Gain | None) -> str:
    """A gain with its interval, in points: "+3.1 [+0.4, +5.9]"; nothing for none."""
    return "" if gain is None else f"{100 * gain.value:+.1f} [{100 * gain.ci95[0]:+.1f}, {100 * gain.ci95[1]:+.1f}]"


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"

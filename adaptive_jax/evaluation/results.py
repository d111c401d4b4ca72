"""Result rows and their table: `results.json` and `results.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adaptive_jax.evaluation.evaluate import Scores
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
        n: questions behind the value.
        seeds: training seeds behind the value; 1 where nothing is trained.
        spread: sample standard deviation over the training seeds.
        by_seed: the value of each training seed.
        gain: how far it is ahead of its baseline, where it has one.
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


def rows_of(method: str, cot: str, budgets: Sequence[int], runs: Sequence[Scores]) -> list[Row]:
    """A row for each budget and one for their mean; `runs` holds the scores of each training seed."""
    accuracy = np.stack([scores.accuracy() for scores in runs])
    accuracy = np.concatenate([accuracy, accuracy.mean(axis=1, keepdims=True)], axis=1)
    questions = len(runs[0].rewards)
    rows = []
    columns: list[int | str] = [*budgets, MEAN]
    for budget, values in zip(columns, accuracy.T, strict=True):
        value = float(values.mean())
        by_seed = tuple(float(v) for v in values)
        rows.append(
            Row(
                method=method,
                cot=cot,
                metric="pass@1",
                budget=budget,
                value=value,
                ci95=binomial_ci95(value, questions),
                n=questions,
                seeds=len(runs),
                spread=spread(values),
                by_seed=by_seed,
            )
        )
    return rows


def pass_rows(
    method: str, cot: str, budget: int, runs: Sequence[np.ndarray], over: tuple[str, np.ndarray] | None = None
) -> list[Row]:
    """A row for each of Pass@1 to Pass@K.

    Args:
        method, cot, budget: see `Row`.
        runs: for each training seed float [Q, K], each question's estimate of Pass@k.
        over: the method that this one is compared with, and its estimates, float [Q, K].
    """
    scores = np.stack(runs)
    rows = []
    for k in range(scores.shape[2]):
        by_seed = scores[:, :, k].mean(axis=1)
        value, gain = float(by_seed.mean()), None
        if over is not None:
            ahead = scores[:, :, k].mean(axis=0) - over[1][:, k]
            gain = Gain(over[0], float(ahead.mean()), paired_ci95(ahead))
        rows.append(
            Row(
                method=method,
                cot=cot,
                metric=f"pass@{k + 1}",
                budget=budget,
                value=value,
                ci95=binomial_ci95(value, scores.shape[1]),
                n=scores.shape[1],
                seeds=len(runs),
                spread=spread(by_seed),
                by_seed=tuple(by_seed.tolist()),
                gain=gain,
            )
        )
    return rows


def results_json(
    experiment: str, model: str, dataset: str, rows: Sequence[Row], verdicts: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """The content of results.json; rows without a gain say nothing of one.

    Args:
        verdicts: for each method, or for all together, int [5]: how many completions got each of `VERDICTS`.
    """
    counted = {name: dict(zip(VERDICTS, counts.tolist(), strict=True)) for name, counts in (verdicts or {}).items()}
    plain = [{name: value for name, value in asdict(row).items() if value is not None} for row in rows]
    return {"experiment": experiment, "model": model, "dataset": dataset, "rows": plain, "verdicts": counted}


def markdown_table(rows: Sequence[Row]) -> str:
    """Methods down, token budgets across, Pass@1 in per cent with its interval; for trained methods each seed's mean."""
    budgets = list(dict.fromkeys(row.budget for row in rows))
    header = ["method", *[f"b = {b}" if b != MEAN else MEAN for b in budgets], "mean, each seed"]
    lines = [table_line(header), table_line([":--", *["--:"] * (len(header) - 1)])]
    for method in dict.fromkeys(row.method for row in rows):
        own = {row.budget: row for row in rows if row.method == method}
        cells = [f"{100 * own[b].value:.1f} ± {100 * own[b].ci95:.1f}" for b in budgets]
        mean, seeds = own[MEAN], ""
        if mean.seeds > 1:
            seeds = " / ".join(f"{100 * value:.1f}" for value in mean.by_seed) + f" (sd {100 * mean.spread:.1f})"
        lines.append(table_line([method, *cells, seeds]))
    return "\n".join(lines) + "\n"


def caption(model: str, dataset: str, rows: Sequence[Row]) -> str:
    """What the numbers of a table are: model, data set, CoT, n and seeds."""
    seeds = max(row.seeds for row in rows)
    return (
        f"{model} on {dataset}, CoT {rows[0].cot}: Pass@1 in per cent ± half the binomial 95% interval over n = {rows[0].n} "
        f"questions, per token budget b; trained methods: mean over {seeds} training seed{'s' * (seeds > 1)}.\n"
    )


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"

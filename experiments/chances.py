"""Pass@k of a finished math_token run, from the chances of right completions instead of from draws.

    uv run python -m experiments.chances RUN --out RUN-chances

For short answers only: `adaptive_jax.evaluation.chances` says how. Draws are noisy, and a few hundred questions with a few
completions each tell two methods apart to two or three points; summed chances leave only the noise of which questions are
asked. How much the sums miss is shown by a last table: each method's Pass@1 as summed, and as the run drew it.
"""

import dataclasses
import functools
import itertools
import json
import logging
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.chances import RightSteps, right_completions, right_steps
from adaptive_jax.evaluation.results import MEAN, Row, budget_rows, markdown_table, results_json, table_line
from adaptive_jax.learning.exact import ExactSettings, fit_exactly
from adaptive_jax.policies.fixed import mixed
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.adapters import ADAPTERS as FOLDER
from adaptive_jax.runs.adapters import load_adapter, save_adapter
from adaptive_jax.runs.directory import read_metrics
from experiments.launching import exit_on_usage_error, launch
from experiments.math_token import ADAPTERS, BEST, MIXED, MathToken, static_name, untrained
from experiments.running import load_model
from experiments.splits import load_splits

log = logging.getLogger("experiments.chances")  # __name__ is __main__ under python -m

HOW = (
    "{model} on {dataset}, CoT {cot}: {metric} in per cent, from the summed chances of the right completions that were found; "
    "n = {n} questions, {found:.1f} right completions each. Differences are to the best static setting, which was chosen on "
    "validation problems from draws, with their paired bootstrap 95% interval.\n"
)


@dataclass(frozen=True)
class Chances:
    """Flags.

    Attributes:
        run: the directory of a finished math_token run; called from where the run was, so that its files are found.
        out: a directory for chances.json, chances.md and adapters that are fitted; otherwise the tables are printed only.
        completions: drawn for each question by a random action for each completion, and again by a random one for each token,
            to find right ones.
        fit: also fit adapters by so many exact gradients of the run's reward, on its training problems; the best state on its
            validation problems is kept (adaptive_jax/learning/exact.py). 0 fits none.
        seed: fixes the draws, and the weights that fitted adapters start from.
        rows: completions that are decoded side by side.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    completions: int = 16
    fit: int = 0
    seed: int = 1
    rows: int = 128

    def __post_init__(self) -> None:
        for flag, least in (("completions", 1), ("fit", 0), ("rows", 1)):
            if (value := getattr(self, flag)) < least:
                raise ValueError(f"--{flag} {value}: give at least {least}")


def main(flags: Chances) -> str:
    """Print the tables, and write them; returns them."""
    with exit_on_usage_error():
        config = read_config(flags.run)
        lm, splits = load_model(config), load_splits(config)
        parts = {"test": splits.test}
        if flags.fit:
            parts |= {"training": splits.train, "validation": splits.validation}
        made = functools.partial(config.environment, lm, examples=splits.examples, completions=flags.completions)
        environments = {name: made(problems, config.cot) for name, problems in parts.items()}
        adapters, best = load_adapters(flags.run, config), chosen_static(flags.run, config)
    with exit_on_usage_error():
        steps = {name: summed(name, environment, config, flags) for name, environment in environments.items()}
    if flags.fit:
        for method, (name, inputs, rule) in ADAPTERS.items():
            if rule == "reinforce":
                start = untrained(environments["training"], inputs, config, flags.seed)
                adapters[f"{name}, exact gradient"] = [fitted(method, start, steps, config, flags)]
    names = [static_name(action) for action in config.action_set]
    chances = {name: [np.column_stack([own.alone(action) for own in steps["test"]])] for action, name in enumerate(names)}
    chances[MIXED] = [np.mean([runs[0] for runs in chances.values()], axis=0)]
    for name, seeds in adapters.items():
        chances[name] = [np.column_stack([own.under(adapter) for own in steps["test"]]) for adapter in seeds]
    tables: list[str] = []
    rows: list[Row] = []
    for metric in config.metrics:
        if not metric.startswith("pass@"):
            continue
        k = int(metric.removeprefix("pass@"))
        reached = {name: [1.0 - (1.0 - chance) ** k for chance in runs] for name, runs in chances.items()}
        base = np.column_stack([reached[name][0][:, i] for i, name in enumerate(best[metric])])
        table = budget_rows(BEST, config.cot, metric, config.budgets, [base])
        for name, runs in reached.items():
            table += budget_rows(name, config.cot, metric, config.budgets, runs, (BEST, base))
        told = {"model": lm.name, "dataset": config.dataset, "cot": config.cot, "metric": metric.capitalize()}
        found = sum(len(own.question) for own in steps["test"]) / len(environments["test"]) / len(config.budgets)
        tables += [HOW.format(**told, n=len(environments["test"]), found=found), markdown_table(table)]
        rows += table
    text = "\n".join([*tables, beside_draws(flags.run, rows)])
    print(text)
    if flags.out is not None:
        flags.out.mkdir(parents=True, exist_ok=True)
        (flags.out / "chances.md").write_text(text)
        content = results_json("chances", lm.name, config.dataset, rows)
        (flags.out / "chances.json").write_text(json.dumps(content, indent=1) + "\n")
    return text


def summed(name: str, environment: Environment, config: MathToken, flags: Chances) -> list[RightSteps]:
    """The steps of the right completions that were found, at each token budget."""
    actions, found = SamplingParams.stack(config.action_set), []
    uniform = untrained(environment, "hidden", config, flags.seed)
    for budget in config.budgets:
        drawing = (mixed(config.action_set), uniform)
        right = right_completions(environment, drawing, budget, completions=flags.completions, seed=flags.seed, rows=flags.rows)
        log.info("%s, b = %d: %d right completions of %d questions", name, budget, sum(map(len, right)), sum(map(bool, right)))
        found.append(right_steps(environment, right, actions, budget, rows=flags.rows))
    return found


def fitted(
    method: str, start: TokenAdapter, steps: dict[str, list[RightSteps]], config: MathToken, flags: Chances
) -> TokenAdapter:
    """An adapter by exact gradients, saved."""
    settings = ExactSettings(updates=flags.fit, samples=config.samples)
    adapter, history = fit_exactly(start, steps["training"], settings, validation=steps["validation"])
    for metrics in history:
        told = ", ".join(f"{key} {100 * metrics[key]:.1f}" for key in ("reward", "validation_reward"))
        log.info("%s, update %d: %s", method, metrics["update"], told)
    if flags.out is not None:
        save_adapter(flags.out / FOLDER / f"{method}-exact", adapter)
    return adapter


def read_config(run: Path) -> MathToken:
    """The flags of a math_token run; flags that are newer than it have their defaults.

    Raises:
        ValueError: there is no such run, or it is another experiment's.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run}: no config.json is there; give the directory of a math_token run")
    written, kinds = json.loads(path.read_text()), typing.get_type_hints(MathToken)
    known = {field.name for field in dataclasses.fields(MathToken)}
    results = run / "results.json"
    experiment = json.loads(results.read_text()).get("experiment") if results.is_file() else "math_token"
    if experiment != "math_token" or "samples" not in written:
        raise ValueError(f"{run} is not a run of math_token: give the directory of one")
    if unknown := written.keys() - known:
        raise ValueError(f"{path}: math_token has no flag {min(unknown)} any more; give a run of this version")
    return MathToken(**{name: _typed(value, kinds[name]) for name, value in written.items()})


def _typed(value: Any, kind: Any) -> Any:
    """JSON's value as the flag's own type."""
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in (kind, *typing.get_args(kind)) else value


def load_adapters(run: Path, config: MathToken) -> dict[str, list[TokenAdapter]]:
    """The trained adapters by name, one for each training seed; those that the run has not come to are left out."""
    found: dict[str, list[TokenAdapter]] = {}
    for (method, (name, _, _)), seed in itertools.product(ADAPTERS.items(), config.training_seeds):
        try:
            adapter = load_adapter(run, method=method, seed=seed)
        except FileNotFoundError:
            log.info("%s, seed %d: the run has no such adapter yet", name, seed)
            continue
        assert isinstance(adapter, TokenAdapter)
        found.setdefault(name, []).append(adapter)
    return found


def chosen_static(run: Path, config: MathToken) -> dict[str, list[str]]:
    """For each metric the static setting that the run chose on validation problems, at each token budget."""
    lines = [line for line in read_metrics(run) if line.get("event") == BEST and line["cot"] == config.cot]
    if not lines:
        raise ValueError(f"{run}: no best static setting is in its metrics.jsonl; let the run come to its end")
    return {line["metric"]: [line[f"b = {budget}"] for budget in config.budgets] for line in lines}


def beside_draws(run: Path, rows: Sequence[Row]) -> str:
    """Pass@1 as summed, and as the run drew it on the same questions: what the sums miss is the difference, but for noise."""
    drawn = json.loads((run / "results.json").read_text())["rows"]
    known = {(row["method"], row["cot"], row["metric"], row["budget"]): row for row in drawn}
    lines = [table_line(["Pass@1, mean", "summed", "drawn"]), table_line([":--", "--:", "--:"])]
    missing = []
    for row in rows:
        other = known.get((row.method, row.cot, row.metric, row.budget))
        if row.metric == "pass@1" and row.budget == MEAN and other is not None:
            half = other["ci95"]
            lines.append(table_line([row.method, f"{100 * row.value:.1f}", f"{100 * other['value']:.1f} ± {100 * half:.1f}"]))
            if row.value < other["value"] - half:
                missing.append(row.method)
    if missing:
        told = f"The sums miss much of {', '.join(missing)}: these answers are too long for it, so go by the draws."
        lines += ["", told]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main, Chances, __doc__)

"""Choose the sequence adapter's action set: greedy selection by coverage, against the N best settings by their mean.

    uv run python -m experiments.select_actions
    uv run python -m experiments.select_actions --model smollm2 --dataset gsm8k_test.jsonl --limit 16 --budget 96

Scores 180 sampling settings on validation problems, in one compilation. Coverage is optimistic on the problems that it was
selected on, so both selections are then scored on held-out problems (arXiv 2603.09065, "Greedy selection vs. top-N"). As the
adapter is told its sampling budget B, coverage is that of Pass@B, averaged over B = 1, 2, 4, 8 (ours). Writes actions.json,
which the other experiments read with --actions, beside the table and the figure.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from adaptive_jax.decoding.params import SamplingParams, setting_name
from adaptive_jax.environment import Cot, Environment
from adaptive_jax.evaluation.figures import coverage_figure
from adaptive_jax.evaluation.results import MEAN, Gain, Row, results_json
from adaptive_jax.evaluation.samples import Sample, samples_jsonl, unpacked
from adaptive_jax.evaluation.statistics import binomial_ci95, cross_coverage, paired_ci95
from adaptive_jax.evaluation.tables import HELD_OUT, SELECTED_ON, coverage_table
from adaptive_jax.learning.selection import (
    candidates,
    coverage,
    expected_rewards,
    greedy_coverage,
    save_actions,
    top_by_mean,
)
from adaptive_jax.runs.directory import RunDirectory
from adaptive_jax.tasks.problem import VERDICTS
from experiments.actions import SAMPLES, SequenceConfig, scored, summed
from experiments.launching import exit_on_usage_error, launch
from experiments.running import load_model, open_run, write_report
from experiments.splits import load_splits

log = logging.getLogger("experiments.select_actions")  # __name__ is __main__ under python -m

GREEDY, TOP = "greedy selection", "top-N by mean"


@dataclass(frozen=True)
class SelectActions(SequenceConfig):
    """Choose the sequence adapter's action set.

    Attributes:
        cot: how the problems are asked.
        limit: how many held-out problems the selections are scored on.
        size: of the action set; also the largest N of the comparison.
        completions: completions per problem and setting for the selection.
        held_out_completions: completions per problem and setting on the held-out problems.
    """

    cot: Cot = "mix"
    limit: int = 256
    size: int = 8
    completions: int = 8
    held_out_completions: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "size")
        if self.size > len(candidates()):
            raise ValueError(f"--size {self.size}: there are {len(candidates())} candidates, give at most as many")
        self.at_least(1 if self.summed_chances else 2, "completions")
        self.at_least(1 if self.summed_chances else 2 * max(SAMPLES), "held_out_completions")


def main(config: SelectActions) -> Path:
    """Run the experiment; returns the run directory."""
    start = time.monotonic()
    with exit_on_usage_error():
        lm = load_model(config)
        splits = load_splits(config)
        made = functools.partial(config.environment, lm, cot=config.cot, examples=splits.examples)
        validation = made(splits.validation, completions=config.completions * len(candidates()))
        test = made(splits.test, completions=config.held_out_completions * len(candidates()))
    with open_run("select_actions", config, lm, splits) as run:
        table = select(validation, test, config, run)
        log.info("\n%s\n%.1f minutes; everything is in %s", table, (time.monotonic() - start) / 60, run.path)
    return run.path


@dataclass(frozen=True)
class Tried:
    """What settings made of problems; a problem at a token budget is one x_i.

    Attributes:
        rates: the expected reward of each place, R in `selection`, by which settings are selected.
        reached: of some of the settings: each problem's coverage.
        count: problems behind it.
        verdicts, samples: of the completions, where each was judged.
    """

    rates: Float[np.ndarray, "places settings"]
    reached: Callable[[Sequence[int]], np.ndarray]
    count: int
    verdicts: np.ndarray
    samples: list[Sample]


def tried(
    name: str,
    environment: Environment,
    settings: Sequence[SamplingParams],
    completions: int,
    config: SelectActions,
    run: RunDirectory,
) -> Tried:
    """Settings on problems, from draws or from summed chances, as a stage of the run."""
    if config.summed_chances:
        chances = summed(name, environment, settings, completions, config, run)
        each = np.array([1.0 - (1.0 - chances) ** count for count in SAMPLES])  # [K, budgets, Q, A]
        rates, nobody = each.reshape(-1, len(settings)), np.zeros(len(VERDICTS), int)
        return Tried(rates, lambda own: each[..., list(own)].max(axis=-1).mean(axis=(0, 1)), len(environment), nobody, [])
    scores = scored(name, environment, settings, completions, config, run)
    wins = scores.wins[:, scores.known]

    def reached(own: Sequence[int]) -> np.ndarray:
        return np.mean([cross_coverage(each, own, SAMPLES) for each in wins], axis=0)

    rates = expected_rewards(wins.reshape(-1, len(settings), completions), SAMPLES)
    return Tried(rates, reached, int(scores.known.sum()), scores.verdicts, unpacked(scores.samples))


def select(validation: Environment, test: Environment, config: SelectActions, run: RunDirectory) -> str:
    """Select on the validation problems, compare on the held-out ones; returns the table."""
    settings = candidates()
    known = tried("scoring the candidates", validation, settings, config.completions, config, run)
    chosen = {GREEDY: greedy_coverage(known.rates, config.size), TOP: top_by_mean(known.rates, config.size)}
    run.write_file("actions.json", lambda path: save_actions(path, [settings[index] for index in chosen[GREEDY]]))

    union = sorted({index for indices in chosen.values() for index in indices})
    again = [settings[index] for index in union]
    held_out = tried("scoring the selections", test, again, config.held_out_completions, config, run)
    tries = (None, None) if config.summed_chances else (config.completions, config.held_out_completions)
    rows = []
    for count in range(1, config.size + 1):
        reached = {
            method: held_out.reached([union.index(index) for index in indices[:count]]) for method, indices in chosen.items()
        }
        ahead = reached[GREEDY] - reached[TOP]
        gain = Gain(TOP, float(ahead.mean()), paired_ci95(ahead))
        for method, indices in chosen.items():
            covered = coverage(known.rates, indices[:count])
            rows.append(_row(method, SELECTED_ON.format(count), covered, known.count, tries[0], config))
            value, over = float(reached[method].mean()), gain if method == GREEDY else None
            rows.append(_row(method, HELD_OUT.format(count), value, len(ahead), tries[1], config, over))
    name, scores = validation.lm.name, {"all candidates": known, "selected, held out": held_out}
    verdicts = {method: own.verdicts for method, own in scores.items()}
    run.write_json("results.json", results_json("select_actions", name, config.dataset, rows, verdicts))
    run.write_text("samples.jsonl", samples_jsonl({method: own.samples for method, own in scores.items()}))
    run.write_file("coverage.png", lambda path: coverage_figure(path, rows))
    names = {method: [setting_name(settings[index]) for index in indices] for method, indices in chosen.items()}
    table = coverage_table(rows, names, name, config.dataset)
    run.write_text("results.md", table)
    write_report(run)
    return table


def _row(
    method: str, metric: str, value: float, count: int, completions: int | None, config: SelectActions, gain: Gain | None = None
) -> Row:
    return Row(
        method=method,
        cot=config.cot,
        metric=metric,
        budget=config.budgets[0] if len(config.budgets) == 1 else MEAN,
        value=value,
        ci95=binomial_ci95(value, count),
        n=count,
        seeds=1,
        spread=0.0,
        by_seed=(value,),
        gain=gain,
        completions=completions,
    )


if __name__ == "__main__":
    launch(main, SelectActions, __doc__)

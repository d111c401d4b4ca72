"""Train the token-level adapter by REINFORCE and compare it with static baselines, at several token budgets.

    uv run python -m experiments.math_token
    uv run python -m experiments.math_token --model smollm2 --dataset gsm8k_test.jsonl --limit 64 --budget 96

The paper's main experiment (arXiv 2603.09065, token-level adapter on MATH). By default it runs on the embedded model and its
arithmetic task, in minutes on two CPU cores. Writes config.json, environment.json, metrics.jsonl, results.json, results.md,
two figures, checkpoints and the trained adapters into the run directory. The same command with that --run-dir goes on with a
run that was cut off, and comes to the same bits.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.evaluation.evaluate import Scores, evaluate
from adaptive_jax.evaluation.figures import budget_figure, training_figure
from adaptive_jax.evaluation.results import Row, caption, markdown_table, results_json, rows_of
from adaptive_jax.learning.environment import Environment, questions
from adaptive_jax.learning.train import TrainSettings, TrainState, collect, usable_questions
from adaptive_jax.lm.model import LM
from adaptive_jax.parallel import total
from adaptive_jax.policies.fixed import mixed, static
from adaptive_jax.policies.token import PAPER_ACTIONS, Inputs, TokenAdapter, token_adapter
from adaptive_jax.runs.adapters import ADAPTERS as FOLDER
from adaptive_jax.runs.adapters import MAIN, save_adapter
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.stopping import Stop
from experiments.common import (
    Progress,
    TrainingConfig,
    asked_for,
    fork_schedule,
    launch,
    load_model,
    load_splits,
    open_run,
    train_stage,
)

log = logging.getLogger("experiments.math_token")  # __name__ is __main__ under python -m

ADAPTERS: dict[str, tuple[str, Inputs]] = {
    "entropy-only": ("entropy-only", "entropy"),
    "token-adapter-no-budget": ("token adapter, no budget", "hidden"),
    MAIN: ("token adapter, budget", "hidden+budget"),
}


@dataclass(frozen=True)
class MathToken(TrainingConfig):
    """Train the token-level adapter and compare it with static baselines.

    Attributes:
        prompts: prompts per update, each with its own draw of the token budget (32; 8 for a real model on a CPU).
        completions: completions per prompt in training, for the leave-one-out baseline.
        learning_rate: of Adam.
        entropy_bonus: weight of the policy's entropy in the loss; falls linearly to a tenth.
        validate_every: updates between two validations.
    """

    prompts: int | None = None
    completions: int = 8
    learning_rate: float = 2e-3
    entropy_bonus: float = 0.01
    validate_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "prompts", "validate_every")
        self.at_least(2, "completions")
        self.at_least(0, "learning_rate", "entropy_bonus")

    def settings(self, seed: int) -> TrainSettings:
        """The learner's settings of one training seed."""
        return TrainSettings(
            updates=self.updates or (6 if self.slow else 60),
            prompts=self.prompts or (8 if self.slow else 32),
            completions=self.completions,
            budgets=self.budgets,
            learning_rate=self.learning_rate,
            entropy_bonus=self.entropy_bonus,
            rows=self.rows,
            seed=seed,
        )


def main(config: MathToken) -> Path:
    """Run the experiment; returns the run directory."""
    start = time.monotonic()
    with asked_for():
        lm = load_model(config)
        splits = load_splits(config)
        test = Environment(lm, questions(splits.test, config.cot))
        training = Environment(lm, questions(splits.train, config.cot))
        validation = Environment(lm, questions(splits.validation, config.cot))
        for environment in (test, training, validation):
            environment.check(max(config.budgets))
    with open_run("math_token", config, lm, splits) as run:
        log.info(
            "%s: %.1fM parameters on %s; %d questions to evaluate, %d to train on",
            lm.name,
            lm.num_parameters / 1e6,
            jax.devices()[0].device_kind,
            len(test),
            len(training),
        )
        table = compare(test, training, validation, config, run)
        log.info("\n%s\n%.1f minutes; everything is in %s", table, (time.monotonic() - start) / 60, run.path)
    return run.path


def compare(test: Environment, training: Environment, validation: Environment, config: MathToken, run: RunDirectory) -> str:
    """Evaluate the baselines, train and evaluate the adapters; returns the table. Results are written as they come."""
    lm, budgets, rows, verdicts = test.lm, config.budgets, list[Row](), dict[str, np.ndarray]()
    resolved = {f"seed {seed}": dataclasses.asdict(config.settings(seed)) for seed in config.training_seeds}
    run.log(event="settings", test=len(test), training=len(training), validation=len(validation), **resolved)

    def report(method: str, runs: list[Scores]) -> str:
        rows.extend(rows_of(method, config.cot, budgets, runs))
        verdicts[method] = np.sum([scores.verdicts for scores in runs], axis=0)
        run.write_json("results.json", results_json("math_token", lm.name, config.dataset, rows, verdicts))
        table = caption(lm.name, config.dataset, rows) + "\n" + markdown_table(rows)
        run.write_text("results.md", table)
        return table

    for name, policy in baselines(lm, config).items():
        report(name, [score(test, policy, name, config, run)])
    usable = {seed: opening_pass(training, config, seed, run) for seed in config.training_seeds}
    curves: dict[str, list[Metrics]] = {}
    for method, (name, inputs) in ADAPTERS.items():
        scores = []
        for seed in config.training_seeds:
            adapter, curve = train_adapter(training, validation, config, method, inputs, seed, usable[seed], run)
            curves.setdefault(name, curve)
            scores.append(score(test, adapter, f"{name}, seed {seed}", config, run))
        table = report(name, scores)
    training_figure(run.path / "training.png", curves, [f"T = {t:g}" if t else "greedy" for t in PAPER_ACTIONS])
    budget_figure(run.path / "budgets.png", rows, trained=[name for name, _ in ADAPTERS.values()])
    return table


def baselines(lm: LM, config: MathToken) -> dict[str, Policy]:
    """The policies that learn nothing: each action alone, a random one per completion, and where it is known what the texts
    look like (the embedded model's own task), the hand-written schedule."""
    settings = [SamplingParams(temperature) for temperature in PAPER_ACTIONS]
    policies: dict[str, Policy] = {"greedy" if t == 0 else f"static {t:g}": static(t) for t in PAPER_ACTIONS}
    policies["mixed static"] = mixed(settings)
    if config.model == "tiny" and config.dataset == "arithmetic":
        policies["hand-written schedule"] = fork_schedule(lm)
    return policies


def score(environment: Environment, policy: Policy, name: str, config: MathToken, run: RunDirectory) -> Scores:
    """Pass@1 of a policy at every budget, with the same draws for every policy."""
    budgets, label = config.budgets, f"evaluating {name}"

    def compute() -> dict[str, np.ndarray]:
        with Progress(label, len(environment) * (len(budgets) if policy.sees_budget else 1), run.stop) as progress:
            key = jax.random.key(config.seed)
            scores = evaluate(environment, policy, budgets, key=key, rows=config.rows, on_progress=progress.at_least)
        return vars(scores)

    scores = Scores(**run.stage(label, compute, given=policy))
    log.info("%-32s %s", name, "  ".join(f"{100 * value:5.1f}" for value in scores.accuracy()))
    return scores


def opening_pass(training: Environment, config: MathToken, seed: int, run: RunDirectory) -> np.ndarray:
    """The training questions that carry a signal, found by one pass of a uniform policy; counted in the log.

    Where none does, all of them: the run goes on, and later draws may still find a signal.
    """
    uniform = token_adapter(training.lm.config.hidden_size, inputs="entropy", budget_scale=max(config.budgets), seed=seed)
    settings, label = config.settings(seed), f"opening pass, seed {seed}"

    def compute() -> dict[str, np.ndarray]:
        with Progress(label, len(training) * settings.filter_completions, run.stop) as progress:
            usable = usable_questions(training, uniform, settings, on_progress=progress.at_least)
        run.log(event="prompt filter", seed=seed, questions=len(training), usable=len(usable))
        return {"usable": usable}

    usable = run.stage(label, compute)["usable"]
    log.info("seed %d: %d of %d training questions carry a signal", seed, len(usable), len(training))
    if len(usable) == 0:
        log.warning(
            "no training question was solved sometimes but not always: training on all of them, with little to learn from"
        )
        return np.arange(len(training))
    return usable


def train_adapter(
    training: Environment,
    validation: Environment,
    config: MathToken,
    method: str,
    inputs: Inputs,
    seed: int,
    usable: np.ndarray,
    run: RunDirectory,
) -> tuple[TokenAdapter, list[Metrics]]:
    """One adapter trained and saved, and its metrics per update."""
    settings = config.settings(seed)

    def measure(state: TrainState) -> Metrics:
        due = state.update % config.validate_every == 0 or state.update in (1, settings.updates)
        validated = {"validation_reward": validate(validation, state.adapter, settings, run.stop)} if due else {}
        return {"method": method, "seed": seed} | validated

    hidden_size = training.lm.config.hidden_size
    adapter, curve = train_stage(
        run,
        f"training {ADAPTERS[method][0]}, seed {seed}",
        training,
        token_adapter(hidden_size, inputs=inputs, budget_scale=max(config.budgets), seed=seed),
        settings,
        config,
        usable=usable,
        measure=measure,
    )
    save_adapter(run.path / FOLDER / f"{method}-seed{seed}", adapter, run.fingerprint)
    return adapter, curve


def validate(environment: Environment, adapter: TokenAdapter, settings: TrainSettings, stop: Stop) -> float:
    """Mean reward on the validation questions, the budgets in turn, with the same draws at every validation."""
    budgets = np.resize(settings.budgets, len(environment))
    asked = np.arange(len(environment))
    once = dataclasses.replace(settings, completions=1)
    _, rewards, valid = collect(environment, adapter, once, asked, budgets, update=0, on_progress=lambda _: stop.check())
    solved, known = total(np.array([(rewards * valid).sum(), valid.sum()], float))
    return float(solved / max(known, 1))


if __name__ == "__main__":
    launch(main, MathToken, __doc__)

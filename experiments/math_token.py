"""Train the token-level adapter by REINFORCE and compare it with static baselines and LPO, at several token budgets.

    uv run python -m experiments.math_token
    uv run python -m experiments.math_token --model smollm2 --dataset gsm8k_test.jsonl --limit 64 --budget 96

The paper's main experiment (arXiv 2603.09065, token-level adapter on MATH). By default it runs on the embedded model `fork` and
its problems, in minutes on two CPU cores. Writes config.json, environment.json, metrics.jsonl, results.json, results.md,
two figures, checkpoints and the trained adapters into the run directory. The same command with that --run-dir goes on with a
run that was cut off, and comes to the same bits.
"""

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adaptive_jax.decoding.params import SamplingParams, setting_name
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.environment import Cot, Environment
from adaptive_jax.evaluation.evaluate import Scores, evaluate
from adaptive_jax.evaluation.figures import budget_figure, training_figure
from adaptive_jax.evaluation.results import Row, budget_rows, caption, markdown_table, results_json, sample_size
from adaptive_jax.evaluation.samples import Sample, samples_jsonl, unpacked
from adaptive_jax.evaluation.statistics import mean_of_known, paired_ci95
from adaptive_jax.evaluation.tables import paper_values, pass_table
from adaptive_jax.learning.lpo import Rule
from adaptive_jax.learning.selection import load_actions
from adaptive_jax.learning.train import TrainSettings
from adaptive_jax.parallel import on_main_process, share
from adaptive_jax.policies.fixed import mixed
from adaptive_jax.policies.token import PAPER_ACTIONS, Inputs, TokenAdapter, token_adapter
from adaptive_jax.runs.adapters import ADAPTERS as FOLDER
from adaptive_jax.runs.adapters import MAIN, save_adapter
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.machine import environment as machine
from adaptive_jax.tasks.sandbox import choose_tier, tiers
from experiments.asking import asked_digest
from experiments.config import TrainingConfig
from experiments.launching import exit_on_usage_error, launch
from experiments.progress import Progress
from experiments.running import load_model, open_run, write_report
from experiments.schedules import hand_written
from experiments.splits import TransferConfig, load_splits, parts_of
from experiments.training import train_stage

log = logging.getLogger("experiments.math_token")  # __name__ is __main__ under python -m

BEST, MIXED, SCHEDULE, ORACLE = "best static", "mixed static", "hand-written schedule", "oracle"
BLIND = "token-adapter-no-budget"
# method -> name, what it sees, how it learns
ADAPTERS: dict[str, tuple[str, Inputs, Rule]] = {
    "entropy-only": ("entropy-only", "entropy", "reinforce"),
    "lpo": ("LPO", "hidden", "lpo"),
    BLIND: ("token adapter, no budget", "hidden", "reinforce"),
    MAIN: ("token adapter, budget", "hidden+budget", "reinforce"),
}
COLUMNS = (BEST, MIXED, "LPO", "token adapter, no budget", "token adapter, budget")  # the paper's
LAYOUT = (
    "In the layout of the paper's tables; {}. The best static setting is chosen on validation problems, for each metric and "
    "token budget anew; the oracle takes each question's best action by the very completions that it is scored on, which is "
    "optimistic.\n"
)

Asked = tuple[str, Cot]  # a data set, and how its problems are asked
Estimates = dict[tuple[Asked, str], np.ndarray]  # asked, metric -> each question's own, float [Q, K]


@dataclass(frozen=True)
class MathToken(TrainingConfig, TransferConfig):
    """Train the token-level adapter and compare it with static baselines and LPO.

    Attributes:
        actions: an action-set file that select_actions wrote (otherwise greedy, 0.5, 1.0 and 1.25).
        prompts: prompts per update, each with its own draw of the token budget (32; 8 for a real model on a CPU).
        completions: completions per prompt in training, for the leave-one-out baseline.
        samples: sampling budget B of the reward, less than --completions: the adapters are trained for Pass@B (not LPO), and
            Pass@B is evaluated beside Pass@1 (and Pass@2B where there are completions for it).
        held_out_completions: completions per question on the problems that are evaluated (as many as --samples). All subsets
            of B of them count for Pass@B, so more make it surer.
        epochs: steps of the optimiser on the completions of an update, with clipped ratios (1 is REINFORCE itself).
        learning_rate: of Adam.
        entropy_bonus: weight of the policy's entropy in the loss; falls linearly to a tenth.
        validate_every: updates between two validations.
    """

    actions: Path | None = None
    prompts: int | None = None
    completions: int = 8
    samples: int = 1
    held_out_completions: int | None = None
    epochs: int = 4
    learning_rate: float = 2e-3
    entropy_bonus: float = 0.01
    validate_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "prompts", "samples", "epochs", "validate_every")
        self.at_least(2, "completions")
        self.at_least(0, "learning_rate", "entropy_bonus")
        if self.samples >= self.completions:
            raise ValueError(f"--samples {self.samples}: give less than --completions, which is {self.completions}")
        self.at_least(self.samples, "held_out_completions")

    @functools.cached_property
    def action_set(self) -> list[SamplingParams]:
        """The actions to choose from."""
        if self.actions is not None:
            return load_actions(self.actions)
        return [SamplingParams(temperature) for temperature in PAPER_ACTIONS]

    @property
    def cots(self) -> tuple[Cot, ...]:
        """The rows of the table; what is trained on mixed questions is evaluated on direct ones, too."""
        return ("mix", "none") if self.cot == "mix" else (self.cot,)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is evaluated: Pass@1, Pass@B, and the mean of rewards of one's own, which may be graded."""
        samples = {1, self.samples}
        if self.samples > 1 and self.tries >= 2 * self.samples:
            samples.add(2 * self.samples)
        own = ("reward",) if self.reward is not None else ()
        return (*(f"pass@{k}" for k in sorted(samples)), *own)

    @property
    def tries(self) -> int:
        """Completions per question that is evaluated."""
        return self.held_out_completions or self.samples

    @property
    def validations(self) -> int:
        """Completions per validation question that the best static action is chosen by: from few, it is not the best."""
        return max(4 if self.slow else 16, self.tries)

    def settings(self, seed: int, rule: Rule = "reinforce") -> TrainSettings:
        """The learner's settings of one training seed."""
        return TrainSettings(
            updates=self.updates or (6 if self.slow else 60),
            prompts=self.prompts or (8 if self.slow else 32),
            completions=self.completions,
            budgets=self.budgets,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            entropy_bonus=self.entropy_bonus,
            rule=rule,
            samples=self.samples,
            rows=self.rows,
            validate_every=self.validate_every,
            seed=seed,
        )


def main(config: MathToken) -> Path:
    """Run the experiment; returns the run directory."""
    return run_token("math_token", config)


def run_token(experiment: str, config: MathToken, *, programs: bool = False, allow_unsandboxed: bool = False) -> Path:
    """The experiment on problems that ask for answers, or for programs; returns the run directory."""
    start = time.monotonic()
    with exit_on_usage_error():
        lm, actions = load_model(config), config.action_set
        splits = load_splits(config, programs=programs)
        tries = max(config.completions, config.validations)
        parts = {
            (name, cot): config.environment(
                lm, part, cot, examples=splits.examples, completions=tries, allow_unsandboxed=allow_unsandboxed
            )
            for name, part in parts_of(config, splits, programs=programs).items()
            for cot in config.cots
        }
        if programs:
            choose_tier(allow_unsandboxed)
        share(config.settings(config.seed).prompts)  # too few of them for the processes? Better told of now than after hours
    with open_run(experiment, config, lm, splits) as run:
        if programs:
            run.write_json("environment.json", machine() | {"sandbox": choose_tier(allow_unsandboxed), "tiers": tiers()})
        log.info("%s: %.1fM parameters on %s", lm.name, lm.num_parameters / 1e6, jax.devices()[0].device_kind)
        sizes = {name: len(environment) for (name, _), environment in parts.items()}
        log.info("questions: %s", ", ".join(f"{size} of {name}" for name, size in sizes.items()))
        log.info("%d actions: %s", len(actions), "; ".join(map(setting_name, actions)))
        table = Comparison(experiment, parts, config, run).run()
        log.info("\n%s\n%.1f minutes; everything is in %s", table, (time.monotonic() - start) / 60, run.path)
    return run.path


class Comparison:
    """Every method on the same problems and draws; results are written as they come.

    Args:
        experiment: its name.
        parts: problems to train on, to validate with, and then the data sets to evaluate, by name and how they are asked.
        config, run: of the experiment.
    """

    def __init__(self, experiment: str, parts: dict[Asked, Environment], config: MathToken, run: RunDirectory):
        self._experiment, self._config, self._run = experiment, config, run
        training, validation, *evaluated = dict.fromkeys(name for name, _ in parts)
        self._training = parts[training, config.cot]
        self._validation = {cot: parts[validation, cot] for cot in config.cots}
        self._evaluated = {(name, cot): parts[name, cot] for name in evaluated for cot in config.cots}
        self._rows: dict[str, list[Row]] = {name: [] for name in evaluated}
        self._verdicts: dict[Asked, dict[str, np.ndarray]] = {asked: {} for asked in self._evaluated}
        self._samples: dict[Asked, dict[str, list[Sample]]] = {asked: {} for asked in self._evaluated}
        self._behaviour: dict[Asked, dict[str, Any]] = {asked: {} for asked in self._evaluated}
        self._best: Estimates = {}
        self._estimates: dict[tuple[Asked, str, str], list[np.ndarray]] = {}

    def run(self) -> str:
        """Evaluate what learns nothing, train and evaluate the adapters; returns the tables."""
        config, run = self._config, self._run
        sizes = {name: len(environment) for (name, _), environment in self._evaluated.items()}
        watched = self._validation[config.cot]
        resolved = {f"seed {seed}": dataclasses.asdict(config.settings(seed)) for seed in config.training_seeds}
        names = [setting_name(action) for action in config.action_set]
        run.log(
            event="settings", actions=names, questions=sizes, training=len(self._training), validation=len(watched), **resolved
        )
        self._baselines()
        curves: dict[str, list[Metrics]] = {}
        for method, (name, _, _) in ADAPTERS.items():
            scores = []
            for seed in config.training_seeds:
                adapter, curve = train_adapter(self._training, watched, config, method, seed, run)
                curves.setdefault(name, curve)
                scores.append(self._scores(f"{name}, seed {seed}", adapter))
            self._add(name, scores)
        run.write_file("training.png", lambda path: training_figure(path, curves, names))
        return self._report(figures=True)

    def _baselines(self) -> None:
        """What learns nothing: each action alone, the best of them, a random one for each completion, the hand-written schedule
        where it is known what the texts look like, and for each question the action that its own completions are best under."""
        config = self._config
        statics = {static_name(action): mixed([action]) for action in config.action_set}
        known = {
            cot: [
                score(asked, policy, f"validating {name}" + self._way(cot), config, self._run, completions=config.validations)
                for name, policy in statics.items()
            ]
            for cot, asked in self._validation.items()
        }
        found = {name: self._scores(name, policy) for name, policy in statics.items()}
        oracle: Estimates = {}
        for metric, cot in itertools.product(config.metrics, config.cots):
            # int [K], for each budget
            best = np.argmax([mean_of_known(scores.metric(metric)) for scores in known[cot]], axis=0)
            names = {f"b = {b}": [*statics][action] for b, action in zip(config.budgets, best, strict=True)}
            self._run.log(event=BEST, metric=metric, cot=cot, **names)
            told = ", ".join(f"{n} at {b}" for b, n in names.items())
            log.info("best static on validation, CoT %s, %s: %s", cot, metric, told)
            for asked in self._evaluated:
                if asked[1] == cot:
                    every = np.stack([scores[asked].metric(metric) for scores in found.values()])  # [A, Q, K]
                    self._best[asked, metric] = every[best, :, np.arange(len(best))].T
                    oracle[asked, metric] = every.max(axis=0)
        for name, scores in found.items():
            self._add(name, [scores])
        self._add_estimates(BEST, [self._best])
        self._add(MIXED, [self._scores(MIXED, mixed(config.action_set))])
        if (schedule := hand_written(config.dataset, self._training.lm)) is not None:
            self._add(SCHEDULE, [self._scores(SCHEDULE, schedule)])
        self._add_estimates(ORACLE, [oracle])

    def _way(self, cot: Cot) -> str:
        """What tells the stages of a further row of the table from those of the first."""
        return "" if cot == self._config.cot else f", CoT {cot}"

    def _scores(self, name: str, policy: Policy) -> dict[Asked, Scores]:
        """A policy on each data set, in each way of asking."""
        found, first = {}, next(iter(self._rows))
        for (dataset, cot), environment in self._evaluated.items():
            stage = f"evaluating {name}" + ("" if dataset == first else ", transfer") + self._way(cot)
            tries = self._config.tries
            found[dataset, cot] = score(environment, policy, stage, self._config, self._run, completions=tries, watched=True)
        return found

    def _add(self, method: str, runs: Sequence[dict[Asked, Scores]]) -> None:
        """What a method reached, in each training seed."""
        for asked in self._evaluated:
            self._verdicts[asked][method] = np.sum([scores[asked].verdicts for scores in runs], axis=0)
            self._behaviour[asked][method] = unpacked(runs[0][asked].behaviour)
            self._samples[asked][method] = [sample for scores in runs for sample in unpacked(scores[asked].samples)]
        metrics = self._config.metrics
        self._add_estimates(method, [{(asked, m): own[asked].metric(m) for asked in own for m in metrics} for own in runs])

    def _add_estimates(self, method: str, runs: Sequence[Estimates]) -> None:
        for asked, metric in self._best:
            over = None if method == BEST else (BEST, self._best[asked, metric])
            values = [estimates[asked, metric] for estimates in runs]
            dataset, cot = asked
            self._rows[dataset] += budget_rows(
                method, cot, metric, self._config.budgets, values, over, completions=self._config.tries
            )
            self._estimates[asked, metric, method] = values
        self._report()

    def _worth_of_budget(self, asked: Asked, metric: str) -> str:
        """What seeing the token budget is worth: one line, once both adapters are there."""
        both = [(asked, metric, ADAPTERS[method][0]) for method in (MAIN, BLIND) if method in ADAPTERS]
        if len(both) < 2 or not all(key in self._estimates for key in both):
            return ""
        seeing, blind = (np.mean(self._estimates[key], axis=(0, 2)) for key in both)  # [Q]
        gains = (seeing - blind)[~np.isnan(seeing - blind)]
        low, high = paired_ci95(gains)
        return (
            f"{ADAPTERS[MAIN][0]}, over {ADAPTERS[BLIND][0]}, in the mean over token budgets: {100 * gains.mean():+.1f} points "
            f"[{100 * low:+.1f}, {100 * high:+.1f}], the same interval.\n"
        )

    def _report(self, *, figures: bool = False) -> str:
        """Write results.json, samples.jsonl, results.md and the figures (transfer- for --eval-dataset). Returns the tables."""
        name, texts = self._training.lm.name, []
        for number, (dataset, rows) in enumerate(self._rows.items()):
            prefix = "transfer-" if number else ""
            content = results_json(self._experiment, name, dataset, rows, self._verdicts[dataset, self._config.cot])
            self._run.write_json(f"{prefix}results.json", content)
            self._run.write_text(f"{prefix}samples.jsonl", samples_jsonl(self._samples[dataset, self._config.cot]))
            self._run.write_json(f"{prefix}behaviour.json", {cot: self._behaviour[dataset, cot] for cot in self._config.cots})
            for metric, cot in itertools.product(self._config.metrics, self._config.cots):
                own = [row for row in rows if row.metric == metric and row.cot == cot]
                texts += [caption(name, dataset, own), markdown_table(own), self._worth_of_budget((dataset, cot), metric)]
            shown = [row for column in COLUMNS for row in rows if row.method == column]
            metrics, paper = self._config.metrics, paper_values(name, dataset, COLUMNS[-1])
            texts += [LAYOUT.format(sample_size(shown)), pass_table(shown, metrics, paper)] if shown else []
            if figures:
                drawn = [row for row in rows if row.metric == "pass@1" and row.cot == self._config.cot and row.method != BEST]
                draw = functools.partial(budget_figure, rows=drawn, trained=[name for name, _, _ in ADAPTERS.values()])
                self._run.write_file(f"{prefix}budgets.png", draw)
        tables = "\n".join(texts)
        self._run.write_text("results.md", tables)
        write_report(self._run)
        return tables


def static_name(action: SamplingParams) -> str:
    """Such as "static 0.5" or "greedy"."""
    name = setting_name(action)
    return name if name == "greedy" else "static " + name.removeprefix("T ")


def score(
    environment: Environment,
    policy: Policy,
    stage: str,
    config: MathToken,
    run: RunDirectory,
    *,
    completions: int,
    watched: bool = False,
) -> Scores:
    """A policy on all questions at every budget, with the same draws for every policy."""
    budgets = config.budgets

    def compute() -> dict[str, np.ndarray]:
        total = len(environment) * completions * (len(budgets) if policy.sees_budget else 1)
        with Progress(stage, total, run.stop) as progress:
            scores = evaluate(
                environment,
                policy,
                budgets,
                seed=config.seed,
                completions=completions,
                rows=config.rows,
                sampled=int(watched),
                watched=watched,
                on_progress=progress.at_least,
            )
        return vars(scores)

    scores = Scores(**run.stage(stage, compute, inputs=(policy, asked_digest(environment))))
    log.info("%-42s %s", stage, "  ".join(f"{100 * value:5.1f}" for value in scores.accuracy()))
    return scores


def untrained(training: Environment, inputs: Inputs, config: MathToken, seed: int) -> TokenAdapter:
    """The adapter that a training starts from."""
    actions, scale = SamplingParams.stack(config.action_set), max(config.budgets)
    return token_adapter(training.lm.config.hidden_size, inputs=inputs, actions=actions, budget_scale=scale, seed=seed)


def train_adapter(
    training: Environment,
    validation: Environment,
    config: MathToken,
    method: str,
    seed: int,
    run: RunDirectory,
) -> tuple[TokenAdapter, list[Metrics]]:
    """One adapter trained and saved, and its metrics per update."""
    name, inputs, rule = ADAPTERS[method]
    settings = config.settings(seed, rule)
    adapter, curve = train_stage(
        run,
        f"training {name}, seed {seed}",
        training,
        untrained(training, inputs, config, seed),
        settings,
        config,
        validation=validation,
        labels={"method": method, "seed": seed},
    )
    on_main_process(lambda: save_adapter(run.path / FOLDER / f"{method}-seed{seed}", adapter, fingerprint=run.fingerprint))
    return adapter, curve


if __name__ == "__main__":
    launch(main, MathToken, __doc__)

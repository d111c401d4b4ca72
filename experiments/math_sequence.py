"""Train the sequence-level adapter, one sampling setting per prompt, and compare it with static baselines and LPO.

    uv run python -m experiments.math_sequence
    uv run python -m experiments.math_sequence --model smollm2 --dataset gsm8k_test.jsonl --limit 8 --budget 96

The paper's sequence-level experiment (arXiv 2603.09065): Pass@k under parallel sampling budgets B = 1 to 8. Every action is
tried on every question beforehand; training and evaluation then read from these scores and decode nothing. Writes config.json,
environment.json, metrics.jsonl, results.json, results.md, a figure and the trained adapters into the run directory.
"""

import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.params import SamplingParams, setting_name
from adaptive_jax.environment import Cot, Environment, Question, questions
from adaptive_jax.evaluation.choices import (
    Asked,
    Chances,
    Draws,
    Outcomes,
    adapter_choice,
    best_static,
    lookup_choice,
    oracle,
)
from adaptive_jax.evaluation.figures import pass_figure
from adaptive_jax.evaluation.results import Row, pass_rows, results_json
from adaptive_jax.evaluation.samples import Sample, samples_jsonl, unpacked
from adaptive_jax.evaluation.tables import paper_values, pass_caption, pass_table
from adaptive_jax.learning.bandit import BanditSettings, Table, embeddings, fit_bandit, reached_by
from adaptive_jax.learning.lpo import Rule
from adaptive_jax.learning.selection import load_actions
from adaptive_jax.lm.model import EMBEDDED, LM
from adaptive_jax.parallel import on_main_process
from adaptive_jax.policies.sequence import Pooling, SequenceAdapter, sequence_adapter
from adaptive_jax.policies.token import PAPER_ACTIONS
from adaptive_jax.runs.adapters import ADAPTERS, save_adapter
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.machine import environment as machine
from adaptive_jax.runs.records import named_leaves, replace_leaves
from adaptive_jax.tasks import arithmetic, forks
from adaptive_jax.tasks.problem import VERDICTS
from adaptive_jax.tasks.sandbox import choose_tier, tiers
from experiments.actions import SAMPLES, SequenceConfig, scored, summed
from experiments.asking import COMPONENT
from experiments.launching import exit_on_usage_error, launch
from experiments.running import load_model, open_run, write_report
from experiments.splits import TransferConfig, load_splits, parts_of

log = logging.getLogger("experiments.math_sequence")  # __name__ is __main__ under python -m

OWN_ACTIONS = {name: Path(__file__).parent / "results" / f"select_actions_{name}" / "actions.json" for name in EMBEDDED}
EMBEDDED_TRAIN_LIMIT = 2048
BASELINE = "best static"
HELD = "held"  # beside the parameters of a trained adapter
# method -> name, whether it sees B, how it learns
TRAINED: dict[str, tuple[str, bool, Rule]] = {
    "lpo": ("LPO", False, "lpo"),
    "sequence-adapter-no-budget": ("sequence adapter, no budget", False, "reinforce"),
    "sequence-adapter-budget": ("sequence adapter, budget", True, "reinforce"),
}
LARGEST = max(SAMPLES)

Estimate = Callable[[Asked, int], np.ndarray]  # each question's Pass@k, float [Q]
SHOWN = (BASELINE, "sequence adapter, budget")  # methods whose choices are among the samples


@dataclass(frozen=True)
class Choosing:
    """The estimate of a method that holds one action for each question.

    Attributes:
        choose: the action of each question when k completions are allowed, int [Q], or one for all.
    """

    choose: Callable[[Asked, int], np.ndarray | int]

    def __call__(self, asked: Asked, k: int) -> np.ndarray:
        return asked.reached(self.choose(asked, k), k)


@dataclass(frozen=True)
class MathSequence(SequenceConfig, TransferConfig):
    """Train the sequence-level adapter and compare it with static baselines and LPO.

    Attributes:
        cot: how the problems are asked; mix asks them in both ways, and so has rows for all and none as well.
        train_limit: how many problems are trained on, at most (2048 for tiny and fork, 512 otherwise; 64 for a real
            model on a CPU).
        actions: an action-set file that select_actions wrote (for tiny and fork their own, otherwise greedy, 0.5, 1.0
            and 1.25).
        completions: completions per question and action for training and validation, at least 8.
        held_out_completions: completions per question and action on the problems that are evaluated, at least 8.
        updates: policy-gradient updates per adapter and seed.
        learning_rate: of AdamW.
        pooling: the prompt embedding: the last token's hidden state, the prompt's mean, or both.
    """

    cot: Cot = "mix"
    actions: Path | None = None
    train_limit: int | None = None
    completions: int = 8
    held_out_completions: int = 16
    updates: int = 2000
    learning_rate: float = 1e-3
    pooling: Pooling = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "updates")
        self.at_least(1 if self.summed_chances else LARGEST, "completions", "held_out_completions")
        self.at_least(0, "learning_rate")

    @property
    def splits(self) -> "MathSequence":
        """The flags that the problems follow from: from few problems, an adapter learns the luck of their completions."""
        limit = EMBEDDED_TRAIN_LIMIT if self.model in EMBEDDED and self.train_limit is None else self.train_limit
        return dataclasses.replace(self, train_limit=limit)

    @property
    def cots(self) -> tuple[Cot, ...]:
        """The rows of the table."""
        return ("all", "none", "mix") if self.cot == "mix" else (self.cot,)

    def tries(self, part: str) -> int:
        """Completions per question and action of a part of the problems (see `parts_of`)."""
        return self.completions if part in ("training", "validation") else self.held_out_completions

    @property
    def settings(self) -> list[SamplingParams]:
        """The action set."""
        file = self.actions or OWN_ACTIONS.get(self.model)
        if file is None:
            return [SamplingParams(temperature) for temperature in PAPER_ACTIONS]
        return load_actions(file)


def main(config: MathSequence) -> Path:
    """Run the experiment; returns the run directory."""
    return run_sequence("math_sequence", config)


def run_sequence(experiment: str, config: MathSequence, *, programs: bool = False, allow_unsandboxed: bool = False) -> Path:
    """The experiment on problems that ask for answers, or for programs; returns the run directory."""
    start = time.monotonic()
    with exit_on_usage_error():
        lm, settings = load_model(config), config.settings
        splits = load_splits(config.splits, programs=programs)
        ways: tuple[Cot, ...] = ("all", "none") if config.cot == "mix" else (config.cot,)
        parts = {
            name: config.environment(
                lm,
                part,
                ways,
                examples=splits.examples,
                completions=config.tries(name) * len(settings),
                allow_unsandboxed=allow_unsandboxed,
            )
            for name, part in parts_of(config, splits, programs=programs).items()
        }
        if programs:
            choose_tier(allow_unsandboxed)
    with open_run(experiment, config, lm, splits) as run:
        if programs:
            run.write_json("environment.json", machine() | {"sandbox": choose_tier(allow_unsandboxed), "tiers": tiers()})
        log.info("%d actions: %s", len(settings), "; ".join(map(setting_name, settings)))
        tried = {}
        for name, environment in parts.items():
            tried[name] = Part(name, environment, settings, config.tries(name), config, run)
        table = compare(lm, tried, experiment, config, run)
        log.info("\n%s\n%.1f minutes; everything is in %s", table, (time.monotonic() - start) / 60, run.path)
    return run.path


class Part:
    """Some problems with the scores of every action, as a stage of the run."""

    def __init__(
        self,
        name: str,
        environment: Environment,
        settings: Sequence[SamplingParams],
        completions: int,
        config: MathSequence,
        run: RunDirectory,
    ):
        self._questions, self._budgets = environment.questions, config.budgets
        self._last, self._mean = embeddings(environment)
        self._outcomes: list[Outcomes]  # one for each token budget
        if config.summed_chances:
            chances = summed(f"summing the chances on {name}", environment, settings, completions, config, run)
            self._outcomes, self._known = [Chances(own) for own in chances], np.ones(len(environment), bool)
            self.verdicts, self._samples = np.zeros(len(VERDICTS), int), []
        else:
            scores = scored(f"scoring the actions on {name}", environment, settings, completions, config, run, apart=True)
            self._outcomes, self._known = [Draws(own) for own in scores.wins], scores.known
            self.verdicts, self._samples = scores.verdicts, unpacked(scores.samples)
        self.samples: dict[str, list[Sample]] = {setting_name(setting): [] for setting in settings}
        for sample in self._samples:
            self.samples[setting_name(settings[sample["group"]])].append(sample)

    def add_samples(self, method: str, own: Choosing, cot: Cot, budget: int, k: int) -> None:
        """Those of the samples that are a method's own: its action at B = k is the one that they were drawn under."""
        asked, kept = self.asked(cot, budget), self._kept(cot)
        chosen = {
            (self._questions[i].problem.id, "all" if self._questions[i].cot else "none", budget): action
            for i, action in zip(kept, np.broadcast_to(own.choose(asked, k), len(kept)).tolist(), strict=True)
        }
        self.samples.setdefault(f"{method}, B = {k}", []).extend(
            sample
            for sample in self._samples
            if chosen.get((sample["problem"], sample["cot"], sample["budget"])) == sample["group"]
        )

    def _kept(self, cot: Cot, *, each_way: bool = False) -> list[int]:
        """Which of the questions are those of a row of the table."""
        if cot == "mix" and not each_way:
            wanted = set(questions([question.problem for question in self._questions], "mix"))
        else:
            wanted = {question for question in self._questions if cot == "mix" or question.cot == (cot == "all")}
        return [i for i, question in enumerate(self._questions) if question in wanted and self._known[i]]

    def asked(self, cot: Cot, budget: int, *, each_way: bool = False) -> Asked:
        """The questions of a row of the table at a token budget; with `each_way`, mix has every problem in both ways."""
        kept = self._kept(cot, each_way=each_way)
        outcomes = self._outcomes[self._budgets.index(budget)].of(kept)
        return Asked(outcomes, self._last[kept], self._mean[kept], [kind(self._questions[i]) for i in kept])


def kind(question: Question) -> str:
    """What a lookup table tells questions apart by: how they are asked, and data set, kind, or the signs of their steps."""
    way, (dataset, _, chain) = "step by step" if question.cot else "direct", question.problem.id.partition("/")
    if COMPONENT in question.problem.metadata:
        return f"{way} {question.problem.metadata[COMPONENT]}"
    if dataset in ("forks", "fork_programs"):
        return f"{way} {forks.kind_of(chain)}"
    if dataset != "arithmetic":
        return way
    return f"{way} {''.join(sorted('+' if step > 0 else '-' for step in arithmetic.parse(chain)[1]))}"


def compare(lm: LM, parts: dict[str, Part], experiment: str, config: MathSequence, run: RunDirectory) -> str:
    """Train the adapters, evaluate everything; returns the tables. Results are written as they come."""
    training, validation, *evaluated = parts
    rows: dict[str, list[Row]] = {name: [] for name in evaluated}
    for budget in config.budgets:
        for cot in config.cots:
            known = parts[training].asked(cot, budget, each_way=True), parts[validation].asked(cot, budget, each_way=True)
            found = methods(lm, *known, cot, budget, config, run)
            for name in evaluated:
                asked = parts[name].asked(cot, budget)
                scores = {method: [pass_curve(estimate, asked) for estimate in by_seed] for method, by_seed in found.items()}
                for method, runs in scores.items():
                    over = None if method == BASELINE else (BASELINE, scores[BASELINE][0])
                    rows[name] += pass_rows(
                        method, cot, budget, runs, over, completions=None if config.summed_chances else config.tries(name)
                    )
                if cot == config.cot:
                    for method, k in itertools.product(SHOWN, (1, LARGEST)):
                        if isinstance(own := found[method][0], Choosing):
                            parts[name].add_samples(method, own, cot, budget, k)
            tables = report(lm, rows, parts, experiment, config, run)
    return tables


def pass_curve(estimate: Estimate, asked: Asked) -> np.ndarray:
    """float [Q, 8], each question's Pass@1 to Pass@8."""
    return np.stack([estimate(asked, k) for k in range(1, LARGEST + 1)], axis=1)


def methods(
    lm: LM, training: Asked, validation: Asked, cot: Cot, budget: int, config: MathSequence, run: RunDirectory
) -> dict[str, list[Estimate]]:
    """Every method's estimates, one for each of its training seeds; what is trained or chosen has not seen a test problem."""
    best = {k: best_static(validation, k) for k in range(1, LARGEST + 1)}
    names = {f"pass@{k}": setting_name(config.settings[best[k]]) for k in SAMPLES}
    run.log(event=BASELINE, cot=cot, budget=budget, **names, actions=[setting_name(s) for s in config.settings])
    log.info("CoT %s, b = %d, best static on validation: %s", cot, budget, "; ".join(f"{k} {v}" for k, v in names.items()))
    found: dict[str, list[Estimate]] = {
        BASELINE: [Choosing(lambda asked, k: best[k])],
        "mixed static": [lambda asked, k: asked.outcomes.mixed(k, config.seed)],
    }
    for method, (name, _, _) in TRAINED.items():
        found[name] = []
        for seed in config.training_seeds:
            adapter = trained(lm, training, validation, method, cot, budget, seed, config, run)
            found[name].append(Choosing(functools.partial(adapter_choice, adapter)))
    found["lookup table"] = [Choosing(functools.partial(lookup_choice, training))]
    found["oracle"] = [oracle]
    return found


def trained(
    lm: LM,
    training: Asked,
    validation: Asked,
    method: str,
    cot: Cot,
    budget: int,
    seed: int,
    config: MathSequence,
    run: RunDirectory,
) -> SequenceAdapter:
    """An adapter as it was when its choices were best on the validation problems; a stage of the run, saved."""
    name, sees_samples, rule = TRAINED[method]
    own = f"{method}-{cot}" + (f"-b{budget}" if len(config.budgets) > 1 else "")
    actions = SamplingParams.stack(config.settings)
    start = sequence_adapter(
        lm.config.hidden_size, actions, pooling=config.pooling, sees_samples=sees_samples, samples_scale=LARGEST, seed=seed
    )
    settings = BanditSettings(updates=config.updates, samples=SAMPLES, rule=rule, learning_rate=config.learning_rate, seed=seed)

    def report(metrics: Metrics) -> None:
        run.log(method=own, seed=seed, **metrics)
        run.stop.check()

    def compute() -> dict[str, np.ndarray]:
        watched = table(validation)
        kept, _ = fit_bandit(start, table(training), settings, validation=watched, on_report=report)
        reached = 100 * reached_by(kept, watched, SAMPLES).mean()
        log.info("%-28s seed %d, CoT %-4s b = %d: %.1f on validation", name, seed, cot, budget, reached)
        return named_leaves(kept.params) | {HELD: np.array(kept.held, np.int32)}

    arrays = dict(run.stage(f"training {own}, seed {seed}", compute, inputs=actions))
    held = tuple(arrays.pop(HELD).tolist())
    adapter = dataclasses.replace(start, params=replace_leaves(start.params, arrays), held=held)
    on_main_process(lambda: save_adapter(run.path / ADAPTERS / f"{own}-seed{seed}", adapter, fingerprint=run.fingerprint))
    return adapter


def table(asked: Asked) -> Table:
    """What the learner sees of questions."""
    rates = jnp.asarray([asked.outcomes.rates(k) for k in SAMPLES], jnp.float32)
    return Table(jnp.asarray(asked.last), jnp.asarray(asked.mean), rates)


def report(
    lm: LM,
    rows: dict[str, list[Row]],
    parts: dict[str, Part],
    experiment: str,
    config: MathSequence,
    run: RunDirectory,
) -> str:
    """Write results.json, samples.jsonl, results.md and the figures; those of --eval-dataset are called transfer."""
    texts = [f"Actions: {'; '.join(map(setting_name, config.settings))}.\n"]
    if config.summed_chances:
        texts.append("Values are from summed chances of right completions, not from draws.\n")
    names = [name for name, _, _ in TRAINED.values()]
    for number, (dataset, own) in enumerate(rows.items()):
        prefix = "" if number == 0 else "transfer-"
        content = results_json(experiment, lm.name, dataset, own, {"all actions": parts[dataset].verdicts})
        run.write_json(f"{prefix}results.json", content)
        run.write_text(f"{prefix}samples.jsonl", samples_jsonl(parts[dataset].samples))
        for budget in dict.fromkeys(row.budget for row in own):
            shown = [row for row in own if row.budget == budget]
            paper = paper_values(lm.name, dataset, "sequence adapter, budget")
            texts += [pass_caption(lm.name, dataset, shown), pass_table(shown, [f"pass@{k}" for k in SAMPLES], paper)]
            draw = functools.partial(pass_figure, rows=shown, trained=names)
            run.write_file(f"{prefix}pass_at_k_b{budget}.png", draw)
    tables = "\n".join(texts)
    run.write_text("results.md", tables)
    write_report(run)
    return tables


if __name__ == "__main__":
    launch(main, MathSequence, __doc__)

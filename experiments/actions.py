"""What the two sequence-level experiments share: their flags, and every action scored on every question."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.chances import right_completions, right_steps
from adaptive_jax.evaluation.evaluate import ActionScores, score_actions
from adaptive_jax.learning.train import check_binary
from adaptive_jax.policies.fixed import mixed
from adaptive_jax.runs.directory import RunDirectory
from experiments.asking import AskingConfig, asked_digest
from experiments.launching import exit_on_usage_error
from experiments.progress import Progress

log = logging.getLogger(__name__)

SAMPLES = (1, 2, 4, 8)  # sampling budgets B of the paper


@dataclass(frozen=True)
class SequenceConfig(AskingConfig):
    """Flags of both sequence-level experiments; `budget` is 28 for tiny, 20 for fork and 1024 otherwise.

    Attributes:
        summed_chances: for short answers: rewards and results are chances of a right completion, summed over the right ones
            that were found, instead of shares of draws (adaptive_jax/evaluation/chances.py). The completions of a question are
            then drawn under a random action each, to find right ones.
    """

    summed_chances: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.summed_chances and self.distributed:
            raise ValueError("--summed-chances is computed by one process: leave out --distributed")

    own_budgets: ClassVar[Mapping[str, tuple[int, ...]]] = {"tiny": (28,), "fork": (20,)}
    default_budgets: ClassVar[tuple[int, ...]] = (1024,)


def scored(
    name: str,
    environment: Environment,
    actions: Sequence[SamplingParams],
    completions: int,
    config: SequenceConfig,
    run: RunDirectory,
    *,
    apart: bool = False,
) -> ActionScores:
    """Verdicts on `completions` completions of every question under every action, as a stage of the run: computed once.

    Questions that the grader failed on are marked; see `ActionScores.known`. Samples are kept for all actions together, or for
    each `apart`.

    Raises:
        GradedRewards: a reward is neither 0 nor 1; the sequence adapter learns for Pass@B.
    """

    def compute() -> dict[str, np.ndarray]:
        with Progress(name, len(environment) * len(actions) * completions, run.stop) as progress:
            scores = score_actions(
                environment,
                SamplingParams.stack(actions),
                config.budgets,
                seed=config.seed,
                completions=completions,
                rows=config.rows,
                sampled=len(actions) if apart else 1,
                on_progress=progress.at_least,
            )
        run.log(event="scored", stage=name, questions=len(environment), unknown=int((~scores.known).sum()))
        return vars(scores)

    scores = ActionScores(**run.stage(name, compute, inputs=(SamplingParams.stack(actions), asked_digest(environment))))
    check_binary(scores.rewards, max(SAMPLES))
    return scores


def summed(
    name: str,
    environment: Environment,
    actions: Sequence[SamplingParams],
    completions: int,
    config: SequenceConfig,
    run: RunDirectory,
) -> Float64[np.ndarray, "budgets questions actions"]:
    """The chance of a right completion of every question under every action, as a stage of the run: computed once.

    `completions` of each question are drawn to find right ones, each under a random action.
    """

    def compute() -> dict[str, np.ndarray]:
        chances = []
        for budget in config.budgets:
            with Progress(f"{name}, b = {budget}", len(environment) * completions, run.stop) as progress:
                found = right_completions(
                    environment,
                    [mixed(actions)],
                    budget,
                    completions=completions,
                    seed=config.seed,
                    rows=config.rows,
                    on_progress=progress.at_least,
                )
            log.info(
                "%s, b = %d: %d right completions of %d questions", name, budget, sum(map(len, found)), sum(map(bool, found))
            )
            with exit_on_usage_error():  # where no completion is right
                steps = right_steps(environment, found, SamplingParams.stack(actions), budget, rows=config.rows)
            chances.append(np.stack([steps.alone(action) for action in range(len(actions))], axis=1))
        return {"chances": np.stack(chances)}

    return run.stage(name, compute, inputs=(SamplingParams.stack(actions), asked_digest(environment)))["chances"]

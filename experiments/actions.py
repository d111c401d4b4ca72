"""What the two sequence-level experiments share: their flags, and every action scored on every question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.evaluate import ActionScores, score_actions
from adaptive_jax.learning.train import check_binary
from adaptive_jax.runs.directory import RunDirectory
from experiments.asking import AskingConfig, asked_digest
from experiments.progress import Progress

SAMPLES = (1, 2, 4, 8)  # sampling budgets B of the paper


@dataclass(frozen=True)
class SequenceConfig(AskingConfig):
    """Flags of both sequence-level experiments; `budget` is 28 for tiny, 20 for fork and 1024 otherwise."""

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

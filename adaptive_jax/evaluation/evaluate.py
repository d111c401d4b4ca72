"""Was it right? Policies on questions, at several token budgets at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.behaviour import behaviour_of
from adaptive_jax.evaluation.modulation import modulation_of
from adaptive_jax.evaluation.samples import NONE, samples_of
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.parallel import gather, rows_here, share, total
from adaptive_jax.policies.fixed import InTurn
from adaptive_jax.tasks.problem import VERDICTS


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        rewards: in [0, 1]; 1.0 is right, and nothing less.
        valid: False where the grader failed.
        verdicts: how many completions got each of `VERDICTS`, over all budgets.
        samples: some completions of each verdict (`samples.samples_of`).
        behaviour: what the policy did (`behaviour.behaviour_of`); empty where it was not watched.
    """

    rewards: Float32[np.ndarray, "questions completions budgets"]
    valid: Bool[np.ndarray, "questions completions budgets"]
    verdicts: Int[np.ndarray, " verdicts"] = field(default_factory=lambda: np.zeros(len(VERDICTS), int))
    samples: UInt8[np.ndarray, " sample_bytes"] = field(default_factory=lambda: NONE)
    behaviour: UInt8[np.ndarray, " behaviour_bytes"] = field(default_factory=lambda: NONE)

    @property
    def correct(self) -> Bool[np.ndarray, "questions completions budgets"]:
        """Whether each completion is right."""
        return self.rewards == 1.0

    def accuracy(self) -> Float[np.ndarray, " budgets"]:
        """Pass@1 at each budget: the mean over questions and completions."""
        return (self.correct & self.valid).sum(axis=(0, 1)) / np.maximum(self.valid.sum(axis=(0, 1)), 1)

    def pass_at(self, k: int) -> Float[np.ndarray, "questions budgets"]:
        """Each question's Pass@k, k at most the completions (see `pass_at_k`); NaN where the grader failed on a completion."""
        estimates = pass_at_k(self.correct.transpose(0, 2, 1), k)
        return np.where(self.valid.all(axis=1), estimates, np.nan)

    def mean_reward(self) -> Float[np.ndarray, "questions budgets"]:
        """Each question's mean reward; NaN where the grader failed on a completion."""
        return np.where(self.valid.all(axis=1), self.rewards.mean(axis=1), np.nan)

    def metric(self, name: str) -> Float[np.ndarray, "questions budgets"]:
        """ "reward" or such as "pass@4" of each question."""
        return self.mean_reward() if name == "reward" else self.pass_at(int(name.removeprefix("pass@")))


def evaluate(
    environment: Environment,
    policy: Policy,
    budgets: Sequence[int],
    *,
    completions: int = 1,
    seed: int = 0,
    rows: int = 256,
    sampled: int = 0,
    watched: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Pass@1 of a policy at several token budgets.

    A policy that does not see the budget is rolled out once, at the largest: smaller budgets are prefixes of that.

    Args:
        environment: Q questions.
        policy: what chooses the sampling actions.
        budgets: K token budgets.
        completions: G per question.
        seed: fixes every draw; with the same seed every policy gets the same draws.
        rows: how many completions are decoded side by side.
        sampled: keep samples for each of so many groups of completions (see `samples_of`); 0 keeps none.
        watched: count what the policy did (see `behaviour_of`), and how it changed distributions (see `modulation_of`).
        on_progress: called with the number of this process's completions that have ended.

    Raises:
        FloatingPointError: the language model's logits were not finite.
    """
    lm, count = environment.lm, len(environment)
    rolled = list(budgets) if policy.sees_budget else [max(budgets)]
    asked, limits = np.tile(np.arange(count), len(rolled)), np.repeat(rolled, count)
    own = share(len(asked))
    cuts = None if policy.sees_budget else budgets
    with environment.grading(np.repeat(asked[own], completions), cuts) as grading:
        trajectory = rollout(
            lm.decoder,
            policy,
            [
                environment.prompt(index, budget)
                for index, budget in zip(asked[own].tolist(), limits[own].tolist(), strict=True)
            ],
            key=jax.random.key(seed),
            stop_ids=environment.stop.ids,
            completions=completions,
            rows=rows_here(rows),
            max_positions=lm.config.max_positions,
            prompt_width=environment.prompt_width,
            on_progress=on_progress,
            on_ended=grading.add,
        )
        rewards, valid = grading.rewards()
    samples, behaviour = NONE, NONE
    if sampled:
        samples = samples_of(environment, trajectory, grading.verdicts(), asked[own], cuts, policy.actions, sampled)
    if watched:
        changed = modulation_of(environment, trajectory, asked[own], policy.actions)
        behaviour = behaviour_of(trajectory, policy.actions, lm.tokenizer, budgets, changed, cut=cuts is not None)
    counts = total(np.array([np.sum(grading.verdicts() == verdict) for verdict in VERDICTS]))

    def per_question(values: np.ndarray) -> np.ndarray:
        everyones = gather(values.reshape(len(own), completions, -1), len(asked))
        if policy.sees_budget:  # [K * Q, G, 1]
            everyones = everyones.reshape(len(budgets), count, completions).transpose(1, 2, 0)
        return everyones

    return Scores(per_question(rewards), per_question(valid), counts, samples, behaviour)


@dataclass(frozen=True)
class ActionScores:
    """Every action on every question.

    A policy that holds one action per question needs no decoding to be evaluated: its completions are among these.

    Attributes:
        rewards: in [0, 1]; 1.0 is right, and nothing less.
        known: whether the grader judged all of the question's completions.
        verdicts: how many completions got each of `VERDICTS`, over all budgets.
        samples: some completions of each verdict (`samples.samples_of`).
    """

    rewards: Float32[np.ndarray, "budgets questions actions completions"]
    known: Bool[np.ndarray, " questions"]
    verdicts: Int[np.ndarray, " verdicts"]
    samples: UInt8[np.ndarray, " sample_bytes"] = field(default_factory=lambda: NONE)

    @property
    def wins(self) -> Bool[np.ndarray, "budgets questions actions completions"]:
        """Whether each completion is right."""
        return self.rewards == 1.0


def score_actions(
    environment: Environment,
    actions: SamplingParams,
    budgets: Sequence[int],
    *,
    completions: int,
    seed: int = 0,
    rows: int = 256,
    sampled: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> ActionScores:
    """Try every action `completions` times on every question, in one rollout: one compilation, every prompt computed once.

    Args:
        environment: Q questions.
        actions: the action space, shape [A]; each action is held for a whole completion.
        budgets, seed, rows, on_progress: see `evaluate`.
        completions: G per question and action.
        sampled: see `evaluate`; with as many as there are actions, a sample's group is its action.
    """
    policy = InTurn(actions.broadcast(len(actions)))
    total = completions * len(actions)
    scores = evaluate(
        environment, policy, budgets, seed=seed, completions=total, rows=rows, sampled=sampled, on_progress=on_progress
    )
    rewards = scores.rewards.reshape(len(environment), completions, len(actions), len(budgets))
    return ActionScores(rewards.transpose(3, 0, 2, 1), np.all(scores.valid, axis=(1, 2)), scores.verdicts, scores.samples)

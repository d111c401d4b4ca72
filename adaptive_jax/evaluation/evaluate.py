"""Was it right? Policies on questions, at several token budgets at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.learning.environment import Environment


@dataclass(frozen=True)
class Scores:
    """What an evaluation found; Q questions, G completions each, K token budgets.

    Attributes:
        rewards: float32 [Q, G, K].
        valid: bool [Q, G, K], False where the grader failed.
    """

    rewards: np.ndarray
    valid: np.ndarray

    def accuracy(self) -> np.ndarray:
        """float [K], Pass@1 at each budget: the mean over questions and completions."""
        return (self.rewards * self.valid).sum(axis=(0, 1)) / np.maximum(self.valid.sum(axis=(0, 1)), 1)


def evaluate(
    environment: Environment,
    policy: Policy,
    budgets: Sequence[int],
    *,
    key: jax.Array,
    completions: int = 1,
    rows: int = 256,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Pass@1 of a policy at several token budgets.

    A policy that does not see the budget is rolled out once, at the largest: smaller budgets are prefixes of that.

    Args:
        environment: Q questions.
        policy: what chooses the sampling actions.
        budgets: K token budgets.
        key: typed PRNG key; with the same key every policy gets the same draws.
        completions: G per question.
        rows: how many completions are decoded side by side.
        on_progress: called with the number of completions that have ended.
    """
    lm, count = environment.lm, len(environment)
    rolled = list(budgets) if policy.sees_budget else [max(budgets)]
    trajectory = rollout(
        lm.decoder,
        policy,
        [environment.prompt(index, budget) for budget in rolled for index in range(count)],
        key=key,
        stop_ids=lm.stop_ids,
        completions=completions,
        rows=rows,
        max_positions=lm.config.max_positions,
        prompt_width=environment.prompt_width,
        on_progress=on_progress,
    )
    asked = np.repeat(np.arange(count), completions)
    rewards, valid = np.zeros((2, count, completions, len(budgets)), np.float32)
    for k, budget in enumerate(budgets):
        start = k * len(asked) if policy.sees_budget else 0
        own = slice(start, start + len(asked))
        used = np.minimum(trajectory.lengths[own], budget)
        reward, known = environment.rewards(trajectory.tokens[own], used, asked)
        rewards[:, :, k], valid[:, :, k] = reward.reshape(count, -1), known.reshape(count, -1)
    return Scores(rewards, valid.astype(bool))

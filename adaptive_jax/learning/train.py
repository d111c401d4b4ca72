"""The training loop: rollouts under the current policy, rewards from a grader, one REINFORCE update, again.

Which prompts, budgets and keys an update uses follows from the settings and its number alone, never from what the process
did before.
"""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.learning.environment import Environment
from adaptive_jax.learning.filter import has_signal
from adaptive_jax.learning.reinforce import leave_one_out, pad_decisions, reinforce_update
from adaptive_jax.policies.token import TokenAdapter

log = logging.getLogger(__name__)

Metrics = dict[str, Any]


@dataclass(frozen=True)
class TrainSettings:
    """How a policy is trained. None of these numbers is stated by the paper.

    Attributes:
        updates: policy-gradient updates.
        prompts: prompts per update.
        completions: G, completions per prompt, at least 2 for a leave-one-out baseline.
        budgets: token budgets b, in tokens; each prompt of an update draws one.
        learning_rate: of Adam.
        entropy_bonus: weight of the policy's entropy at the start; it falls linearly to a tenth at the end.
        filter_completions: completions per prompt of the opening pass that finds prompts without signal; 0 skips it.
        max_skipped: updates in a row that may be skipped for a loss or gradient that is not finite.
        rows: how many completions are decoded side by side.
        seed: fixes the prompts, the budgets and every draw.
    """

    updates: int = 60
    prompts: int = 32
    completions: int = 8
    budgets: tuple[int, ...] = (1024,)
    learning_rate: float = 2e-3
    entropy_bonus: float = 0.01
    filter_completions: int = 4
    max_skipped: int = 5
    rows: int = 128
    seed: int = 0


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had a loss or gradient that is not finite."""


def train(
    environment: Environment,
    adapter: TokenAdapter,
    settings: TrainSettings,
    *,
    usable: np.ndarray,
) -> Iterator[tuple[TokenAdapter, Metrics]]:
    """Train an adapter; yields it after every update, with the update's metrics.

    Args:
        environment: the training questions.
        adapter: where to start.
        settings: see `TrainSettings`.
        usable: int [U], indices of the questions to train on, at least one (see `usable_questions`).

    Raises:
        ValueError: no usable question, or fewer than 2 completions per prompt.
        TrainingDiverged: more than `max_skipped` updates in a row were not finite.
    """
    if len(usable) == 0:
        raise ValueError("no question carries a signal: every one is always or never solved at these budgets")
    if settings.completions < 2:
        raise ValueError(f"completions is {settings.completions}: a leave-one-out baseline needs at least 2")
    optimizer = _adam(settings.learning_rate)
    opt_state = optimizer.init(adapter.params)
    skipped = total_skipped = 0
    for update in range(1, settings.updates + 1):
        asked, budgets = draw_questions(usable, settings, update)
        trajectory, rewards, valid = collect(environment, adapter, settings, asked, budgets, update)
        advantages = leave_one_out(rewards, valid).reshape(-1)
        completion, step = np.nonzero(trajectory.decisions)
        actions = trajectory.actions[completion, step]
        known = valid.reshape(-1)[completion]  # where the grader failed, a completion has no place in the gradient
        batch = pad_decisions(trajectory.features[known], actions[known], advantages[completion[known]])
        bonus = settings.entropy_bonus * (1.0 - 0.9 * (update - 1) / max(settings.updates - 1, 1))
        adapter, opt_state, learnt = reinforce_update(adapter, opt_state, batch, jnp.float32(bonus), optimizer=optimizer)
        skipped = 0 if bool(learnt["applied"]) else skipped + 1
        total_skipped += skipped > 0
        if skipped:
            log.warning("update %d was skipped: its loss or gradient is not finite (%d in a row)", update, skipped)
        if skipped > settings.max_skipped:
            raise TrainingDiverged(
                f"{skipped} updates in a row had a loss or gradient that is not finite, the last one update {update}: "
                "lower the learning rate, or look at the features and rewards"
            )
        yield (
            adapter,
            {
                "update": update,
                "reward": float((rewards * valid).sum() / max(valid.sum(), 1)),
                "grader_errors": int((~valid).sum()),
                "skipped_updates": total_skipped,
                "decisions": len(completion),
                "new_tokens": float(trajectory.lengths.mean()),
                "useful_row_steps": float(trajectory.lengths.sum() / trajectory.row_steps),
                **{name: np.asarray(value).tolist() for name, value in learnt.items()},
            },
        )


@functools.cache
def _adam(learning_rate: float) -> optax.GradientTransformation:
    """The same object for the same rate: it is static in a jitted function, and another one would be compiled again."""
    return optax.adam(learning_rate)


def usable_questions(
    environment: Environment,
    policy: Policy,
    settings: TrainSettings,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """int [U], the questions whose rewards carry a signal under an (untrained, hence uniform) policy: the opening pass.

    Each question is tried `filter_completions` times at a budget of its own draw, with draws that training does not use.
    """
    count = len(environment)
    if settings.filter_completions == 0:
        return np.arange(count)
    budgets = np.random.default_rng([settings.seed, 0]).choice(settings.budgets, count)
    opening = dataclasses.replace(settings, completions=settings.filter_completions)
    _, rewards, valid = collect(environment, policy, opening, np.arange(count), budgets, 0, on_progress)
    return np.flatnonzero(has_signal(rewards, valid))


def draw_questions(usable: np.ndarray, settings: TrainSettings, update: int) -> tuple[np.ndarray, np.ndarray]:
    """The questions of an update, int [N], and their token budgets, int [N].

    Questions come in a new random order every epoch; an epoch's end and the next one's start may share an update.
    """
    places = np.arange((update - 1) * settings.prompts, update * settings.prompts)
    epochs = np.unique(places // len(usable))
    orders = {e: np.random.default_rng([settings.seed, 1, e]).permutation(usable) for e in epochs}
    asked = np.array([orders[p // len(usable)][p % len(usable)] for p in places])
    return asked, np.random.default_rng([settings.seed, 2, update]).choice(settings.budgets, len(asked))


def collect(
    environment: Environment,
    policy: Policy,
    settings: TrainSettings,
    asked: np.ndarray,
    budgets: np.ndarray,
    update: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Trajectory, np.ndarray, np.ndarray]:
    """Rollouts of questions `asked` [N] and their rewards, float32 [N, G] where valid, bool [N, G]."""
    lm = environment.lm
    prompts, seen = [], Counter[int]()
    for index, budget in zip(asked.tolist(), budgets.tolist(), strict=True):
        # a question that comes twice goes on counting its completions, so that its draws differ
        first = seen[index] * settings.completions
        prompts.append(dataclasses.replace(environment.prompt(index, budget), first_completion=first))
        seen[index] += 1
    trajectory = rollout(
        lm.decoder,
        policy,
        prompts,
        key=jax.random.fold_in(jax.random.key(settings.seed), update),
        stop_ids=lm.stop_ids,
        completions=settings.completions,
        rows=settings.rows,
        max_positions=lm.config.max_positions,
        prompt_width=environment.prompt_width,
        on_progress=on_progress,
    )
    rewards, valid = environment.rewards(trajectory.tokens, trajectory.lengths, np.repeat(asked, settings.completions))
    shape = (len(asked), settings.completions)
    return trajectory, rewards.reshape(shape), valid.reshape(shape)

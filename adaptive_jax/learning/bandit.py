"""The sequence adapter's learner: a contextual bandit on a table of verdicts, with no text decoded during training.

Every action of every training prompt is tried n times, once and for all. An update then draws prompts, sampling budgets B and a
group of actions for each, and REINFORCE follows their rewards, or for the baseline LPO. An action's reward is its Pass@B. The
paper's is binary, whether any of B completions is right; here it is the mean of that over all B of the n completions, which has
the same expectation and less noise to fit (ours). Thousands of updates run inside compiled scans, in seconds.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Float32, Int32, Key, UInt32

from adaptive_jax.decoding import embedding
from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.environment import Environment
from adaptive_jax.learning.constant import constant_adapter, is_untrained
from adaptive_jax.learning.lpo import Preferences, Rule, lpo_update
from adaptive_jax.learning.reinforce import Decisions, Metrics, reinforce_update
from adaptive_jax.policies.sequence import SequenceAdapter


@struct.dataclass
class Table:
    """What is known of prompts under every action.

    Attributes:
        last, mean: the prompts' embeddings (see `PromptObservation`).
        rates: in [0, 1], the Pass@B of each action at the sampling budgets of `BanditSettings`.
    """

    last: Float32[Array, "prompts width"]
    mean: Float32[Array, "prompts width"]
    rates: Float32[Array, "budgets prompts actions"]

    def observe(self, index: Int32[Array, " drawn"], samples: Int32[Array, " drawn"]) -> PromptObservation:
        """Prompts `index` at sampling budgets `samples`."""
        unused = jnp.zeros_like(samples)
        return PromptObservation(self.last[index], self.mean[index], completion=unused, samples=samples, budget=unused)


log = logging.getLogger(__name__)

SURE = 1.96  # standard errors of a gain that is kept


@dataclass(frozen=True)
class BanditSettings:
    """How a sequence adapter is trained. None of these numbers but the sampling budgets is stated by the paper.

    Attributes:
        updates: policy-gradient updates.
        prompts: prompts per update, each with its own draw of B.
        group: actions drawn for a prompt; the others of a group are an action's baseline (leave one out).
        samples: the sampling budgets B of the table.
        rule: "reinforce", or "lpo": preferences between the best and the worst of a group of uniformly drawn actions.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        entropy_bonus: weight of the policy's entropy (reinforce).
        beta: how far preferences move the policy (lpo).
        report_every: updates in one compiled scan; metrics are their means.
        seed: fixes every draw.
    """

    updates: int = 2000
    prompts: int = 64
    group: int = 8
    samples: tuple[int, ...] = (1, 2, 4, 8)
    rule: Rule = "reinforce"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    entropy_bonus: float = 0.05
    beta: float = 0.1
    report_every: int = 100
    seed: int = 0


def embeddings(
    environment: Environment, rows: int = 128
) -> tuple[Float32[np.ndarray, "prompts width"], Float32[np.ndarray, "prompts width"]]:
    """The last token's hidden state and the prompt's mean one, computed `rows` prompts at a time."""
    prompts = [environment.prompt(index, 1).tokens for index in range(len(environment))]
    return embedding.embeddings(environment.lm.decoder, prompts, rows=rows)


def train_bandit(adapter: SequenceAdapter, table: Table, settings: BanditSettings) -> Iterator[tuple[SequenceAdapter, Metrics]]:
    """Train an adapter; yields it after every `report_every` updates, with the means of their metrics.

    Raises:
        ValueError: fewer than 2 actions in a group, or a table of other sampling budgets.
    """
    if settings.group < 2:
        raise ValueError(f"group is {settings.group}: a leave-one-out baseline needs at least 2 actions")
    if len(settings.samples) != len(table.rates):
        raise ValueError(
            f"the table has Pass@B at {len(table.rates)} sampling budgets, and the settings name {settings.samples}"
        )
    opt_state = _optimizer(settings).init(adapter.params)
    key, shared = jax.random.key(settings.seed), dataclasses.replace(settings, seed=0, updates=0)  # for one compilation
    for first in range(0, settings.updates, settings.report_every):
        steps = jnp.arange(first, min(first + settings.report_every, settings.updates), dtype=jnp.uint32)
        adapter, opt_state, metrics = _updates(adapter, opt_state, table, key, steps, shared)
        means = jax.tree.map(lambda values: np.asarray(values, np.float64).mean(axis=0).tolist(), metrics)
        yield adapter, {"update": int(steps[-1]) + 1, **means}


def fit_bandit(
    adapter: SequenceAdapter,
    table: Table,
    settings: BanditSettings,
    *,
    validation: Table | None = None,
    on_report: Callable[[Metrics], object] | None = None,
) -> tuple[SequenceAdapter, list[Metrics]]:
    """Train an adapter: as it was when its choices were best on the validation table, or else as it is at the end.

    An untrained adapter starts at the best constant action (`constant_adapter`), for each sampling budget where it sees that.
    Where what it learns beyond the constant is not surely worth something on the validation table, by a paired 95% interval,
    the constant stays: at each sampling budget by itself where the adapter sees it (`SequenceAdapter.held`), else altogether.

    Args:
        adapter, table, settings: see `train_bandit`.
        validation: other prompts; the metrics then have "validation_reward", the mean of what the adapter's choices reach.
        on_report: called with the metrics of every `report_every` updates.

    Returns:
        The adapter, and all metrics in order.
    """
    untrained, samples = is_untrained(adapter), settings.samples
    start = constant_adapter(adapter, table.rates, samples) if untrained else adapter
    constant = np.zeros((1, 1)) if validation is None else reached_by(start, validation, samples)
    kept, best, history = start, 0.0 if untrained else float(constant.mean()), []
    for trained, metrics in train_bandit(start, table, settings):
        if validation is not None:
            reached = reached_by(trained, validation, samples)
            metrics |= {"validation_reward": float(reached.mean())}
            if not untrained:
                gained, own = float(reached.mean()), trained
            elif adapter.sees_samples:
                sure = [_sure(gains) for gains in reached - constant]
                gained, own = sum(sure), _held_but(trained, start, [gain > 0 for gain in sure], samples)
            else:
                gained, own = _sure((reached - constant).mean(axis=0)), trained
            if gained > best:
                kept, best = own, gained
        history.append(metrics)
        if on_report is not None:
            on_report(metrics)
    if validation is None:
        return trained, history
    if kept is start:
        log.info("no gain on validation: %s is kept", "the best constant action" if untrained else "the adapter that was given")
    return kept, history


def _sure(gains: Float[np.ndarray, " prompts"]) -> float:
    """The mean gain, or 0 where it is not above zero by more than `SURE` standard errors."""
    mean, error = float(gains.mean()), float(gains.std()) / math.sqrt(len(gains))
    return mean if mean > SURE * error else 0.0


def _held_but(
    trained: SequenceAdapter, start: SequenceAdapter, sure: Sequence[bool], samples: Sequence[int]
) -> SequenceAdapter:
    """The trained adapter where its gain is sure, and elsewhere the constant that it started at.

    A sampling budget between two of training goes with the nearer one on the log scale.
    """
    every = np.arange(1, trained.samples_scale + 1)
    nearest = np.abs(np.log2(every)[:, None] - np.log2(samples)).argmin(axis=1)
    nothing, count = jnp.zeros((len(every), start.hidden_size), jnp.float32), jnp.asarray(every, jnp.int32)
    prompts = PromptObservation(nothing, nothing, jnp.zeros_like(count), jnp.asarray(samples, jnp.int32)[nearest], count)
    actions = np.asarray(start.begin(prompts, jnp.zeros(len(every), jnp.float32)))
    return dataclasses.replace(trained, held=tuple(np.where(np.asarray(sure)[nearest], -1, actions).tolist()))


def reached_by(adapter: SequenceAdapter, table: Table, samples: Sequence[int]) -> Float[np.ndarray, "budgets prompts"]:
    """The rate of the adapter's choices at each sampling budget for each prompt of a table."""
    every = jnp.arange(table.rates.shape[1])
    reached = []
    for count, rates in zip(samples, table.rates, strict=True):
        prompt = table.observe(every, jnp.full(every.shape, count, jnp.int32))
        choice = adapter.begin(prompt, jnp.zeros(every.shape, jnp.float32))
        reached.append(np.asarray(jnp.take_along_axis(rates, choice[:, None], axis=1)[:, 0], np.float64))
    return np.stack(reached)


def _optimizer(settings: BanditSettings) -> optax.GradientTransformation:
    return optax.adamw(settings.learning_rate, weight_decay=settings.weight_decay)


@functools.partial(jax.jit, static_argnames="settings")
def _updates(
    adapter: SequenceAdapter,
    opt_state: optax.OptState,
    table: Table,
    key: Key[Array, ""],
    steps: UInt32[Array, " updates"],
    settings: BanditSettings,
) -> tuple[SequenceAdapter, optax.OptState, Metrics]:
    """One update for each of `steps`; what an update draws depends on the key and its number only."""
    optimizer = _optimizer(settings)

    def update(carry: tuple[SequenceAdapter, optax.OptState], step: jax.Array) -> tuple[Any, Metrics]:
        adapter, opt_state = carry
        draws = draw_group(jax.random.fold_in(key, step), adapter, table, settings)
        if settings.rule == "lpo":
            adapter, opt_state, metrics = lpo_update(
                adapter, opt_state, preferences(draws), beta=settings.beta, optimizer=optimizer
            )
        else:
            bonus = jnp.float32(settings.entropy_bonus)
            adapter, opt_state, metrics = reinforce_update(adapter, opt_state, decisions(draws), bonus, optimizer=optimizer)
        return (adapter, opt_state), {"reward": jnp.mean(draws.rewards), **metrics}

    (adapter, opt_state), metrics = jax.lax.scan(update, (adapter, opt_state), steps)
    return adapter, opt_state, metrics


@struct.dataclass
class Draws:
    """What an update draws: prompts, each with a group of actions.

    Attributes:
        features: what the policy sees of each prompt.
        actions: of the group.
        rewards: in [0, 1].
    """

    features: Float32[Array, "prompts features"]
    actions: Int32[Array, "prompts group"]
    rewards: Float32[Array, "prompts group"]


def draw_group(key: Key[Array, ""], adapter: SequenceAdapter, table: Table, settings: BanditSettings) -> Draws:
    """Prompts, sampling budgets, actions (of the policy, or for LPO of the uniform one) and their rewards."""
    prompt_key, samples_key, action_key = (jax.random.fold_in(key, purpose) for purpose in range(3))
    count, group = settings.prompts, settings.group
    index = jax.random.randint(prompt_key, (count,), 0, table.rates.shape[1])
    drawn = jax.random.randint(samples_key, (count,), 0, len(settings.samples))
    features = adapter.features(table.observe(index, jnp.asarray(settings.samples, jnp.int32)[drawn]))
    logits = adapter.logits(features)
    if settings.rule == "lpo":
        logits = jnp.zeros_like(logits)
    actions = jax.random.categorical(action_key, logits[:, None, :], shape=(count, group)).astype(jnp.int32)
    return Draws(features, actions, jnp.take_along_axis(table.rates[drawn, index], actions, axis=1))


def decisions(draws: Draws) -> Decisions:
    """The draws with leave-one-out advantages (see `leave_one_out`)."""
    count, group = draws.actions.shape
    baseline = (jnp.sum(draws.rewards, axis=1, keepdims=True) - draws.rewards) / (group - 1)
    return Decisions(
        features=jnp.repeat(draws.features, group, axis=0),
        actions=draws.actions.reshape(-1),
        advantages=(draws.rewards - baseline).reshape(-1),
        weight=jnp.ones((count * group,)),
    )


def preferences(draws: Draws) -> Preferences:
    """The first of the best actions of each group against the first of the worst; a group without a difference is a tie."""
    best, worst = jnp.argmax(draws.rewards, axis=1), jnp.argmin(draws.rewards, axis=1)
    both = jnp.stack([best, worst], axis=1)
    return Preferences(
        features=jnp.repeat(draws.features[:, None], 2, axis=1),
        actions=jnp.take_along_axis(draws.actions, both, axis=1),
        sign=jnp.broadcast_to(jnp.asarray([[1.0, -1.0]]), both.shape),
        weight=(jnp.max(draws.rewards, axis=1) > jnp.min(draws.rewards, axis=1)).astype(jnp.float32),
    )

"""Training in one call: an environment and an adapter in, the trained adapter and its history out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.evaluate import score_actions
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.learning.bandit import BanditSettings, Table, embeddings, fit_bandit
from adaptive_jax.learning.lpo import Rule
from adaptive_jax.learning.reinforce import Metrics
from adaptive_jax.learning.train import TrainSettings, check_binary, first_state
from adaptive_jax.learning.train import train as train_token
from adaptive_jax.policies.sequence import SequenceAdapter
from adaptive_jax.policies.token import TokenAdapter, token_adapter

SAMPLES = (1, 2, 4, 8)  # sampling budgets B of the paper


def train(
    environment: Environment,
    *,
    policy: TokenAdapter | SequenceAdapter | None = None,
    validation: Environment | None = None,
    budgets: Sequence[int] = (256,),
    updates: int | None = None,
    prompts: int | None = None,
    completions: int = 8,
    samples: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    entropy_bonus: float | None = None,
    rule: Rule = "reinforce",
    validate_every: int = 10,
    rows: int = 128,
    seed: int = 0,
    on_update: Callable[[Metrics], object] | None = None,
) -> tuple[TokenAdapter | SequenceAdapter, list[Metrics]]:
    """Train an adapter from rewards alone, in memory.

    A token adapter learns from rollouts under itself (`adaptive_jax.learning.train`). A sequence adapter learns from a table of
    what each of its actions is worth on each question (`adaptive_jax.learning.bandit`), for which every action is tried
    `completions` times beforehand; where there are several token budgets, it learns for their mean.

    With validation questions, a token adapter is returned as it was when it validated best. A sequence adapter is the best
    constant action where what it learnt beyond that is not surely worth something on them (`bandit.fit_bandit`).

    Args:
        environment: the questions to train on.
        policy: where to start: `adaptive_jax.token_adapter` or `adaptive_jax.sequence_adapter`. By default a token adapter that
            sees the hidden state and the remaining budget.
        validation: questions to watch; the metrics of every `validate_every` updates then have a "validation_reward".
        budgets: token budgets b; each prompt of an update draws one.
        updates: policy-gradient updates; 60 for a token adapter, 2000 for a sequence adapter.
        prompts: prompts per update; 32 and 64.
        completions: per prompt, at least 2; for a sequence adapter per prompt and action.
        samples: B; the reward is Pass@B. A token adapter trains for 1 by default, a sequence adapter for 1, 2, 4 and 8, as far
            as there are completions, or for the B that is given.
        epochs: of a token adapter, see `TrainSettings`.
        learning_rate, entropy_bonus, rule: see `TrainSettings` and `BanditSettings`, which have the defaults.
        rows: how many completions are decoded side by side.
        seed: fixes every draw.
        on_update: called with the metrics of each update, or each hundredth of a sequence adapter.

    Returns:
        The trained adapter, and the metrics of the updates in order.

    Raises:
        ValueError: numbers out of range, questions that do not fit the model with the largest budget, or graded rewards where
            the reward is Pass@B for B above 1.
        RewardFailed: the reward function failed on all of its first completions.
        TrainingDiverged: see `adaptive_jax.learning.train`.
    """
    for name, value in (("updates", updates), ("prompts", prompts), ("samples", samples), ("validate_every", validate_every)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    if not budgets or min(budgets) < 1:
        raise ValueError(f"budgets is {tuple(budgets)}: give token budgets of at least 1")
    tries = completions * (len(policy.actions) if isinstance(policy, SequenceAdapter) else 1)
    for asked in (environment, validation):
        if asked is not None:
            asked.check(max(budgets), rows=rows, completions=tries)
    chosen = {"updates": updates, "prompts": prompts, "learning_rate": learning_rate, "entropy_bonus": entropy_bonus}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if isinstance(policy, SequenceAdapter):
        counts = tuple(k for k in SAMPLES if k <= completions) if samples is None else (samples,)
        bandit = BanditSettings(samples=counts, rule=rule, seed=seed, **options)
        known = action_table(environment, policy.actions, budgets, bandit, completions, rows)
        watched = None
        if validation is not None:
            watched = action_table(validation, policy.actions, budgets, bandit, completions, rows)
        return fit_bandit(policy, known, bandit, validation=watched, on_report=on_update)
    if epochs is not None:
        options["epochs"] = epochs
    settings = TrainSettings(
        completions=completions,
        budgets=tuple(budgets),
        rule=rule,
        samples=samples or 1,
        validate_every=validate_every,
        rows=rows,
        seed=seed,
        **options,
    )
    if policy is None:
        policy = token_adapter(environment.lm.config.hidden_size, budget_scale=max(budgets), seed=seed)
    start, history = first_state(policy, settings, len(environment)), []
    trained = policy
    for state, metrics in train_token(environment, start, settings, validation=validation):
        trained = state.best
        history.append(metrics)
        if on_update is not None:
            on_update(metrics)
    return trained, history


def action_table(
    environment: Environment,
    actions: SamplingParams,
    budgets: Sequence[int],
    settings: BanditSettings,
    completions: int,
    rows: int,
) -> Table:
    """What each action is worth on each question, in the mean over the token budgets; questions not fully judged are left out.

    Raises:
        ValueError: no question was fully judged, or rewards are graded and the reward is Pass@B for B above 1.
    """
    scores = score_actions(environment, actions, budgets, completions=completions, seed=settings.seed, rows=rows)
    if not scores.known.any():
        raise ValueError("no question was fully judged: see the errors of the grader")
    rewards = scores.rewards[:, scores.known]
    if settings.samples == (1,):
        rates = rewards.mean(axis=-1)[None]
    else:
        check_binary(rewards, max(settings.samples))
        rates = np.stack([pass_at_k(scores.wins[:, scores.known], k) for k in settings.samples])
    last, mean = embeddings(environment, rows)
    rates = jnp.asarray(rates.mean(axis=1), jnp.float32)
    return Table(jnp.asarray(last[scores.known]), jnp.asarray(mean[scores.known]), rates)

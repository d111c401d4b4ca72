"""The sequence adapter's learner: its draws against enumeration, and what it learns on problems whose best action is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.statistics import pass_at_k
from adaptive_jax.learning.bandit import (
    BanditSettings,
    Draws,
    Table,
    decisions,
    draw_group,
    embeddings,
    fit_bandit,
    preferences,
    train_bandit,
)
from adaptive_jax.learning.reinforce import leave_one_out
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.sequence import SequenceAdapter, sequence_adapter
from adaptive_jax.tasks.loading import load_problems

HIDDEN, N = 4, 8
# one number of updates in a scan, three actions: few programs are compiled
SETTINGS = BanditSettings(updates=300, prompts=32, group=4, learning_rate=3e-3, report_every=100)


def adapter(actions: int) -> SequenceAdapter:
    settings = SamplingParams.stack([SamplingParams(t / 2) for t in range(actions)])
    return sequence_adapter(HIDDEN, settings, width=16)


def table(shares: np.ndarray, seed: int = 0) -> Table:
    """Prompts of two kinds, which their embeddings tell; of N completions the share nearest to `shares`, [2, A], is right."""
    rng = np.random.default_rng(seed)
    kind = np.arange(64) % 2
    last, mean = (rng.normal(size=(64, HIDDEN)) + 2 * kind[:, None] - 1 for _ in range(2))
    wins = np.arange(N) < np.round(N * shares[kind])[..., None]
    rates = np.stack([pass_at_k(wins, k) for k in SETTINGS.samples])
    return Table(*(jnp.asarray(array, jnp.float32) for array in (last, mean, rates)))


def chosen(policy: SequenceAdapter, some: Table, samples: int) -> np.ndarray:
    index = jnp.arange(64)
    return np.asarray(policy.begin(some.observe(index, jnp.full(64, samples, jnp.int32)), jnp.zeros(64)))


def last_of(policy: SequenceAdapter, some: Table, settings: BanditSettings) -> SequenceAdapter:
    *_, (trained, _) = train_bandit(policy, some, settings)
    return trained


def test_rewards_are_those_of_the_table() -> None:
    """A prompt's features tell its number and its B, so that each reward can be looked up."""
    rates = np.random.default_rng(0).random((4, 64, 3)).astype(np.float32)
    some = table(np.zeros((2, 3))).replace(rates=jnp.asarray(rates))
    draws = draw_group(jax.random.key(0), adapter(3), some, dataclasses.replace(SETTINGS, prompts=300))
    every = [adapter(3).features(some.observe(jnp.arange(64), jnp.full(64, k, jnp.int32))) for k in SETTINGS.samples]
    found = np.abs(np.stack(every)[:, :, None] - np.asarray(draws.features)).sum(axis=-1)  # [K, Q, N]
    budget, prompt = np.unravel_index(found.reshape(-1, 300).argmin(axis=0), (4, 64))
    assert found.min(axis=(0, 1)).max() < 1e-4
    np.testing.assert_array_equal(draws.rewards, rates[budget[:, None], prompt[:, None], draws.actions])
    assert set(budget) == {0, 1, 2, 3}
    assert len(set(prompt)) > 60


def test_advantages_leave_one_out() -> None:
    rng = np.random.default_rng(1)
    rewards = (rng.random((5, 4)) < 0.5).astype(np.float32)
    actions = rng.integers(0, 3, (5, 4)).astype(np.int32)
    features = rng.normal(size=(5, 2)).astype(np.float32)
    batch = decisions(Draws(*map(jnp.asarray, (features, actions, rewards))))
    np.testing.assert_allclose(batch.advantages.reshape(5, 4), leave_one_out(rewards), atol=1e-6)
    np.testing.assert_array_equal(batch.actions.reshape(5, 4), actions)
    np.testing.assert_array_equal(batch.features.reshape(5, 4, 2)[:, 3], features)


def test_preferences_are_the_best_and_the_worst_of_a_group() -> None:
    rewards = jnp.asarray([[0.0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]])
    actions = jnp.asarray([[5, 6, 7, 8], [1, 2, 3, 4], [9, 10, 11, 12]], jnp.int32)
    batch = preferences(Draws(jnp.eye(3), actions, rewards))
    np.testing.assert_array_equal(batch.weight, [1, 0, 1])
    np.testing.assert_array_equal(batch.actions[np.array([0, 2])], [[6, 5], [9, 11]])
    np.testing.assert_array_equal(batch.sign, [[1, -1]] * 3)
    np.testing.assert_array_equal(batch.features, np.stack([np.eye(3)] * 2, axis=1))


@pytest.mark.parametrize("rule", ["reinforce", "lpo"])
def test_actions_are_drawn_by_the_policy_or_for_lpo_uniformly(rule: str) -> None:
    policy = adapter(2)
    policy.params["last"]["bias"] = policy.params["last"]["bias"].replace(jnp.asarray([2.0, 0.0]))
    settings = dataclasses.replace(SETTINGS, prompts=500, rule=rule)
    draws = draw_group(jax.random.key(3), policy, table(np.array([[1, 0], [1, 0]])), settings)
    assert draws.actions.shape == draws.rewards.shape == (500, 4)
    np.testing.assert_array_equal(draws.rewards, draws.actions == 0)
    expected = 1 / (1 + np.exp(-2.0)) if rule == "reinforce" else 0.5
    assert (draws.actions == 0).mean() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("rule", ["reinforce", "lpo"])
def test_each_kind_of_prompt_gets_its_best_action(rule: str) -> None:
    some = table(np.array([[0.75, 0.25, 0.0], [0.0, 0.25, 0.5]]))
    trained = last_of(adapter(3), some, dataclasses.replace(SETTINGS, rule=rule))
    assert (chosen(trained, some, 1) == np.array([0, 2] * 32)).mean() > 0.95


def test_the_best_action_depends_on_the_sampling_budget() -> None:
    """Sure on one kind and never right on the other, against a quarter right on both: nobody can see the kind."""
    some = table(np.array([[1.0, 0.25, 0.0], [0.0, 0.25, 0.0]]))
    some = some.replace(last=jnp.ones_like(some.last), mean=jnp.ones_like(some.mean))
    reports = list(train_bandit(adapter(3), some, SETTINGS))
    trained = reports[-1][0]
    assert (chosen(trained, some, 1) == 0).all()
    assert (chosen(trained, some, 8) == 1).all()
    assert [metrics["update"] for _, metrics in reports] == [100, 200, 300]
    assert reports[0][1]["reward"] < reports[-1][1]["reward"] <= 1
    assert {metrics["applied"] for _, metrics in reports} == {1.0}
    assert sum(reports[0][1]["action_probabilities"]) == pytest.approx(1, abs=1e-5)


def noise(best: np.ndarray, seed: int, prompts: int = 96) -> Table:
    """Rates that no embedding tells anything about; in the mean of the prompts, action best[k] leads at sampling budget k."""
    rng = np.random.default_rng(seed)
    last, mean = rng.normal(size=(2, prompts, HIDDEN))
    rates = rng.random((len(best), prompts, 3)) * 0.6 + 0.4 * np.eye(3)[best][:, None]
    return Table(*(jnp.asarray(array, jnp.float32) for array in (last, mean, rates)))


@pytest.mark.parametrize("sees_samples", [True, False])
def test_where_prompts_tell_nothing_the_best_constant_is_kept(sees_samples: bool) -> None:
    best = np.array([0, 1, 2, 2]) if sees_samples else np.array([0, 2, 2, 2])
    some = sequence_adapter(HIDDEN, adapter(3).actions, width=16, sees_samples=sees_samples)
    kept, history = fit_bandit(some, noise(best, 0), SETTINGS, validation=noise(best, 1))
    assert len(history) == SETTINGS.updates // SETTINGS.report_every
    unseen = noise(best, 2)
    for k, samples in enumerate(SETTINGS.samples):
        index = jnp.arange(96)
        choice = kept.begin(unseen.observe(index, jnp.full(96, samples, jnp.int32)), jnp.zeros(96))
        np.testing.assert_array_equal(choice, best[k] if sees_samples else 2)


def test_a_sure_gain_is_kept() -> None:
    shares = np.array([[0.75, 0.25, 0.5], [0.25, 0.75, 0.5]])
    kept, _ = fit_bandit(adapter(3), table(shares), SETTINGS, validation=table(shares, seed=1))
    assert (chosen(kept, table(shares, seed=2), 1) == np.arange(64) % 2).mean() > 0.9


@pytest.mark.parametrize("sees_samples", [True, False])
def test_where_a_gain_costs_one_sampling_budget_the_constant_is_held_at_that_one(sees_samples: bool) -> None:
    """What training shows as best at every B loses a little at B = 1 in validation, where the third action is best for all.

    An adapter that does not see B cannot hold it there, and gains more at the others.
    """
    shares = np.array([[0.75, 0.0, 0.5], [0.0, 0.75, 0.5]])
    watched = table(shares, seed=1)
    watched = watched.replace(rates=watched.rates.at[0].set(jnp.asarray([0.45, 0.45, 0.5])))
    some = sequence_adapter(HIDDEN, adapter(3).actions, width=16, sees_samples=sees_samples)
    kept, _ = fit_bandit(some, table(shares), SETTINGS, validation=watched)
    unseen = table(shares, seed=2)
    choices = {samples: chosen(kept, unseen, samples) for samples in range(1, 9)}
    if sees_samples:
        assert set(choices.pop(1)) == {2}
        assert kept.held[:4] == (2, -1, -1, -1)
    for samples in (1, 2, 3) if not sees_samples else (2, 3):
        assert (choices[samples] == np.arange(64) % 2).mean() > 0.9


def test_a_sampling_budget_between_two_of_training_goes_with_the_nearer_one() -> None:
    """Only at B = 4 is anything gained; by their logarithms 3 and 5 are nearer to it than to 2 and 8, and 6 is not."""
    shares = np.array([[0.75, 0.0, 0.4], [0.0, 0.75, 0.4]])
    known, watched = table(shares), table(shares, seed=1)
    for k in (0, 1, 3):
        watched = watched.replace(rates=watched.rates.at[k].set(jnp.asarray([0.4, 0.4, 0.5])))
    some = sequence_adapter(HIDDEN, adapter(3).actions, width=16)
    kept, _ = fit_bandit(some, known, SETTINGS, validation=watched)
    assert [action < 0 for action in kept.held] == [False, False, True, True, True, False, False, False]


def test_what_is_learnt_depends_on_the_seed_and_not_on_the_reports() -> None:
    some = table(np.array([[0.5, 0.25, 0.0], [0.0, 0.25, 0.0]]))
    often, seldom, other = (
        jax.tree.leaves(last_of(adapter(3), some, dataclasses.replace(SETTINGS, updates=100, **changes)).params)
        for changes in ({"report_every": 50}, {}, {"seed": 1})
    )
    for left, right in zip(often, seldom, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert not all(np.allclose(left, right) for left, right in zip(seldom, other, strict=True))


def test_what_cannot_be_trained_is_named() -> None:
    some = table(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"group is 1: .* at least 2"):
        next(train_bandit(adapter(2), some, dataclasses.replace(SETTINGS, group=1)))
    with pytest.raises(ValueError, match=r"Pass@B at 4 sampling budgets, and the settings name \(1, 9\)"):
        next(train_bandit(adapter(2), some, dataclasses.replace(SETTINGS, samples=(1, 9))))


@pytest.mark.parametrize("shown", [0, 3])
def test_embeddings_are_the_models_hidden_states(shown: int) -> None:
    """Examples that all prompts start with are computed once, and change nothing."""
    lm = load_lm("tiny")
    examples = load_problems("arithmetic", split="train", limit=shown) if shown else []
    environment = Environment(lm, load_problems("arithmetic", limit=5), "all", examples=examples)
    last, mean = embeddings(environment, rows=4)
    assert last.dtype == mean.dtype == np.float32
    for index in range(5):
        tokens = np.asarray(environment.prompt(index, 1).tokens, np.int32)[None]
        padded = np.pad(tokens, ((0, 0), (0, environment.prompt_width - tokens.shape[1])))
        hidden = np.asarray(lm(padded, np.arange(padded.shape[1])[None] < tokens.shape[1])[1])[0, : tokens.shape[1]]
        np.testing.assert_allclose(last[index], hidden[-1], atol=1e-4)
        np.testing.assert_allclose(mean[index], hidden.mean(axis=0), atol=1e-4)

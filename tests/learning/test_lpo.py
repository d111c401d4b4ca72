"""The preference loss against NumPy, and where it moves the policy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adaptive_jax.learning.lpo import Preferences, best_against_worst, lpo_loss, lpo_update
from tests.policies.adapters import random_adapter

WIDTH, A, BETA = 3, 4, 0.3
POLICY = random_adapter(WIDTH, "hidden", scale=0.3)


def batch(seed: int = 0) -> Preferences:
    """Three pairs of completions of one to three decisions each, padded to three; the last pair is a tie."""
    rng = np.random.default_rng(seed)
    return Preferences(
        features=jnp.asarray(rng.normal(size=(3, 3, WIDTH)), jnp.float32),
        actions=jnp.asarray(rng.integers(0, A, (3, 3)), jnp.int32),
        sign=jnp.asarray([[1.0, 1.0, -1.0], [1.0, -1.0, 0.0], [1.0, -1.0, -1.0]]),
        weight=jnp.asarray([1.0, 1.0, 0.0]),
    )


def log_probabilities(preferences: Preferences) -> np.ndarray:
    z = np.asarray(POLICY.logits(preferences.features), np.float64)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def test_loss_is_what_numpy_makes_of_it() -> None:
    some = batch()
    loss, metrics = lpo_loss(POLICY.params, POLICY, some, BETA)
    log_p = log_probabilities(some)
    one, two = (log_p[pair, np.arange(3), some.actions[pair]] - np.log(1 / A) for pair in range(2))
    margins = [one[0] + one[1] - one[2], two[0] - two[1]]
    expected = np.mean([-np.log(1 / (1 + np.exp(-BETA * margin))) for margin in margins])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert metrics["in_order"] == pytest.approx(np.mean(np.array(margins) > 0))
    real = log_p.reshape(9, A)[:5]
    np.testing.assert_allclose(metrics["action_probabilities"], np.exp(real).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(metrics["policy_entropy"], -(np.exp(real) * real).sum(axis=1).mean(), rtol=1e-5)


def test_ties_and_padding_have_no_influence() -> None:
    some = batch()
    gone = jnp.asarray([[0, 0, 0], [0, 0, 1], [1, 1, 1]], bool)
    poisoned = some.replace(
        features=jnp.where(gone[:, :, None], 40.0, some.features), actions=jnp.where(gone, A - 1, some.actions)
    )
    gradients = [jax.grad(lambda p, b=b: lpo_loss(p, POLICY, b, BETA)[0])(POLICY.params) for b in (some, poisoned)]
    for left, right in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


def test_updates_put_the_pairs_in_order() -> None:
    some, policy, optimizer = batch(), POLICY, optax.adam(1e-2)
    state = optimizer.init(policy.params)
    losses = []
    for _ in range(60):
        policy, state, metrics = lpo_update(policy, state, some, beta=BETA, optimizer=optimizer)
        losses.append(float(metrics["loss"]))
        assert metrics["applied"]
    assert losses[-1] < 0.8 * losses[0]
    assert metrics["in_order"] == 1


def test_without_a_preference_nothing_moves() -> None:
    optimizer = optax.adam(1e-2)
    tied = batch().replace(weight=jnp.zeros(3))
    policy, _, _ = lpo_update(POLICY, optimizer.init(POLICY.params), tied, beta=BETA, optimizer=optimizer)
    for before, after in zip(jax.tree.leaves(POLICY.params), jax.tree.leaves(policy.params), strict=True):
        np.testing.assert_array_equal(before, after)


def test_pairs_are_the_best_and_the_worst_completion_of_a_prompt() -> None:
    """Put together anew by a plain loop; prompt 1 has no difference, prompt 2 none among known rewards, 4 no known reward."""
    rng = np.random.default_rng(3)
    rewards = np.float32([[0, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1]])
    valid = np.ones((5, 4), bool)
    valid[2, 1], valid[3, 0], valid[4] = False, False, False
    completion = np.sort(rng.integers(0, 20, 90))
    features, actions = rng.normal(size=(90, WIDTH)).astype(np.float32), rng.integers(0, A, 90)
    some = best_against_worst(features, actions, completion, rewards, valid)
    np.testing.assert_array_equal(some.weight, [1, 0, 0, 1, 0])
    assert some.sign.shape in ((5, 8), (5, 16))
    for pair, chosen, rejected in ((0, 1, 0), (3, 15, 13)):
        own = np.flatnonzero((completion == chosen) | (completion == rejected))
        assert len(own) > 4, "a pair of this draw is too short to tell its order"
        assert not some.sign[pair, len(own) :].any()
        np.testing.assert_array_equal(some.sign[pair, : len(own)], np.where(completion[own] == chosen, 1, -1))
        np.testing.assert_array_equal(some.features[pair, : len(own)], features[own])
        np.testing.assert_array_equal(some.actions[pair, : len(own)], actions[own])
    assert not some.sign[jnp.asarray([1, 2, 4])].any()


def test_without_any_difference_there_is_no_pair() -> None:
    rewards = np.ones((2, 3), np.float32)
    some = best_against_worst(np.ones((6, WIDTH), np.float32), np.zeros(6, int), np.arange(6), rewards, rewards > 0)
    assert not some.weight.any()
    assert not some.sign.any()

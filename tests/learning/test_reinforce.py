"""REINFORCE against exact enumeration of a two-step problem, and its parts against closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adaptive_jax.learning.reinforce import (
    Decisions,
    leave_one_out,
    pad_decisions,
    pass_advantages,
    reinforce_loss,
    reinforce_update,
)
from tests.policies.adapters import random_adapter

# The toy problem: two decisions, each one of A actions; what the second one sees depends on the first action.
WIDTH, A = 3, 4
POLICY = random_adapter(WIDTH, "hidden", scale=0.3)
SEQUENCES = np.array(list(itertools.product(range(A), repeat=2)))
FIRST = np.array([0.5, -1.0, 0.2], np.float32)
AFTER = np.random.default_rng(0).normal(size=(A, WIDTH)).astype(np.float32)
REWARDS = (np.random.default_rng(1).random((A, A)) < 0.4).astype(np.float32)
NO_BONUS = jnp.float32(0.0)


@jax.jit
def sequence_probabilities(params: nnx.State) -> jax.Array:
    """[A, A], pi(a1) pi(a2 | a1)."""
    policy = POLICY.replace(params=params)
    first = jax.nn.softmax(policy.logits(jnp.asarray(FIRST[None])))
    return first.T * jax.nn.softmax(policy.logits(jnp.asarray(AFTER)))


def random_batch(count: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, actions and advantages of decisions."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return features, rng.integers(0, A, count), rng.normal(size=count).astype(np.float32)


def bits(tree: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@jax.jit
def gradient(batch: Decisions, bonus: jax.Array = NO_BONUS) -> nnx.State:
    return jax.grad(lambda params: reinforce_loss(params, POLICY, batch, bonus)[0])(POLICY.params)


def norm(tree: nnx.State) -> float:
    return float(np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(tree))))


def assert_close(left: nnx.State, right: nnx.State, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_is_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.random((20, 5)).astype(np.float32)
    valid = rng.random((20, 5)) < 0.4
    expected = np.zeros((20, 5))
    for n, i in itertools.product(range(20), range(5)):
        others = [rewards[n, j] for j in range(5) if j != i and valid[n, j]]
        if valid[n, i] and others:
            expected[n, i] = rewards[n, i] - sum(others) / len(others)
    assert (valid.sum(axis=1) == 1).any()  # a group with no other valid completion
    unknown = np.where(valid, rewards, np.nan)
    advantages = leave_one_out(unknown, valid)
    assert advantages.dtype == np.float32
    np.testing.assert_allclose(advantages, expected, atol=1e-6)
    np.testing.assert_allclose(leave_one_out(rewards), 1.25 * (rewards - rewards.mean(axis=1, keepdims=True)), atol=1e-6)


def test_a_group_of_one_teaches_nothing() -> None:
    np.testing.assert_array_equal(leave_one_out(np.ones((3, 1), np.float32)), np.zeros((3, 1)))


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_pass_advantages_are_those_of_all_subsets(samples: int) -> None:
    """Every B completions that include one, against every B of the others, one subset after the other."""
    rng = np.random.default_rng(samples)
    rewards = (rng.random((30, 6)) < rng.random((30, 1))).astype(np.float32)
    valid = rng.random((30, 6)) < 0.8
    expected = np.zeros((30, 6))
    for n, i in itertools.product(range(30), range(6)):
        others = [j for j in range(6) if j != i and valid[n, j]]
        if valid[n, i] and len(others) >= samples:
            with_it = [max(rewards[n, [i, *rest]]) for rest in itertools.combinations(others, samples - 1)]
            without = [max(rewards[n, list(subset)]) for subset in itertools.combinations(others, samples)]
            expected[n, i] = np.mean(with_it) - np.mean(without)
    assert (valid.sum(axis=1) <= samples).any() or samples < 5  # too few others to draw B of them
    found = pass_advantages(np.where(valid, rewards, 0), valid, samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gradient_of_pass_advantages_is_that_of_pass_at_b() -> None:
    """One decision with A actions, all groups of 4 completions by their probability: d Pass@2 / d logits, over B = 2."""
    z = np.array([0.3, -0.2, 0.1])
    chance, solves = np.exp(z) / np.exp(z).sum(), np.array([0.0, 1.0, 0.0])
    groups = np.array(list(itertools.product(range(3), repeat=4)))
    advantages = pass_advantages(solves[groups].astype(np.float32), np.ones(groups.shape, bool), 2)
    scores = np.eye(3)[groups] - chance  # d log pi(a) / dz
    found = (chance[groups].prod(axis=1)[:, None] * (advantages[..., None] * scores).mean(axis=1)).sum(axis=0)
    exact = (1 - chance[1]) * chance[1] * (solves - chance)  # of 1 - (1 - p)^2, halved
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_pass_at_b_needs_more_completions_than_b() -> None:
    with pytest.raises(ValueError, match="Pass@4 as a reward needs 1 to G - 1 samples: a prompt has G = 4 completions"):
        pass_advantages(np.ones((2, 4), np.float32), np.ones((2, 4), bool), 4)


@pytest.mark.parametrize(
    ("valid", "share"),
    [
        (None, 1 / 2),  # one completion, its advantage the reward itself
        ([True, True], 2 / 4),
        ([True, True, True], 3 / 6),
        ([True, False, True], 2 / 6),  # a decision without a known reward counts as one, should the learner keep it
    ],
)
def test_expected_gradient_is_the_exact_one(valid: list[bool] | None, share: float) -> None:
    """Every group of completions, weighted with its probability: -dJ/dparams, times valid completions over decisions."""
    size = 1 if valid is None else len(valid)
    groups = SEQUENCES[np.array(list(itertools.product(range(A * A), repeat=size)))]  # [A ** 2G, G, 2]
    rewards = REWARDS[groups[..., 0], groups[..., 1]]
    advantages = rewards if valid is None else leave_one_out(rewards, np.broadcast_to(valid, rewards.shape))
    features = np.stack([np.broadcast_to(FIRST, (*rewards.shape, WIDTH)), AFTER[groups[..., 0]]], axis=2)
    batches = (
        jnp.asarray(features.reshape(len(groups), 2 * size, WIDTH)),
        jnp.asarray(groups.reshape(len(groups), 2 * size), jnp.int32),
        jnp.asarray(np.repeat(advantages, 2, axis=1)),
        jnp.ones((len(groups), 2 * size)),
    )
    probability = np.asarray(sequence_probabilities(POLICY.params), np.float64)
    weights = jnp.asarray(probability[groups[..., 0], groups[..., 1]].prod(axis=1), jnp.float32)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-4)

    @jax.jit
    def estimate(params: nnx.State) -> nnx.State:
        """The gradient is linear in the losses, so the weights may be put inside."""

        def loss(params: nnx.State) -> jax.Array:
            return jax.vmap(lambda *batch: reinforce_loss(params, POLICY, Decisions(*batch), NO_BONUS)[0])(*batches)

        return jax.grad(lambda params: jnp.sum(weights * loss(params)))(params)

    exact = jax.jit(jax.grad(lambda params: jnp.sum(sequence_probabilities(params) * REWARDS)))(POLICY.params)
    assert norm(exact) > 0.05
    assert_close(estimate(POLICY.params), jax.tree.map(lambda g: -share * g, exact))


def test_gradient_at_the_last_bias_in_closed_form() -> None:
    """d log pi(a) / dz = onehot(a) - p and dH / dz = -p (log p + H), over 5 decisions in a batch of 8."""
    features, actions, advantages = random_batch(5)
    z = np.asarray(POLICY.logits(jnp.asarray(features)), np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1, keepdims=True)
    policy_term = advantages[:, None] * (np.eye(A)[actions] - p)
    entropy_term = -p * (np.log(p) + entropy)
    for bonus in (0.0, 0.3):
        found = gradient(pad_decisions(features, actions, advantages), jnp.float32(bonus))
        np.testing.assert_allclose(
            found["last"]["bias"][...], -(policy_term + bonus * entropy_term).mean(axis=0), rtol=1e-4, atol=1e-6
        )


def test_metrics_are_means_over_decisions() -> None:
    features, actions, advantages = random_batch(5)
    loss, metrics = reinforce_loss(POLICY.params, POLICY, pad_decisions(features, actions, advantages), jnp.float32(0.1))
    z = np.asarray(POLICY.logits(jnp.asarray(features)), np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1)
    expected = -(advantages * np.log(p[np.arange(5), actions]) + 0.1 * entropy).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["policy_entropy"], entropy.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["action_probabilities"], p.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_padding_goes_to_the_next_power_of_two(count: int, size: int) -> None:
    batch = pad_decisions(*random_batch(count))
    assert batch.features.shape == (size, WIDTH)
    np.testing.assert_array_equal(batch.weight, [1] * count + [0] * (size - count))


def test_padding_has_no_influence() -> None:
    features, actions, advantages = random_batch(5)
    padded = pad_decisions(features, actions, advantages)
    plain = Decisions(jnp.asarray(features), jnp.asarray(actions, jnp.int32), jnp.asarray(advantages), jnp.ones(5))
    beyond = jnp.arange(8) >= 5
    poisoned = padded.replace(
        features=jnp.where(beyond[:, None], 50.0, padded.features),
        actions=jnp.where(beyond, A - 1, padded.actions),
        advantages=jnp.where(beyond, 1e6, padded.advantages),
    )
    bonus = jnp.float32(0.2)
    for batch in (padded, poisoned):
        assert_close(gradient(batch, bonus), gradient(plain, bonus), 1e-6)


def test_no_decision_at_all_changes_nothing() -> None:
    """Adam's momentum would move the policy on without a gradient."""
    adam = optax.adam(1e-2)
    update = functools.partial(reinforce_update, entropy_bonus=NO_BONUS, optimizer=adam)
    policy, opt_state, _ = update(POLICY, adam.init(POLICY.params), pad_decisions(*random_batch(8)))
    same_policy, same_state, metrics = update(policy, opt_state, pad_decisions(*random_batch(0)))
    assert metrics["applied"]
    assert bits(same_policy.params) == bits(policy.params)
    assert bits(same_state) == bits(opt_state)


def test_an_update_follows_the_gradient() -> None:
    descent = optax.sgd(0.5)
    batch = pad_decisions(*random_batch(8))
    policy, _, metrics = reinforce_update(POLICY, descent.init(POLICY.params), batch, NO_BONUS, optimizer=descent)
    found = gradient(batch)
    assert_close(policy.params, jax.tree.map(lambda p, g: p - 0.5 * g, POLICY.params, found), 1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], norm(found), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], reinforce_loss(POLICY.params, POLICY, batch, NO_BONUS)[0], rtol=1e-5)


def test_the_clipped_ratio_is_that_of_numpy() -> None:
    """Both sides of both clips are met; at the policy that drew, the gradient is REINFORCE's."""
    features, actions, advantages = random_batch(64)
    batch = pad_decisions(features, actions, advantages)
    moved = random_adapter(WIDTH, "hidden", scale=0.6, seed=2)

    def chances(params: nnx.State) -> np.ndarray:
        z = np.asarray(POLICY.replace(params=params).logits(jnp.asarray(features)), np.float64)
        return (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))[np.arange(64), actions]

    ratio = chances(moved.params) / chances(POLICY.params)
    for sign in (-1, 1):
        assert {*np.digitize(ratio[advantages * sign > 0], [0.8, 1.2])} == {0, 1, 2}
    expected = -np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).mean()
    np.testing.assert_allclose(reinforce_loss(moved.params, POLICY, batch, NO_BONUS, 0.2)[0], expected, rtol=1e-4)
    clipped = jax.grad(lambda params: reinforce_loss(params, POLICY, batch, NO_BONUS, 0.2)[0])(POLICY.params)
    assert_close(clipped, gradient(batch), 1e-6)


def test_epochs_are_steps_on_the_same_batch_against_the_policy_that_drew() -> None:
    descent = optax.sgd(5.0)
    batch, bonus = pad_decisions(*random_batch(8)), jnp.float32(0.1)
    params, losses = POLICY.params, []
    for _ in range(3):
        step = jax.value_and_grad(lambda params: reinforce_loss(params, POLICY, batch, bonus, 0.2)[0])
        loss, slope = step(params)
        losses.append(loss)
        params = jax.tree.map(lambda p, g: p - 5.0 * g, params, slope)
    start = descent.init(POLICY.params)
    policy, _, metrics = reinforce_update(POLICY, start, batch, bonus, optimizer=descent, epochs=3, clip=0.2)
    assert_close(policy.params, params, 1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-4)
    once = reinforce_loss(POLICY.params, POLICY, batch, bonus)[1]
    np.testing.assert_allclose(metrics["policy_entropy"], once["policy_entropy"], rtol=1e-5)


def test_an_update_that_is_not_finite_is_left_out() -> None:
    batch = pad_decisions(*random_batch(8))
    adam = optax.adam(1e-2)
    update = functools.partial(reinforce_update, entropy_bonus=NO_BONUS, optimizer=adam)
    policy, opt_state, metrics = update(POLICY, adam.init(POLICY.params), batch)
    assert metrics["applied"]
    assert bits(policy.params) != bits(POLICY.params)
    assert bits(opt_state) != bits(adam.init(POLICY.params))
    for field, poison in itertools.product(("features", "advantages"), (np.nan, np.inf, -np.inf)):
        poisoned = batch.replace(**{field: getattr(batch, field).at[2].set(poison)})
        same_policy, same_state, metrics = update(policy, opt_state, poisoned)
        assert not metrics["applied"], (field, poison)
        assert bits(same_policy.params) == bits(policy.params)
        assert bits(same_state) == bits(opt_state)

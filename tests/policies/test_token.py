"""What the token adapter sees, what it draws, and what its variants must not see."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.policy import Observation, PromptObservation
from adaptive_jax.policies.token import Inputs, TokenAdapter, budget_features, budget_width, token_adapter
from tests.policies.adapters import random_adapter

HIDDEN = 6
VARIANTS = get_args(Inputs)
SEEN = {"hidden+budget": {"hidden", "remaining"}, "hidden": {"hidden"}, "entropy": {"entropy"}}


def observe(rows: int, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    budget = rng.integers(10, 65, rows)
    return Observation(
        hidden=jnp.asarray(3 * rng.normal(size=(rows, HIDDEN)), jnp.float32),
        remaining=jnp.asarray(budget - rng.integers(0, 10, rows), jnp.int32),
        budget=jnp.asarray(budget, jnp.int32),
        token=jnp.asarray(rng.integers(0, 100, rows), jnp.int32),
        entropy=jnp.asarray(rng.uniform(0, 4, rows), jnp.float32),
        top_probability=jnp.asarray(rng.uniform(0.1, 1, rows), jnp.float32),
    )


def draw(adapter: TokenAdapter, observation: Observation, uniform: np.ndarray) -> np.ndarray:
    sequence_action = jnp.full(uniform.shape, 3, jnp.int32)
    action, features = adapter.step(observation, sequence_action, jnp.asarray(uniform, jnp.float32))
    np.testing.assert_array_equal(features, adapter.features(observation))
    assert action.dtype == jnp.int32
    return np.asarray(action)


@pytest.mark.parametrize("inputs", VARIANTS)
def test_starts_as_the_uniform_policy(inputs: Inputs) -> None:
    adapter = token_adapter(HIDDEN, inputs=inputs, seed=7)
    observation = observe(400)
    np.testing.assert_array_equal(adapter.logits(adapter.features(observation)), np.zeros((400, 4)))
    actions = draw(adapter, observation, (np.arange(400) + 0.5) / 400)
    np.testing.assert_array_equal(actions, np.repeat(np.arange(4), 100))


def test_acts_with_the_papers_settings_by_default() -> None:
    actions = token_adapter(HIDDEN).actions
    np.testing.assert_array_equal(actions.temperature, np.float32([0, 0.5, 1, 1.25]))
    assert not np.any(actions.top_k)
    assert not np.any(actions.min_p)
    assert (np.asarray(actions.top_p) == 1).all()


def test_holds_nothing_and_learns() -> None:
    adapter = random_adapter(HIDDEN)
    state = jnp.ones((5, HIDDEN))
    counts = jnp.full(5, 8, jnp.int32)
    prompt = PromptObservation(last=state, mean=state, completion=counts, samples=counts, budget=counts)
    np.testing.assert_array_equal(adapter.begin(prompt, jnp.linspace(0, 0.9, 5)), np.zeros(5, np.int32))
    assert adapter.learns
    assert [random_adapter(HIDDEN, inputs).sees_budget for inputs in VARIANTS] == ["budget" in inputs for inputs in VARIANTS]


@pytest.mark.parametrize("inputs", VARIANTS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_are_what_numpy_makes_of_them(inputs: Inputs, dtype: jnp.dtype) -> None:
    observation = observe(50)
    observation = observation.replace(hidden=observation.hidden.astype(dtype))
    features = random_adapter(HIDDEN, inputs).features(observation)
    hidden = np.asarray(observation.hidden.astype(jnp.float32), np.float64)
    scaled = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-6)
    place = np.log2(1 + np.asarray(observation.remaining, np.float64))
    bins = np.stack([np.interp(place, range(8), 3 * column) for column in np.eye(8)], axis=1)  # log2(1 + 64) is above 6
    expected = {
        "hidden+budget": np.concatenate([scaled, bins], axis=1),
        "hidden": scaled,
        "entropy": np.asarray(observation.entropy, np.float64)[:, None],
    }[inputs]
    assert features.dtype == dtype
    assert features.shape == expected.shape
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(features.astype(jnp.float32)), expected, rtol=tolerance, atol=1e-6)


def test_budgets_are_encoded_as_earlier_adapters_did() -> None:
    left = np.array([[-3], [0], [1], [40], [64], [100]])
    tokens = np.maximum(left, 0)
    shares = np.concatenate([tokens / 64, np.log(1 + tokens) / np.log(65)], axis=1)
    remaining = jnp.asarray(left[:, 0], jnp.int32)
    np.testing.assert_allclose(budget_features(remaining, 64, "shares"), shares, rtol=1e-6)
    np.testing.assert_allclose(budget_features(remaining, 64, "centred"), 6 * shares - 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 8, 1024])
def test_a_two_hot_budget_has_a_place_for_every_power_of_two(scale: int) -> None:
    """Whole powers are one-hot, what lies between shares its weight, and what is above the scale counts as the scale."""
    remaining = jnp.asarray([-1, 0, *range(1, scale + 1), 3 * scale], jnp.int32)
    bins = np.asarray(budget_features(remaining, scale, "two-hot"))
    assert bins.shape == (scale + 3, budget_width(scale, "two-hot"))
    np.testing.assert_allclose(bins.sum(axis=1), 3.0, rtol=1e-5)
    np.testing.assert_array_equal(bins[0], bins[1])
    np.testing.assert_array_equal(bins[-1], bins[-2])
    assert (np.count_nonzero(bins > 1e-5, axis=1) <= 2).all()
    for power in range((scale + 1).bit_length()):
        np.testing.assert_allclose(bins[2**power], 3.0 * np.eye(bins.shape[1])[power], atol=1e-5)  # 2^n - 1 tokens stand at 2^n


@pytest.mark.parametrize("inputs", VARIANTS)
def test_logits_are_those_of_a_three_layer_mlp(inputs: Inputs) -> None:
    adapter = random_adapter(HIDDEN, inputs)
    features = adapter.features(observe(20))
    x = np.asarray(features, np.float64)
    for name in ("first", "second", "last"):
        layer = adapter.params[name]
        x = x @ np.asarray(layer["kernel"][...], np.float64) + np.asarray(layer["bias"][...], np.float64)
        if name != "last":
            x = x / (1 + np.exp(-x))
    logits = adapter.logits(features)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inputs", VARIANTS)
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Observation)])
def test_a_variant_sees_its_inputs_and_nothing_else(inputs: Inputs, field: str) -> None:
    adapter = random_adapter(HIDDEN, inputs)
    before = observe(10, seed=0)
    after = before.replace(**{field: getattr(observe(10, seed=1), field)})
    logits = [np.asarray(adapter.logits(adapter.features(observation))) for observation in (before, after)]
    assert np.array_equal(*logits) == (field not in SEEN[inputs])


def test_draws_follow_the_softmax() -> None:
    """Chi-square of 20,000 draws at each of four observations; fails by chance once in 250 seeds, and this one is fixed."""
    draws, places = 20_000, 4
    adapter = random_adapter(HIDDEN, scale=0.5)
    several = observe(places)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, draws, axis=0), several)
    uniform = np.random.default_rng(2).random(draws * places)
    actions = draw(adapter, repeated, uniform).reshape(places, draws)
    logits = np.asarray(adapter.logits(adapter.features(several)), np.float64)
    expected = draws * np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert expected.min() > 100
    observed = np.stack([np.bincount(row, minlength=4) for row in actions])
    assert (((observed - expected) ** 2 / expected).sum(axis=1) < 16.27).all()  # 99.9% quantile at 3 degrees of freedom


def test_the_edges_of_the_uniform_number_are_actions() -> None:
    adapter = random_adapter(HIDDEN)
    observation = observe(30)
    assert (draw(adapter, observation, np.zeros(30)) == 0).all()
    assert (draw(adapter, observation, np.full(30, 1 - 2**-24)) == 3).all()


def test_argmax_takes_the_most_probable_action() -> None:
    adapter = random_adapter(HIDDEN).replace(argmax=True)
    observation = observe(40)
    expected = np.argmax(adapter.logits(adapter.features(observation)), axis=1)
    assert len(set(expected.tolist())) > 1
    for uniform in (0.0, 0.999):
        np.testing.assert_array_equal(draw(adapter, observation, np.full(40, uniform)), expected)


@pytest.mark.parametrize("inputs", ["hidden+budget", "hidden"])
def test_another_models_adapter_is_refused(inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="model of hidden size 7, and this one has 6"):
        token_adapter(HIDDEN + 1, inputs=inputs).features(observe(1))


def test_the_seed_fixes_the_weights() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(token_adapter(HIDDEN, seed=seed).params)]

    assert all(map(np.array_equal, weights(3), weights(3)))
    assert not all(map(np.array_equal, weights(3), weights(4)))

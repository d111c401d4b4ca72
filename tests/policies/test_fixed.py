"""Policies that learn nothing: static, mixed and the hand-written schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Observation, Policy, PromptObservation
from adaptive_jax.policies.fixed import InTurn, mixed, static
from adaptive_jax.policies.schedule import TokenSchedule

LARGEST_UNIFORM = np.float32(1 - 2**-24)


def begin(policy: Policy, uniform: np.ndarray) -> np.ndarray:
    rows = len(uniform)
    state, counts = jnp.ones((rows, 3)), jnp.full(rows, 8, jnp.int32)
    action = policy.begin(PromptObservation(state, state, counts, counts, counts), jnp.asarray(uniform, jnp.float32))
    assert action.dtype == jnp.int32
    return np.asarray(action)


def step(policy: Policy, token: np.ndarray, sequence_action: np.ndarray, uniform: float = 0.5) -> tuple[np.ndarray, jax.Array]:
    rows = len(token)
    number, count = jnp.full(rows, 0.7), jnp.full(rows, 9, jnp.int32)
    observation = Observation(jnp.ones((rows, 3)), count, count, jnp.asarray(token, jnp.int32), number, number)
    action, features = policy.step(observation, jnp.asarray(sequence_action, jnp.int32), jnp.full(rows, uniform))
    assert action.dtype == jnp.int32
    return np.asarray(action), features


def test_static_is_one_setting() -> None:
    policy = static(0.7, top_k=5, top_p=0.9, min_p=0.1)
    assert len(policy.actions) == 1
    assert not policy.learns
    assert not policy.sees_budget
    assert policy.actions[0] == SamplingParams.stack([SamplingParams(0.7, 5, 0.9, 0.1)])[0]
    sequence_action = begin(policy, np.array([0, 0.4, LARGEST_UNIFORM]))
    np.testing.assert_array_equal(sequence_action, [0, 0, 0])
    action, features = step(policy, np.array([1, 2, 3]), sequence_action)
    np.testing.assert_array_equal(action, [0, 0, 0])
    assert features.shape == (3, 0)


def test_static_refuses_what_sampling_parameters_refuse() -> None:
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        static(-1.0)


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_mixed_draws_each_setting_equally_often_and_holds_it(count: int) -> None:
    policy = mixed([SamplingParams(t / 4) for t in range(count)])
    np.testing.assert_allclose(policy.actions.temperature, np.arange(count) / 4)
    assert not policy.learns
    sequence_action = begin(policy, (np.arange(100 * count) + 0.5) / (100 * count))
    np.testing.assert_array_equal(sequence_action, np.repeat(np.arange(count), 100))
    np.testing.assert_array_equal(begin(policy, np.array([0, LARGEST_UNIFORM])), [0, count - 1])
    for uniform in (0.0, 0.99):
        action, features = step(policy, np.arange(len(sequence_action)), sequence_action, uniform)
        np.testing.assert_array_equal(action, sequence_action)
        assert features.shape == (len(sequence_action), 0)


def test_in_turn_goes_through_the_settings() -> None:
    policy = InTurn(SamplingParams.stack([SamplingParams(t / 4) for t in range(3)]))
    assert not policy.learns
    assert not policy.sees_budget
    state, number = jnp.ones((8, 3)), jnp.arange(8, dtype=jnp.int32)
    prompt = PromptObservation(state, state, completion=number, samples=jnp.full_like(number, 8), budget=number)
    for uniform in (0.0, 0.99):
        sequence_action = policy.begin(prompt, jnp.full(8, uniform))
        assert sequence_action.dtype == jnp.int32
        np.testing.assert_array_equal(sequence_action, [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(step(policy, np.arange(8), np.asarray(sequence_action))[0], sequence_action)


def test_schedule_acts_by_the_token_before() -> None:
    policy = TokenSchedule(
        SamplingParams.stack([SamplingParams(0.0), SamplingParams(0.5), SamplingParams(1.25)]), jnp.asarray([4, 9], jnp.int32)
    )
    assert not policy.learns
    assert not policy.sees_budget
    sequence_action = begin(policy, np.linspace(0, 0.9, 6))
    np.testing.assert_array_equal(sequence_action, np.zeros(6))
    for uniform in (0.0, 0.99):
        action, features = step(policy, np.array([4, 5, 9, 0, 4, 40]), sequence_action, uniform)
        np.testing.assert_array_equal(action, [2, 0, 2, 0, 2, 0])
        assert features.shape == (6, 0)

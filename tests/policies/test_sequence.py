"""What the sequence adapter sees, and that all completions of a prompt get what it holds."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.policies.sequence import Pooling, SequenceAdapter, sequence_adapter
from tests.learning.questions import SOFT_LM, STOP, GreedyPath
from tests.policies.adapters import random_sequence_adapter

HIDDEN = 6
POOLINGS = get_args(Pooling)


def observe(rows: int, samples: np.ndarray | int = 4, seed: int = 0) -> PromptObservation:
    rng = np.random.default_rng(seed)
    last, mean = (jnp.asarray(3 * rng.normal(size=(rows, HIDDEN)), jnp.float32) for _ in range(2))
    other = jnp.asarray(rng.integers(0, 100, rows), jnp.int32)
    return PromptObservation(last, mean, other, jnp.broadcast_to(jnp.asarray(samples, jnp.int32), rows), other)


def held(adapter: SequenceAdapter, prompt: PromptObservation, uniform: float = 0.5) -> np.ndarray:
    action = adapter.begin(prompt, jnp.full(prompt.samples.shape, uniform))
    assert action.dtype == jnp.int32
    return np.asarray(action)


@pytest.mark.parametrize("sees_samples", [True, False])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_are_what_numpy_makes_of_them(pooling: Pooling, sees_samples: bool) -> None:
    samples = np.array([1, 2, 3, 4, 8, 8, 100, 5])
    prompt = observe(8, samples)
    features = random_sequence_adapter(HIDDEN, pooling, sees_samples=sees_samples).features(prompt)
    last, mean = (
        np.asarray(x) / np.sqrt((np.asarray(x) ** 2).mean(axis=1, keepdims=True) + 1e-6) for x in (prompt.last, prompt.mean)
    )
    expected = {"last": [last], "mean": [mean], "both": [last, mean]}[pooling]
    if sees_samples:
        expected = [*expected, (2 * np.log2(np.minimum(samples, 8)) - 3)[:, None]]  # from -3 at B = 1 to 3 at B = 8
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_features_of_bfloat16_embeddings_are_float32() -> None:
    prompt = observe(4)
    adapter = random_sequence_adapter(HIDDEN)
    rounded = prompt.replace(last=prompt.last.astype(jnp.bfloat16), mean=prompt.mean.astype(jnp.bfloat16))
    features = adapter.features(rounded)
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, adapter.features(prompt), atol=0.03)


def test_holds_the_most_probable_action() -> None:
    adapter, prompt = random_sequence_adapter(HIDDEN), observe(40)
    expected = np.argmax(adapter.logits(adapter.features(prompt)), axis=1)
    assert len(set(expected.tolist())) == 3
    for uniform in (0.0, 0.999):
        np.testing.assert_array_equal(held(adapter, prompt, uniform), expected)
    action, features = adapter.step(None, jnp.asarray(expected, jnp.int32), jnp.zeros(40))  # type: ignore[arg-type]
    np.testing.assert_array_equal(action, expected)
    assert features.shape == (40, 0)
    assert not adapter.learns
    assert not adapter.sees_budget


def test_only_the_adapter_with_budget_sees_the_sampling_budget() -> None:
    few, many = observe(60, 1), observe(60, 8)
    with_budget, without = random_sequence_adapter(HIDDEN), random_sequence_adapter(HIDDEN, sees_samples=False)
    assert (held(with_budget, few) != held(with_budget, many)).any()
    np.testing.assert_array_equal(held(without, few), held(without, many))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_chooses_the_embedding(pooling: Pooling) -> None:
    adapter, before, after = random_sequence_adapter(HIDDEN, pooling), observe(60), observe(60, seed=1)
    for field, seen in (("last", pooling != "mean"), ("mean", pooling != "last"), ("completion", False), ("budget", False)):
        changed = before.replace(**{field: getattr(after, field)})
        assert (held(adapter, changed) != held(adapter, before)).any() == seen


def test_an_untrained_adapter_is_indifferent() -> None:
    adapter = sequence_adapter(HIDDEN, random_sequence_adapter(HIDDEN).actions)
    np.testing.assert_array_equal(adapter.logits(adapter.features(observe(5))), np.zeros((5, 3)))


def test_another_models_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="model of hidden size 7, and this one has 6"):
        held(random_sequence_adapter(HIDDEN + 1), observe(1))


def test_all_completions_of_a_prompt_get_what_it_holds() -> None:
    """Rolled out: one action per prompt from its first token to its last, another one where B is another."""
    asked = GreedyPath(30)
    adapter = random_sequence_adapter(2, scale=8.0)
    chosen = {}
    for completions in (1, 8):
        prompts = [Prompt(str(index), asked.prompts[index], 12) for index in range(30)]
        trajectory = rollout(
            SOFT_LM.decoder, adapter, prompts, key=jax.random.key(0), stop_ids=(STOP,), completions=completions, rows=16
        )
        assert not trajectory.decisions.any()
        groups = [
            set(np.concatenate([trajectory.actions[n, : trajectory.lengths[n]] for n in range(i, i + completions)]).tolist())
            for i in range(0, 30 * completions, completions)
        ]
        assert {len(group) for group in groups} == {1}
        chosen[completions] = [group.pop() for group in groups]
    assert len(set(chosen[1] + chosen[8])) > 1
    assert chosen[1] != chosen[8]

"""Adapters that take the same action whatever they see: what both learners fall back to, and where the bandit starts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float32

from adaptive_jax.decoding.policy import PromptObservation
from adaptive_jax.digest import leaf_name
from adaptive_jax.policies.sequence import SequenceAdapter
from adaptive_jax.policies.token import TokenAdapter

ALWAYS = 50.0  # the logit of an action that is always taken: the others have a probability of less than 1e-21
Adapter = TypeVar("Adapter", SequenceAdapter, TokenAdapter)

PROBABILITY = 0.6  # of the best action; with the rest, the others are still tried
STEPS, LEARNING_RATE = 400, 3e-2


def is_untrained(adapter: SequenceAdapter) -> bool:
    """Whether all actions are equally probable for every prompt."""
    return not any(np.any(leaf) for name, leaf in _leaves(adapter) if name.startswith("last."))


def constant_adapter(
    adapter: SequenceAdapter, rates: Float32[Array, "budgets prompts actions"], samples: Sequence[int]
) -> SequenceAdapter:
    """An untrained adapter, but with probability `PROBABILITY` for the best constant action, whatever the prompt.

    One that does not see the sampling budget has the action that is best over all of them, by the biases of the last layer. One
    that does has the best for each B: the weights of the prompt's embedding are zero, the others are fitted by Adam.

    Args:
        adapter: an untrained adapter of A actions.
        rates: float32 [K, N, A], each action's Pass@B on N prompts at K sampling budgets.
        samples: the K sampling budgets.
    """
    means, actions = jnp.mean(rates, axis=1), rates.shape[2]
    others = (1.0 - PROBABILITY) / max(actions - 1, 1)
    if not adapter.sees_samples:
        best = jax.nn.one_hot(jnp.argmax(jnp.mean(means, axis=0)), actions)
        return _with(adapter, "last.bias", lambda bias: jnp.log(others + (PROBABILITY - others) * best).astype(bias.dtype))
    target = others + (PROBABILITY - others) * jax.nn.one_hot(jnp.argmax(means, axis=1), actions)
    counts, nothing = jnp.asarray(samples, jnp.int32), jnp.zeros((len(samples), adapter.hidden_size), jnp.float32)
    features = adapter.features(PromptObservation(nothing, nothing, jnp.zeros_like(counts), counts, jnp.zeros_like(counts)))
    embedding = features.shape[1] - 1  # behind it is the sampling budget
    return _fitted(_with(adapter, "first.kernel", lambda kernel: kernel.at[:embedding].set(0)), features, target)


def constant_token_adapter(adapter: TokenAdapter, action: int) -> TokenAdapter:
    """The token adapter that always takes one action of A: the last layer's weights are zero, and its biases choose.

    Args:
        adapter: gives the shapes and the action space.
        action: from 0 to A - 1.
    """
    settled = _with(adapter, "last.kernel", jnp.zeros_like)
    return _with(settled, "last.bias", lambda bias: (ALWAYS * jax.nn.one_hot(action, bias.shape[0])).astype(bias.dtype))


def _leaves(adapter: SequenceAdapter) -> list[tuple[str, jax.Array]]:
    return [(leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(adapter.params)]


def _with(adapter: Adapter, name: str, change: Callable[[jax.Array], jax.Array]) -> Adapter:
    """The adapter with one leaf of its parameters changed."""

    def changed(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return change(leaf) if leaf_name(path).startswith(name) else leaf

    return dataclasses.replace(adapter, params=jax.tree_util.tree_map_with_path(changed, adapter.params))


@jax.jit
def _fitted(adapter: SequenceAdapter, features: jax.Array, target: jax.Array) -> SequenceAdapter:
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params: nnx.State) -> jax.Array:
        logits = dataclasses.replace(adapter, params=params).logits(features)
        return jnp.mean(optax.softmax_cross_entropy(logits, target))

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (adapter.params, optimizer.init(adapter.params)), None, length=STEPS)
    return dataclasses.replace(adapter, params=params)

"""Latent preference optimisation (arXiv 2411.09661): of two completions of a prompt, make the better one's actions likelier.

The selector's form: the action (or the actions of a whole completion) with the best reward is chosen, the one with the worst is
rejected, and the loss is DPO's on their log-probabilities relative to a reference policy. The reference is the untrained,
uniform policy; beta is ours.
"""

import functools
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from adaptive_jax.learning.reinforce import LearntPolicy, guarded_update
from adaptive_jax.parallel import summed

Rule = Literal["reinforce", "lpo"]


@struct.dataclass
class Preferences:
    """Pairs of completions, with the decisions of both one after the other, padding included.

    Attributes:
        features: what the policy chose from, in the two completions of a pair.
        actions: what it chose.
        sign: 1 in the chosen completion, -1 in the rejected one, 0 for padding.
        weight: 1 for pairs with a preference, 0 for padding and ties.
    """

    features: Float[Array, "pairs decisions features"]
    actions: Int32[Array, "pairs decisions"]
    sign: Float32[Array, "pairs decisions"]
    weight: Float32[Array, " pairs"]


def best_against_worst(
    features: Float[np.ndarray, "decisions features"],
    actions: Int[np.ndarray, " decisions"],
    completion: Int[np.ndarray, " decisions"],
    rewards: Float[np.ndarray, "prompts group"],
    valid: Bool[np.ndarray, "prompts group"],
) -> Preferences:
    """The first of the best completions of each prompt against the first of the worst; a prompt without a difference is a tie.

    Pairs are padded to the longest, and that to the next power of two, so that few shapes are compiled.

    Args:
        features, actions: decisions of all completions.
        completion: the completion that a decision belongs to, ascending; they are numbered through all prompts.
        rewards: where valid; completions whose reward is unknown are in no pair.
        valid: whether the reward is known.
    """
    prompts, group = rewards.shape
    best = np.where(valid, rewards, -np.inf).argmax(axis=1)
    worst = np.where(valid, rewards, np.inf).argmin(axis=1)
    rows = np.arange(prompts)
    told_apart = valid.any(axis=1) & (rewards[rows, best] > rewards[rows, worst])
    sign = np.zeros((prompts, group), np.float32)
    sign[rows[told_apart], best[told_apart]] = 1.0
    sign[rows[told_apart], worst[told_apart]] = -1.0
    kept = np.flatnonzero(sign.reshape(-1)[completion])
    pair = completion[kept] // group
    place = np.arange(len(kept)) - np.searchsorted(pair, pair)
    size = 1 << int(place.max(initial=0)).bit_length()

    def per_pair(values: np.ndarray) -> jax.Array:
        array = np.zeros((prompts, size, *values.shape[1:]), values.dtype)
        array[pair, place] = values
        return jnp.asarray(array)

    return Preferences(
        features=per_pair(features[kept]),
        actions=per_pair(actions[kept].astype(np.int32)),
        sign=per_pair(sign.reshape(-1)[completion[kept]]),
        weight=jnp.asarray(told_apart, jnp.float32),
    )


def lpo_loss(
    params: nnx.State, policy: LearntPolicy, batch: Preferences, beta: float, axis: str | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """-log sigmoid(beta (log pi(c) - log ref(c) - log pi(r) + log ref(r))), the mean over pairs.

    The log-probability of a completion is the sum over its decisions; ref is uniform. Source: arXiv 2411.09661, eq. 3.

    Returns:
        The loss, float32 scalar, and metrics: the share of pairs that are in order, the policy's mean entropy over decisions in
        nats, and its mean action probabilities [A]; where the batch is split over devices (see `guarded_update`), the part of
        this device's pairs in them.
    """
    chex.assert_rank([batch.features, batch.actions, batch.weight], [3, 2, 1])
    log_probability = jax.nn.log_softmax(policy.replace(params=params).logits(batch.features), axis=-1)
    probability = jnp.exp(log_probability)
    taken = jnp.take_along_axis(log_probability, batch.actions[:, :, None], axis=-1)[:, :, 0]
    margin = jnp.sum(batch.sign * (taken + jnp.log(jnp.float32(log_probability.shape[-1]))), axis=1)
    present = jnp.abs(batch.sign) * batch.weight[:, None]
    count, decisions = summed((jnp.sum(batch.weight), jnp.sum(present)), axis)
    count, decisions = jnp.maximum(count, 1.0), jnp.maximum(decisions, 1.0)
    loss = jnp.sum(batch.weight * jax.nn.softplus(-beta * margin)) / count
    metrics = {
        "in_order": jnp.sum(jnp.where(margin > 0, batch.weight, 0.0)) / count,
        "policy_entropy": -jnp.sum(present * jnp.sum(probability * log_probability, axis=-1)) / decisions,
        "action_probabilities": jnp.sum(present[:, :, None] * probability, axis=(0, 1)) / decisions,
    }
    return loss, metrics


@functools.partial(jax.jit, static_argnames=("beta", "optimizer", "epochs", "axis"))
def lpo_update(
    policy: LearntPolicy,
    opt_state: optax.OptState,
    batch: Preferences,
    *,
    beta: float,
    optimizer: optax.GradientTransformation,
    epochs: int = 1,
    axis: str | None = None,
) -> tuple[LearntPolicy, optax.OptState, dict[str, jax.Array]]:
    """One update of `epochs` steps towards the preferred completions (see `guarded_update`), with the metrics of `lpo_loss`."""

    def loss_of(params: nnx.State) -> tuple[jax.Array, dict[str, jax.Array]]:
        return lpo_loss(params, policy, batch, beta, axis)

    return guarded_update(loss_of, policy, opt_state, jnp.sum(batch.weight), optimizer, epochs, axis)

"""The sampling kernel: logits and per-row sampling parameters to tokens, without sorting the vocabulary.

Shapes: B rows, V vocabulary, W window.
"""

import jax
import jax.numpy as jnp
from jax import lax

from adaptive_jax.decoding.params import SamplingParams

WINDOW = 128


@jax.jit
def probabilities(logits: jax.Array, params: SamplingParams) -> jax.Array:
    """The exact distribution that `sample` draws from.

    Args:
        logits: float32 or bfloat16 [B, V]; -inf bars a token.
        params: scalars or arrays [B].

    Returns:
        float32 [B, V]; rows sum to 1. Greedy rows are one-hot.
    """
    logits = logits.astype(jnp.float32)
    params = params.broadcast(logits.shape[0])
    weights = _weights(logits, params)
    first = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
    return jnp.where(params.temperature[:, None] > 0, weights / weights.sum(axis=-1, keepdims=True), first)


@jax.jit
def sample(keys: jax.Array, logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Draws one token per row.

    Args:
        keys: typed PRNG keys [B]; a row's token depends on its own key, logits and parameters only.
        logits: float32 or bfloat16 [B, V]; -inf bars a token.
        params: scalars or arrays [B].

    Returns:
        int32 [B].
    """
    return draw(jax.vmap(jax.random.uniform)(keys), logits, params.broadcast(logits.shape[0]))


def draw(uniform: jax.Array, logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Draws one token per row by inverting its cumulative distribution at `uniform`.

    Args:
        uniform: float32 [B] in [0, 1).
        logits: float32 or bfloat16 [B, V].
        params: arrays [B].

    Returns:
        int32 [B].
    """
    weights = _weights(logits.astype(jnp.float32), params)
    target = jnp.where(params.temperature > 0, uniform, 0.0) * weights.sum(axis=-1)
    return _invert(weights, target)


def summary(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Entropy in nats (float32 [B]) and largest probability (float32 [B]) of softmax(logits), logits [B, V]."""
    logits = logits.astype(jnp.float32)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(shifted)
    total = weights.sum(axis=-1)
    moment = jnp.where(weights > 0, weights * shifted, 0.0).sum(axis=-1)
    return jnp.log(total) - moment / total, 1.0 / total


def _invert(weights: jax.Array, target: jax.Array) -> jax.Array:
    """Index per row at which the cumulative sum of weights [B, N] passes target [B]; its weight is never 0."""
    reached = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    last = reached.max(axis=-1, keepdims=True)
    return jnp.argmax((reached > target[:, None]) | (reached == last), axis=-1).astype(jnp.int32)


def _weights(logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Unnormalised probabilities [B, V] after every filter."""
    maximum = logits.max(axis=-1)
    temperature = jnp.maximum(params.temperature, jnp.finfo(jnp.float32).tiny)
    weights = jnp.exp((logits - maximum[:, None]) / temperature[:, None])
    ones = jnp.ones_like(logits)
    k = jnp.where(params.top_k > 0, jnp.minimum(params.top_k, logits.shape[-1]), logits.shape[-1])
    top_k = _threshold(logits, ones, k.astype(jnp.float32))
    weights = jnp.where(logits >= top_k[:, None], weights, 0.0)
    mass = jnp.where(params.top_p < 1, params.top_p, jnp.inf) * weights.sum(axis=-1)
    top_p = _threshold(logits, weights, mass)
    min_p = maximum + temperature * jnp.log(jnp.maximum(params.min_p, 1e-26))
    threshold = jnp.maximum(top_p, min_p)[:, None]
    return jnp.where(logits >= threshold, weights, 0.0)


def _threshold(logits: jax.Array, weights: jax.Array, target: jax.Array) -> jax.Array:
    """Smallest logit per row above which less than `target` weight lies, by bisection: float32 [B]."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)
        above = jnp.where(logits > _unordered(middle)[:, None], weights, 0.0).sum(axis=-1)
        enough = above < target
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = jnp.full_like(target, -jnp.inf)
    _, high = lax.fori_loop(0, 32, halve, (_ordered(low), _ordered(logits.max(axis=-1))))
    return _unordered(high)


def _ordered(x: jax.Array) -> jax.Array:
    """float32 to int32 of the same order."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _unordered(x: jax.Array) -> jax.Array:
    """Inverse of `_ordered`."""
    return lax.bitcast_convert_type(x ^ ((x >> 31) & 0x7FFFFFFF), jnp.float32)

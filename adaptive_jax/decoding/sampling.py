"""The sampling kernel: logits and per-row sampling parameters in, one token per row out.

A token's weight is exp((logit - largest logit) / temperature), in [0, 1], computed in float32; equal weights are ties.
Every filter is then one cut per row: a token survives if its weight is above it.

- Min-p is a cut already. For top-k and top-p it is the highest cut above which k tokens, or the mass top_p, still lie.
  Bisection over the bit patterns of float32 finds it, one pass over a row's weights per step; only rows with such a
  filter are searched, a group that fits into a CPU's caches at a time, so a batch without them pays nothing.
- A token is drawn by inverting the cumulative distribution, in token order, with one uniform number per row: first
  over the sums of blocks, then inside the chosen block.

So there is no sort of the vocabulary, no random number per token, and one compile for all settings, every parameter
being traced.

Axes: rows of a batch or of a group of it, vocab, padded (the vocabulary up to a multiple of BLOCK; weight 0 behind it), blocks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped

from adaptive_jax.decoding.params import SamplingParams

BLOCK = 128
LANES = 16  # tokens of a block that are added side by side
GROUP_BYTES = 2**21  # weights of the rows that are searched together on a CPU
FLOOR = 1e-26  # weights up to here count as 0: only rounding could draw them, and probabilities stay normal numbers


def probabilities(logits: Float[Array, "rows vocab"], params: SamplingParams) -> Float32[Array, "rows vocab"]:
    """The exact distribution that `sample` draws from.

    Exact up to float32: a token whose cumulative mass is within rounding (about 1e-6) of top_p may fall on either side.

    Args:
        logits: float32 or bfloat16; -inf bars a token; at least one logit of every row is finite.
        params: scalars or arrays of the rows.

    Returns:
        Each row has sum 1; one-hot for greedy rows.

    Raises:
        ValueError: a parameter's shape is neither () nor (B,).
    """
    return _probabilities(logits, params.broadcast(logits.shape[0]))


def sample(keys: Key[Array, " rows"], logits: Float[Array, "rows vocab"], params: SamplingParams) -> Int32[Array, " rows"]:
    """Draws one token per row.

    Args:
        keys: typed PRNG keys; a row's token depends on its own key, logits and parameters, on nothing else.
        logits: float32 or bfloat16; -inf bars a token; at least one logit of every row is finite.
        params: scalars or arrays of the rows.

    Raises:
        ValueError: a parameter's shape is neither () nor (B,).
    """
    return draw(jax.vmap(jax.random.uniform)(keys), logits, params.broadcast(logits.shape[0]))


@jax.jit
def draw(uniform: Float32[Array, " rows"], logits: Float[Array, "rows vocab"], params: SamplingParams) -> Int32[Array, " rows"]:
    """The tokens at which the cumulative distributions pass `uniform`: `sample`, given its random numbers.

    Args:
        uniform: in [0, 1).
        logits: float32 or bfloat16.
        params: arrays of the rows.
    """
    return _draw(_padded(logits), uniform, params)[0]


@jax.jit
def draw_scored(
    uniform: Float32[Array, " rows"],
    logits: Float[Array, "rows vocab"],
    params: SamplingParams,
    top_probability: Float32[Array, " rows"],
) -> tuple[Int32[Array, " rows"], Float32[Array, " rows"], Float32[Array, " rows"]]:
    """`draw`, and the log-probabilities of the tokens that it draws.

    Args:
        uniform, logits, params: as for `draw`.
        top_probability: of softmax(logits); see `summary`.

    Returns:
        token: what `draw` gives.
        logprob: in nats, of the distribution drawn from (`probabilities`); 0 in greedy rows.
        model_logprob: in nats, of softmax(logits).
    """
    logits = _padded(logits)
    token, scale, mass = _draw(logits, uniform, params)
    below = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - scale.largest
    drawn = below * scale.rate - jnp.log(mass)
    return token, jnp.where(params.temperature > 0, drawn, 0.0), below + jnp.log(top_probability)


def _draw(
    logits: Float32[Array, "rows padded"], uniform: Float32[Array, " rows"], params: SamplingParams
) -> tuple[Int32[Array, " rows"], "_Scale", Float32[Array, " rows"]]:
    """Tokens from padded logits, the scale of their weights, and the sum of the weights that the filters leave."""
    scale = _scale(logits, params.temperature)
    cut = _cut(logits, scale, params)

    def kept(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = _weights(part, scale)
        return weights > _beside(cut, part), weights

    sums = _block_sums(logits, kept)
    # jax.random.uniform gives multiples of 2^-23; their midpoints keep 0 from favouring whatever token comes first.
    # In greedy rows only the largest logits have a weight, and 0 finds the first of them.
    mass = sums.sum(axis=-1)
    target = jnp.where(params.temperature > 0, (uniform + 2.0**-24) * mass, 0.0)
    block, rest = _invert(sums, target)
    keep, weights = kept(jax.vmap(lambda row, index: row[index])(_blocks(logits), block))
    token, _ = _invert(jnp.where(keep, weights, 0.0), rest)
    return block * BLOCK + token, scale, mass


@jax.jit
def summary(logits: Float[Array, "rows vocab"]) -> tuple[Float32[Array, " rows"], Float32[Array, " rows"]]:
    """Entropy (nats) and largest probability of softmax(logits), before temperature and filters.

    The entropy is NaN where a logit is NaN or infinity, or all of them are -infinity, and nowhere else.
    """
    logits = _padded(logits)
    scale = _scale(logits, jnp.ones(logits.shape[:1], jnp.float32))

    def total(term: Callable[[jax.Array], jax.Array], largest: jax.Array) -> jax.Array:
        def terms(part: jax.Array) -> tuple[jax.Array, jax.Array]:
            shifted = part - _beside(largest, part)
            return shifted > math.log(FLOOR), term(shifted)

        return _block_sums(logits, terms).sum(axis=-1)

    mass = total(jnp.exp, scale.largest)
    # The barrier has exp computed twice: cheaper than to write it out for both sums.
    moment = total(lambda x: x * jnp.exp(x), lax.optimization_barrier(scale.largest))
    return jnp.log(mass) - moment / mass, 1.0 / mass


def entropy_after(logits: Float[Array, "rows vocab"], params: SamplingParams) -> Float32[Array, " rows"]:
    """Entropy of `probabilities`, the distribution after temperature and filters, in nats; 0 in greedy rows."""
    chances = probabilities(logits, params)
    return -jax.scipy.special.xlogy(chances, chances).sum(axis=-1)


@jax.jit
def _probabilities(logits: Float[Array, "rows vocab"], params: SamplingParams) -> Float32[Array, "rows vocab"]:
    """`probabilities` for params of arrays of the rows."""
    vocabulary = logits.shape[-1]
    padded = _padded(logits)
    scale = _scale(padded, params.temperature)
    weights = _weights(padded, scale)
    kept = jnp.where(weights > _cut(padded, scale, params)[:, None], weights, 0.0)[:, :vocabulary]
    greedy = jax.nn.one_hot(jnp.argmax(logits, axis=-1), vocabulary, dtype=jnp.float32)
    return jnp.where(params.temperature[:, None] > 0, kept / kept.sum(axis=-1, keepdims=True), greedy)


class _Scale(NamedTuple):
    """What turns a row's logits into weights.

    Attributes:
        largest: the largest logit.
        rate: 1 / temperature; huge where the temperature is 0, so that the largest logits alone remain.
    """

    largest: Float32[Array, " rows"]
    rate: Float32[Array, " rows"]


def _scale(logits: Float32[Array, "rows padded"], temperature: Float32[Array, " rows"]) -> _Scale:
    return _Scale(logits.max(axis=-1), 1.0 / jnp.maximum(temperature, jnp.finfo(jnp.float32).tiny))


def _weights(logits: Float32[Array, " rows *others"], scale: _Scale) -> Float32[Array, " rows *others"]:
    """Weights in [0, 1]."""
    return jnp.exp((logits - _beside(scale.largest, logits)) * _beside(scale.rate, logits))


def _cut(logits: Float32[Array, "rows padded"], scale: _Scale, params: SamplingParams) -> Float32[Array, " rows"]:
    """The weight above which a token survives every filter of its row."""
    cut = jnp.full(scale.rate.shape, FLOOR, jnp.float32)
    drawn = params.temperature > 0
    cut = _search(logits, scale, cut, params.top_k.astype(jnp.float32), drawn & (params.top_k > 0), counting=True)
    cut = _search(logits, scale, cut, params.top_p, drawn & (params.top_p < 1), counting=False)
    below_min_p = _float(_bits(params.min_p) - 1)  # the next smaller number: weights equal to min_p survive
    return jnp.where(params.min_p > 0, jnp.maximum(cut, below_min_p), cut)


def _search(
    logits: Float32[Array, "rows padded"],
    scale: _Scale,
    cut: Float32[Array, " rows"],
    goal: Float32[Array, " rows"],
    active: Bool[Array, " rows"],
    *,
    counting: bool,
) -> Float32[Array, " rows"]:
    """The cuts, raised in the active rows as far as `goal` allows.

    Args:
        goal: what has to stay above the cut: a number of tokens (`counting`), or a share of the mass
            that is above the cut now.
    """
    rows, width = logits.shape
    group = max(GROUP_BYTES // (4 * width), 1) if jax.default_backend() == "cpu" else rows
    if group >= rows:  # no gathering, which would move rows between devices where the batch is sharded
        return lax.cond(active.any(), lambda: _bisect(_weights(logits, scale), cut, goal, active, counting), lambda: cut)
    count = active.sum()
    order = jnp.sort(jnp.where(active, jnp.arange(rows, dtype=jnp.int32), rows))  # the active rows, then no rows
    order = jnp.pad(order, (0, group), constant_values=rows)

    def search_group(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, cut = state
        index = lax.dynamic_slice_in_dim(order, start, group)
        logits_, scale_, cut_, goal_ = jax.tree.map(lambda x: x.at[index].get(mode="clip"), (logits, scale, cut, goal))
        raised = _bisect(_weights(logits_, scale_), cut_, goal_, index < rows, counting)
        return start + group, cut.at[index].set(raised, mode="drop")

    return lax.while_loop(lambda state: state[0] < count, search_group, (jnp.int32(0), cut))[1]


class _Bracket(NamedTuple):
    """Where a cut lies: above(low) reaches the target and above(high) does not. `low == high` once it is found.

    Attributes:
        low, high: bit patterns of weights; those of positive numbers are ordered as the numbers are.
        above_low, above_high: the tokens or the mass above the two (bounds of them at the start).
        probe: the weight to look at next. Kept here because XLA would compute it anew for each element.
    """

    low: Int32[Array, " rows"]
    high: Int32[Array, " rows"]
    above_low: Float32[Array, " rows"]
    above_high: Float32[Array, " rows"]
    probe: Float32[Array, " rows"]


def _bisect(
    weights: Float32[Array, "rows padded"],
    cut: Float32[Array, " rows"],
    goal: Float32[Array, " rows"],
    active: Bool[Array, " rows"],
    counting: bool,
) -> Float32[Array, " rows"]:
    """`_search` among weights."""

    def above(cut: jax.Array) -> jax.Array:
        return _block_sums(weights, lambda w: (w > _beside(cut, w), jnp.ones_like(w) if counting else w)).sum(axis=-1)

    total = above(cut)
    target = goal if counting else goal * total

    def bracket(low: jax.Array, high: jax.Array, above_low: jax.Array, above_high: jax.Array) -> _Bracket:
        # Between low and high a weight is at least low, so less than twice that is a single token: nothing to split.
        least = 1.0 if counting else _float(low)
        found = (above_low - above_high < 1.5 * least) | (high - low <= 1)
        high = jnp.where(found, low, high)
        return _Bracket(low, high, above_low, above_high, _float(low + ((high - low) >> 1)))

    def halve(state: _Bracket) -> _Bracket:
        mass, probe = above(state.probe), _bits(state.probe)
        enough = mass >= target
        return bracket(
            low=jnp.where(enough, probe, state.low),
            high=jnp.where(enough, state.high, probe),
            above_low=jnp.where(enough, mass, state.above_low),
            above_high=jnp.where(enough, state.above_high, mass),
        )

    active = active & (total >= target)
    # The tokens that are lighter than this are, all together, at most half of what may go.
    low = cut if counting else jnp.where(active, jnp.maximum(cut, 0.5 * (total - target) / weights.shape[-1]), cut)
    start = bracket(_bits(low), _bits(jnp.where(active, 1.0, low)), total, jnp.zeros_like(total))
    return _float(lax.while_loop(lambda state: (state.high > state.low).any(), halve, start).low)


def _block_sums(
    x: Float32[Array, "rows padded"], terms: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
) -> Float32[Array, "rows blocks"]:
    """Sums over the blocks of x.

    Args:
        terms: from a part of x, LANES of each block, to which of its elements count, and what they add.
    """
    blocks = _blocks(x)
    sums = jnp.zeros((*blocks.shape[:-1], LANES), jnp.float32)
    for start in range(0, BLOCK, LANES):
        # Not jnp.where(keep, term, 0).sum(): XLA's CPU backend would write out the terms before it adds them up.
        keep, term = terms(blocks[..., start : start + LANES])
        sums = jnp.where(keep, sums + term, sums)
    return sums.sum(axis=-1)


def _invert(
    weights: Float32[Array, "rows places"], target: Float32[Array, " rows"]
) -> tuple[Int32[Array, " rows"], Float32[Array, " rows"]]:
    """The index at which the running sum of weights passes the target, and what is left of target there.

    The index has a positive weight, even where rounding keeps the running sum short of target.
    """
    running = jnp.cumsum(weights, axis=-1)
    reached = jnp.where(weights > 0, running, 0.0)
    passed = (reached > target[:, None]) | (reached == reached.max(axis=-1, keepdims=True))
    index = jnp.argmax(passed, axis=-1).astype(jnp.int32)
    before = jnp.take_along_axis(running - weights, index[:, None], axis=-1)[:, 0]
    return index, target - before


def _padded(logits: Float[Array, "rows vocab"]) -> Float32[Array, "rows padded"]:
    """Logits with -inf behind them, up to a multiple of BLOCK."""
    return jnp.pad(logits.astype(jnp.float32), ((0, 0), (0, -logits.shape[-1] % BLOCK)), constant_values=-jnp.inf)


def _blocks(x: Float32[Array, "rows padded"]) -> Float32[Array, "rows blocks block"]:
    """Rows cut into blocks."""
    return x.reshape(x.shape[0], -1, BLOCK)


def _beside(per_row: Shaped[Array, " rows"], x: Shaped[Array, " rows *others"]) -> Shaped[Array, " rows *ones"]:
    """Values with axes of size 1 appended, to go with x."""
    return per_row.reshape(-1, *(1,) * (x.ndim - 1))


def _bits(x: Float32[Array, " rows"]) -> Int32[Array, " rows"]:
    """The bit pattern of float32 as int32."""
    return lax.bitcast_convert_type(x, jnp.int32)


def _float(bits: Int32[Array, " rows"]) -> Float32[Array, " rows"]:
    """The float32 of a bit pattern."""
    return lax.bitcast_convert_type(bits, jnp.float32)

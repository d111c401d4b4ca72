"""A decoder whose completions end where a script says, so that two ways of decoding do the same ragged work.

Everything is computed as it would be otherwise; only the stop token's logit is overwritten. The loop does not know the script.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adaptive_jax.lm.decoder import Decoder, Prefill, Prefixes


@struct.dataclass
class ScriptedDecoder:
    """`Decoder` around another one.

    The first token of a prompt is its line in the script. A channel behind the hidden state says whether the token that it
    predicts is the last one.

    Attributes:
        inner: the language model.
        lengths: int32 [N], new tokens of each prompt's completions, the stop token included.
        stop_id: the stop token (static); never drawn anywhere else.
    """

    inner: Decoder
    lengths: jax.Array
    stop_id: int = struct.field(pytree_node=False)

    @property
    def reach(self) -> int | None:
        return self.inner.reach

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> Prefill:
        return self._scripted(self.inner.prefill(tokens, lengths), _first(tokens, lengths), lengths)

    def prefix(self, tokens: jax.Array, lengths: jax.Array) -> Prefixes:
        inner = self.inner.prefix(tokens, lengths)
        return Prefixes(cache=(inner, _first(tokens, lengths)), hidden=inner.hidden, lengths=lengths)

    def prefill_after(
        self, prefixes: Prefixes, source: jax.Array, tokens: jax.Array, lengths: jax.Array, columns: int
    ) -> Prefill:
        prefix, first = prefixes.cache
        own = _first(tokens, jnp.minimum(lengths, tokens.shape[1]))
        inner = self.inner.prefill_after(prefix, source, tokens, lengths, columns)
        return self._scripted(inner, jnp.where(lengths > tokens.shape[1], first[source], own), lengths)

    def _scripted(self, inner: Prefill, first: jax.Array, lengths: jax.Array) -> Prefill:
        end = lengths + jnp.take(self.lengths, first)
        return Prefill(cache=(inner.cache, end), last=_with(inner.last, lengths == end - 1), mean=_with(inner.mean, end < 0))

    def empty_cache(self, rows: int, size: int) -> tuple:
        return self.inner.empty_cache(rows, size), jnp.zeros((rows,), jnp.int32)

    def insert(self, cache: tuple, prompts: tuple, source: jax.Array, cursor: jax.Array) -> tuple:
        end = jnp.where(source >= 0, prompts[1][source], cache[1])
        return self.inner.insert(cache[0], prompts[0], source, cursor), end

    def move(self, cache: tuple, cursor: jax.Array, target: tuple, target_cursor: jax.Array, source: jax.Array) -> tuple:
        end = jnp.where(source >= 0, cache[1][source], target[1])
        return self.inner.move(cache[0], cursor, target[0], target_cursor, source), end

    def step(
        self, caches: tuple, tokens: jax.Array, positions: jax.Array, columns: tuple, visible: tuple
    ) -> tuple[jax.Array, tuple]:
        inner, ends = zip(*caches, strict=True)
        hidden, inner = self.inner.step(inner, tokens, positions, columns, visible)
        return _with(hidden, positions + 1 == jnp.concatenate(ends) - 1), tuple(zip(inner, ends, strict=True))

    def logits(self, hidden: jax.Array) -> jax.Array:
        # without the barrier XLA's CPU backend computes the LM head inside a fusion, ten times slower
        logits = self.inner.logits(jax.lax.optimization_barrier(hidden[:, :-1]))
        stop = jnp.arange(logits.shape[1], dtype=jnp.int32)[None] == self.stop_id
        return jnp.where(stop, jnp.where(hidden[:, -1:] > 0, 1e9, -1e9), logits)


@struct.dataclass
class BlankDecoder:
    """`Decoder` that computes nothing: for the loop's own schedule at lengths that no model here could be waited for.

    Its vocabulary is {0, 1}; with `ScriptedDecoder` around it, 1 is the stop token.
    """

    reach = None

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> Prefill:
        blank = jnp.zeros((len(tokens), 1))
        return Prefill(cache=(), last=blank, mean=blank)

    def prefix(self, tokens: jax.Array, lengths: jax.Array) -> Prefixes:
        return Prefixes(cache=(), hidden=jnp.zeros((*tokens.shape, 1)), lengths=lengths)

    def prefill_after(
        self, prefixes: Prefixes, source: jax.Array, tokens: jax.Array, lengths: jax.Array, columns: int
    ) -> Prefill:
        return self.prefill(tokens, lengths)

    def empty_cache(self, rows: int, size: int) -> tuple:
        return ()

    def insert(self, cache: tuple, prompts: tuple, source: jax.Array, cursor: jax.Array) -> tuple:
        return ()

    def move(self, cache: tuple, cursor: jax.Array, target: tuple, target_cursor: jax.Array, source: jax.Array) -> tuple:
        return ()

    def step(
        self, caches: tuple, tokens: jax.Array, positions: jax.Array, columns: tuple, visible: tuple
    ) -> tuple[jax.Array, tuple]:
        return jnp.zeros((len(tokens), 1)), caches

    def logits(self, hidden: jax.Array) -> jax.Array:
        return jnp.zeros((len(hidden), 2))


def _first(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """int32 [N], the first of int32 [N] tokens that are right-aligned in int32 [N, P]."""
    return jnp.take_along_axis(tokens, (tokens.shape[1] - lengths)[:, None], axis=1)[:, 0]


def _with(hidden: jax.Array, flag: jax.Array) -> jax.Array:
    """A channel more: [N, D] and bool [N] -> [N, D + 1]."""
    return jnp.concatenate([hidden, flag[:, None].astype(hidden.dtype)], axis=1)


def long_tail(count: int, mean: int, longest: int, seed: int = 0) -> np.ndarray:
    """int32 [count] lengths with the given mean, log-normal (sigma 1.2) and cut off at `longest`, as completions are at a
    token budget; all equal where mean and longest are."""
    if mean == longest:
        return np.full(count, mean, np.int32)
    normal = np.random.default_rng(seed).normal(size=count)
    low, high = 0.0, float(np.log(longest))
    for _ in range(60):  # the median for which what is left of the tail has the mean
        middle = (low + high) / 2
        mean_here = np.clip(np.exp(middle + 1.2 * normal), 1, longest).mean()
        low, high = (middle, high) if mean_here < mean else (low, middle)
    return np.clip(np.exp(low + 1.2 * normal).round(), 1, longest).astype(np.int32)

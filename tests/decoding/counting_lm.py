"""A language model whose right answer is known in closed form: what comes next depends on the sum of all tokens so far.

Its cache holds the tokens themselves, so a wrong mask, a prompt at the wrong columns or another row's leftovers change the sum.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from adaptive_jax.lm.decoder import Prefill, Prefixes

VOCABULARY = 11


@struct.dataclass
class CountingLM:
    """Decoder over VOCABULARY tokens: logits are `table[sum of the row's tokens and of their positions, mod VOCABULARY]`.

    Attributes:
        table: float32 [VOCABULARY, VOCABULARY].
    """

    table: jax.Array

    reach = None

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> Prefill:
        places = _places(tokens.shape[1], lengths)
        entries = jnp.where(places >= 0, tokens + places, 99)  # padding is poison, should a mask let it through
        last = self._hidden(jnp.sum(jnp.where(places >= 0, entries, 0), axis=1))
        return Prefill(cache=entries, last=last, mean=last + 1000.0 * lengths[:, None].astype(jnp.float32))

    def prefix(self, tokens: jax.Array, lengths: jax.Array) -> Prefixes:
        return Prefixes(cache=tokens, hidden=jnp.zeros((*tokens.shape, 2)), lengths=lengths)

    def prefill_after(
        self, prefixes: Prefixes, source: jax.Array, tokens: jax.Array, lengths: jax.Array, columns: int
    ) -> Prefill:
        """The prompts put together again, token by token; what no part of them tells is poison."""
        width, places = tokens.shape[1], _places(columns, lengths)
        before = prefixes.cache.shape[1] - prefixes.lengths[source][:, None] + places
        known = (source >= 0)[:, None] & (places < prefixes.lengths[source][:, None])
        first = jnp.take_along_axis(prefixes.cache[source], jnp.clip(before, 0, prefixes.cache.shape[1] - 1), axis=1)
        own = jnp.concatenate([jnp.full((len(tokens), columns - width), 55, jnp.int32), tokens], axis=1)
        in_window = jnp.arange(columns) >= columns - width
        return self.prefill(jnp.where(in_window, own, jnp.where(known, first, 55)), lengths)

    def empty_cache(self, rows: int, size: int) -> jax.Array:
        return jnp.full((rows, size), 77, jnp.int32)

    def insert(self, cache: jax.Array, prompts: jax.Array, source: jax.Array, cursor: jax.Array) -> jax.Array:
        width = prompts.shape[1]
        columns = jnp.mod(cursor - width + jnp.arange(width), cache.shape[1])
        fresh = cache.at[:, columns].set(prompts[jnp.maximum(source, 0)])
        return jnp.where((source >= 0)[:, None], fresh, cache)

    def move(
        self, cache: jax.Array, cursor: jax.Array, target: jax.Array, target_cursor: jax.Array, source: jax.Array
    ) -> jax.Array:
        return self.insert(target, jnp.roll(cache, -cursor, 1), source, target_cursor)

    def step(
        self, caches: tuple, tokens: jax.Array, positions: jax.Array, columns: tuple, visible: tuple
    ) -> tuple[jax.Array, tuple]:
        hidden, written, start = [], [], 0
        for cache, column, seen in zip(caches, columns, visible, strict=True):
            own = slice(start, start := start + len(cache))
            cache = jax.lax.dynamic_update_slice_in_dim(cache, (tokens[own] + positions[own])[:, None], column, 1)
            hidden.append(self._hidden(jnp.sum(jnp.where(seen, cache, 0), axis=1)))
            written.append(cache)
        return jnp.concatenate(hidden), tuple(written)

    def logits(self, hidden: jax.Array) -> jax.Array:
        return jnp.take(self.table, hidden[:, 0].astype(jnp.int32), axis=0)

    def _hidden(self, total: jax.Array) -> jax.Array:
        state = jnp.mod(total, VOCABULARY).astype(jnp.float32)
        return jnp.stack([state, state * state], axis=1)


def _places(columns: int, lengths: jax.Array) -> jax.Array:
    return jnp.arange(columns)[None] - (columns - lengths)[:, None]


def successor_table(sharpness: float) -> np.ndarray:
    """Logits that favour token (3 s + 1) mod VOCABULARY in state s, by `sharpness`; the rest are a fixed pattern."""
    states = np.arange(VOCABULARY)
    table = np.cos(states[:, None] * 1.7 + states[None, :] * 0.9).astype(np.float32)
    table[states, (3 * states + 1) % VOCABULARY] += sharpness
    return table


def greedy_completion(prompt: Sequence[int], budget: int, stop: int) -> list[int]:
    """What greedy decoding must give for a sharp `successor_table`, by plain arithmetic."""
    entries = [token + place for place, token in enumerate(prompt)]
    completion: list[int] = []
    while len(completion) < budget:
        token = (3 * (sum(entries) % VOCABULARY) + 1) % VOCABULARY
        completion.append(token)
        if token == stop:
            break
        entries.append(token + len(entries))
    return completion

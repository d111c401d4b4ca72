"""What the decoding loop asks of a language model, and the transformer's answer to it.

A decoder is a pytree: its parameters are leaves and travel as arguments of jitted functions, everything else is static.
Tests pass a decoder whose right answer is known in closed form.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.sharding import Mesh

from adaptive_jax.lm.sharding import gathered, split_cache, whole
from adaptive_jax.lm.transformer import KVCache, Transformer


@struct.dataclass
class Prefill:
    """Prompts that were computed once and may be given to many rows.

    Attributes:
        cache: the decoder's own structure; prompts are right-aligned in it, so that the last token's entry comes last.
        last: [N, D] hidden state that predicts each prompt's first new token.
        mean: [N, D] mean hidden state over each prompt's tokens.
    """

    cache: Any
    last: jax.Array
    mean: jax.Array


@struct.dataclass
class Prefixes:
    """Beginnings of prompts, each of which was computed once for all prompts that start with it.

    Attributes:
        cache: the decoder's own structure for G prefixes, right-aligned as in a `Prefill`.
        hidden: [G, P, D], hidden states of their tokens, right-aligned too.
        lengths: int32 [G], tokens of each.
    """

    cache: Any
    hidden: jax.Array
    lengths: jax.Array


class Decoder(Protocol):
    """A frozen language model as the loop sees it. Every method is pure and may be traced."""

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> Prefill:
        """Compute prompts: int32 [N, P], right-aligned, of int32 [N] tokens each (at least 1)."""
        ...

    def prefix(self, tokens: jax.Array, lengths: jax.Array) -> Prefixes:
        """Compute what prompts start with: int32 [G, P], right-aligned, of int32 [G] tokens each (at least 1)."""
        ...

    def prefill_after(
        self, prefixes: Prefixes, source: jax.Array, tokens: jax.Array, lengths: jax.Array, columns: int
    ) -> Prefill:
        """`prefill` of prompts of which a part is computed already.

        Args:
            prefixes: as `prefix` made them.
            source: int32 [N], which of them each prompt starts with; -1 for none.
            tokens: int32 [N, T], the last T tokens of each prompt, right-aligned; at least those behind its prefix.
            lengths: int32 [N], tokens of each whole prompt.
            columns: of the result's cache; at least T and as many as the longest prompt has tokens.
        """
        ...

    def empty_cache(self, rows: int, size: int) -> Any:
        """A cache for `rows` rows, used as a ring of `size` columns."""
        ...

    def insert(self, cache: Any, prompts: Any, source: jax.Array, cursor: jax.Array) -> Any:
        """Write prompts just behind the cursor.

        Args:
            cache: as `empty_cache` made it.
            prompts: a `Prefill.cache` of width P.
            source: int32 [rows], which prompt each row gets; -1 leaves a row as it is.
            cursor: int32 scalar, the next column to be written. Columns [cursor - P, cursor), modulo the ring's
                size, are replaced in the rows that get a prompt.
        """
        ...

    def suspend(self, cache: Any, swap: Any, place: jax.Array, cursor: jax.Array) -> Any:
        """Copy rows out of a ring, so that `insert` can bring them back as it brings prompts.

        Args:
            cache: a ring of S columns.
            swap: as `empty_cache` made it, of W <= S columns; a row's last W columns are kept, the newest one last.
            place: int32 [rows], the swap space's row that each row is copied to; -1 for none.
            cursor: int32 scalar, the ring's next column to be written.

        Returns:
            The swap space.
        """
        ...

    def step(
        self, cache: Any, tokens: jax.Array, positions: jax.Array, column: jax.Array, visible: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Feed one token per row.

        Args:
            tokens, positions: int32 [B].
            column: int32 scalar, the ring column that this token's entry is written to, in all rows.
            visible: bool [B, S], the columns that belong to each row, this token's included.

        Returns:
            hidden [B, D], which predicts each row's next token, and the cache.
        """
        ...

    def logits(self, hidden: jax.Array) -> jax.Array:
        """LM head: hidden [B, D] -> float32 [B, V]."""
        ...


@struct.dataclass
class TransformerDecoder:
    """`Decoder` over a `Transformer` and its key/value cache.

    Attributes:
        params: the transformer's parameters.
        graphdef: the rest of it (static).
        mesh: over whose axis "model" the parameters are split, and so the caches are; None if they are on one device (static).
        tokens: bool [V], the ids that the tokenizer has; the others, which pad a vocabulary, are never drawn. None for all.
    """

    params: nnx.State
    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)
    tokens: jax.Array | None = None

    @property
    def model(self) -> Transformer:
        """The module, parameters in place."""
        return nnx.merge(self.graphdef, self.params)

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> Prefill:
        places = _places(tokens.shape[1], lengths)
        hidden, cache = self.model(tokens, jnp.maximum(places, 0), _causal(places, tokens.shape[1]))
        return self._prefilled(hidden, cache, lengths)

    def prefix(self, tokens: jax.Array, lengths: jax.Array) -> Prefixes:
        places = _places(tokens.shape[1], lengths)
        hidden, cache = self.model(tokens, jnp.maximum(places, 0), _causal(places, tokens.shape[1]))
        return Prefixes(split_cache(cache, self.mesh), whole(hidden, self.mesh), lengths)

    def prefill_after(
        self, prefixes: Prefixes, source: jax.Array, tokens: jax.Array, lengths: jax.Array, columns: int
    ) -> Prefill:
        # Rows whose own part is shorter than others' compute the last tokens of their prefix once more, where there would be
        # padding otherwise: so one block of columns is written in all rows.
        width = tokens.shape[1]
        places = _places(columns, lengths)
        own = jnp.maximum(source, 0)
        start = prefixes.hidden.shape[1] + lengths - prefixes.lengths[own]

        def before(stored: jax.Array, axis: int) -> jax.Array:
            """The first `columns - width` columns of each row: its prefix, moved to where its own part follows."""
            room = [(columns, columns) if dim == axis else (0, 0) for dim in range(stored.ndim)]
            padded = jnp.pad(stored, room)
            cut = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(padded[row], at, columns - width, axis - 1))
            return cut(own, start)

        def around(stored: jax.Array, axis: int) -> jax.Array:
            """The same, with room for `width` columns behind it."""
            return jnp.pad(before(stored, axis), [(0, width if dim == axis else 0) for dim in range(stored.ndim)])

        cache = KVCache(
            keys=tuple(around(stored, 3) for stored in prefixes.cache.keys),
            values=tuple(around(stored, 2) for stored in prefixes.cache.values),
        )
        positions = jnp.maximum(places[:, columns - width :], 0)
        hidden, cache = self.model(tokens, positions, _causal(places, width), split_cache(cache, self.mesh), columns - width)
        return self._prefilled(jnp.concatenate([before(prefixes.hidden, 1), hidden], axis=1), cache, lengths)

    def _prefilled(self, hidden: jax.Array, cache: KVCache, lengths: jax.Array) -> Prefill:
        """What prompts are: hidden states [N, P, D] and cache of all their tokens, right-aligned."""
        real = _places(hidden.shape[1], lengths) >= 0
        weight = (real.astype(jnp.float32) / lengths[:, None].astype(jnp.float32))[:, :, None]
        mean = jnp.sum(hidden.astype(jnp.float32) * weight, axis=1).astype(hidden.dtype)
        return Prefill(split_cache(cache, self.mesh), whole(hidden[:, -1], self.mesh), whole(mean, self.mesh))

    def empty_cache(self, rows: int, size: int) -> KVCache:
        model = self.model
        return split_cache(KVCache.zeros(model.config, rows, size, model.embedding[...].dtype), self.mesh)

    def insert(self, cache: KVCache, prompts: KVCache, source: jax.Array, cursor: jax.Array) -> KVCache:
        # row by row: only what is written is touched, in place (a masked write of all rows copies the ring)
        receiving = source >= 0
        rows = jnp.nonzero(receiving, size=source.shape[0], fill_value=0)[0].astype(jnp.int32)
        wraps = cursor < prompts.values[0].shape[2]

        def insert_all(cache: KVCache, write: Callable[..., jax.Array], applies: jax.Array) -> KVCache:
            def insert_one(index: jax.Array, cache: KVCache) -> KVCache:
                row = rows[index]

                def one(axis: int, ring: jax.Array, prompts: jax.Array) -> jax.Array:
                    return write(ring, jax.lax.dynamic_slice_in_dim(prompts, source[row], 1, 0), row, cursor, axis)

                keys = [one(3, ring, given) for ring, given in zip(cache.keys, prompts.keys, strict=True)]
                values = [one(2, ring, given) for ring, given in zip(cache.values, prompts.values, strict=True)]
                return KVCache(keys=tuple(keys), values=tuple(values))

            return jax.lax.fori_loop(0, jnp.where(applies, jnp.sum(receiving), 0), insert_one, cache)

        # of two loops one has nothing to do; XLA's CPU backend copies what is given to a branch of `lax.cond`
        cache = insert_all(insert_all(cache, _write_around, wraps), _write_straight, ~wraps)
        return split_cache(cache, self.mesh)

    def suspend(self, cache: KVCache, swap: KVCache, place: jax.Array, cursor: jax.Array) -> KVCache:
        rows = jnp.nonzero(place >= 0, size=place.shape[0], fill_value=0)[0]

        def suspend_one(index: jax.Array, swap: KVCache) -> KVCache:
            row = rows[index]

            def copy(axis: int, ring: jax.Array, swap: jax.Array) -> jax.Array:
                own = jnp.roll(jax.lax.dynamic_slice_in_dim(ring, row, 1, 0), -cursor, axis)
                newest = jax.lax.slice_in_dim(own, ring.shape[axis] - swap.shape[axis], None, axis=axis)
                return jax.lax.dynamic_update_slice_in_dim(swap, newest, place[row], 0)

            keys = [copy(3, ring, kept) for ring, kept in zip(cache.keys, swap.keys, strict=True)]
            values = [copy(2, ring, kept) for ring, kept in zip(cache.values, swap.values, strict=True)]
            return KVCache(keys=tuple(keys), values=tuple(values))

        return split_cache(jax.lax.fori_loop(0, jnp.sum(place >= 0), suspend_one, swap), self.mesh)

    def step(
        self, cache: KVCache, tokens: jax.Array, positions: jax.Array, column: jax.Array, visible: jax.Array
    ) -> tuple[jax.Array, KVCache]:
        hidden, cache = self.model(tokens[:, None], positions[:, None], visible[:, None], cache, column)
        return whole(hidden[:, 0], self.mesh), split_cache(cache, self.mesh)

    def logits(self, hidden: jax.Array) -> jax.Array:
        logits = gathered(self.model.logits(hidden), self.mesh)
        return logits if self.tokens is None else jnp.where(self.tokens, logits, -jnp.inf)


def _places(columns: int, lengths: jax.Array) -> jax.Array:
    """int32 [N, columns]: each column's place in a text of int32 [N] tokens that ends in the last one; negative before it."""
    return jnp.arange(columns, dtype=jnp.int32)[None] - (columns - lengths)[:, None]


def _causal(places: jax.Array, queries: int) -> jax.Array:
    """bool [N, queries, P]: what the last `queries` of P columns see, of those that hold a token."""
    columns = places.shape[1]
    causal = jnp.tril(jnp.ones((queries, columns), bool), columns - queries)
    return causal[None] & (places >= 0)[:, None, :]


def _write_straight(ring: jax.Array, prompt: jax.Array, row: jax.Array, cursor: jax.Array, axis: int) -> jax.Array:
    """Replace columns [cursor - P, cursor) of one row by a prompt [1, .., P, ..]; `axis` is that of the columns."""
    corner = [jnp.int32(0)] * ring.ndim
    corner[0], corner[axis] = row, cursor - prompt.shape[axis]
    return jax.lax.dynamic_update_slice(ring, prompt, corner)


def _write_around(ring: jax.Array, prompt: jax.Array, row: jax.Array, cursor: jax.Array, axis: int) -> jax.Array:
    """The same for cursor < P: the columns are the ring's first ones, and before those its last ones."""
    width, size = prompt.shape[axis], ring.shape[axis]
    # turned by the cursor, the prompt ends at the ring's start and begins in the ring's last P columns
    turned = jnp.roll(prompt, cursor, axis)
    front = jnp.arange(width).reshape([-1 if dim == axis else 1 for dim in range(ring.ndim)]) < cursor
    for start, mine in ((0, front), (size - width, ~front)):
        corner = [jnp.int32(0)] * ring.ndim
        corner[0], corner[axis] = row, jnp.int32(start)
        old = jax.lax.dynamic_slice(ring, corner, prompt.shape)
        ring = jax.lax.dynamic_update_slice(ring, jnp.where(mine, turned, old), corner)
    return ring

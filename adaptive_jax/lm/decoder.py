"""What the decoding loop asks of a language model, and the transformer's answer to it.

A decoder is a pytree: its parameters are leaves and travel as arguments of jitted functions, everything else is static.
Tests pass a decoder whose right answer is known in closed form.

Axes: rows of the ring; columns of a cache; prompts that are computed together, and tokens of them; starts, what prompts start
with in common; width of hidden states; vocab.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32, Shaped

from adaptive_jax.lm.sharding import gathered, split_cache, whole
from adaptive_jax.lm.transformer import KVCache, Ring, Transformer

Layer = Shaped[Array, "rows kv_heads *channels_and_columns"]


@struct.dataclass
class Prefill:
    """Prompts that were computed once and may be given to many rows.

    Attributes:
        cache: the decoder's own structure; prompts are right-aligned in it, so that the last token's entry comes last.
        last: hidden state that predicts each prompt's first new token.
        mean: mean hidden state over each prompt's tokens.
    """

    cache: Any
    last: Float[Array, "prompts width"]
    mean: Float[Array, "prompts width"]


@struct.dataclass
class Prefixes:
    """Beginnings of prompts, each of which was computed once for all prompts that start with it.

    Attributes:
        cache: the decoder's own structure, right-aligned as in a `Prefill`.
        hidden: hidden states of their tokens, right-aligned too.
        lengths: tokens of each.
    """

    cache: Any
    hidden: Float[Array, "starts tokens width"]
    lengths: Int32[Array, " starts"]


class Decoder(Protocol):
    """A frozen language model as the loop sees it. Every method is pure and may be traced."""

    @property
    def reach(self) -> int | None:
        """How many of a text's last tokens it looks at, the present one included: columns that a ring needs. None for all."""
        ...

    def prefill(self, tokens: Int32[Array, "prompts tokens"], lengths: Int32[Array, " prompts"]) -> Prefill:
        """Compute prompts, right-aligned, of `lengths` tokens each (at least 1)."""
        ...

    def prefix(self, tokens: Int32[Array, "starts tokens"], lengths: Int32[Array, " starts"]) -> Prefixes:
        """Compute what prompts start with, right-aligned, of `lengths` tokens each (at least 1)."""
        ...

    def prefill_after(
        self,
        prefixes: Prefixes,
        source: Int32[Array, " prompts"],
        tokens: Int32[Array, "prompts own"],
        lengths: Int32[Array, " prompts"],
        columns: int,
    ) -> Prefill:
        """`prefill` of prompts of which a part is computed already.

        Args:
            prefixes: as `prefix` made them.
            source: which of them each prompt starts with; -1 for none.
            tokens: the last tokens of each prompt, right-aligned; at least those behind its prefix.
            lengths: tokens of each whole prompt.
            columns: of the result's cache; at least those of `tokens` and as many as the longest prompt has tokens.
        """
        ...

    def empty_cache(self, rows: int, size: int) -> Any:
        """A cache for `rows` rows, used as a ring of `size` columns."""
        ...

    def insert(self, cache: Any, prompts: Any, source: Int32[Array, " rows"], cursor: Int32[Array, ""]) -> Any:
        """Write prompts just behind the cursor.

        Args:
            cache: as `empty_cache` made it.
            prompts: a `Prefill.cache` of P columns; of more than the ring has, the last ones are written.
            source: which prompt each row gets; -1 leaves a row as it is.
            cursor: the next column to be written. Columns [cursor - P, cursor), modulo the ring's size, are replaced in
                the rows that get a prompt.
        """
        ...

    def move(
        self,
        cache: Any,
        cursor: Int32[Array, ""],
        target: Any,
        target_cursor: Int32[Array, ""],
        source: Int32[Array, " target_rows"],
    ) -> Any:
        """Copy rows of one ring into another, as `insert` writes prompts.

        Args:
            cache: as `empty_cache` made it, of S columns.
            cursor: its next column to be written.
            target: a ring of at least S columns.
            target_cursor: the target's next column to be written. Columns [target_cursor - S, target_cursor), modulo its size,
                are replaced in the rows that get one; the newest entry comes last.
            source: the row that each row of the target gets; -1 leaves it as it is.

        Returns:
            The target.
        """
        ...

    def step(
        self,
        caches: tuple[Any, ...],
        tokens: Int32[Array, " rows"],
        positions: Int32[Array, " rows"],
        columns: tuple[Int32[Array, ""], ...],
        visible: tuple[Bool[Array, "_ _"], ...],
    ) -> tuple[Float[Array, "rows width"], tuple[Any, ...]]:
        """Feed one token per row, to rows of one ring or of several: the first ring's are the first ones, and so on.

        Args:
            caches: of the rings.
            tokens: ids.
            positions: each token's place in its own text, from 0.
            columns: the column of each ring that its rows' entries are written to.
            visible: of each ring, bool [its rows, its columns]: the columns that belong to each row, this token's included.

        Returns:
            Hidden states, which predict each row's next token, and the caches.
        """
        ...

    def logits(self, hidden: Float[Array, "rows width"]) -> Float32[Array, "rows vocab"]:
        """The LM head."""
        ...


@struct.dataclass
class TransformerDecoder:
    """`Decoder` over a `Transformer` and its key/value cache.

    Attributes:
        params: the transformer's parameters.
        graphdef: the rest of it (static).
        mesh: over whose axis "model" the parameters are split, and so the caches are; None if they are on one device (static).
        tokens: the ids that the tokenizer has; the others, which pad a vocabulary, are never drawn. None for all.
    """

    params: nnx.State
    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)
    tokens: Bool[Array, " vocab"] | None = None

    @property
    def model(self) -> Transformer:
        """The module, parameters in place."""
        return nnx.merge(self.graphdef, self.params)

    @property
    def reach(self) -> int | None:
        return self.model.config.reach

    def prefill(self, tokens: Int32[Array, "prompts tokens"], lengths: Int32[Array, " prompts"]) -> Prefill:
        places = _places(tokens.shape[1], lengths)
        hidden, cache = self.model(tokens, jnp.maximum(places, 0), _causal(places, tokens.shape[1]))
        return self._prefilled(hidden, cache, lengths)

    def prefix(self, tokens: Int32[Array, "starts tokens"], lengths: Int32[Array, " starts"]) -> Prefixes:
        places = _places(tokens.shape[1], lengths)
        hidden, cache = self.model(tokens, jnp.maximum(places, 0), _causal(places, tokens.shape[1]))
        return Prefixes(split_cache(cache, self.mesh), whole(hidden, self.mesh), lengths)

    def prefill_after(
        self,
        prefixes: Prefixes,
        source: Int32[Array, " prompts"],
        tokens: Int32[Array, "prompts own"],
        lengths: Int32[Array, " prompts"],
        columns: int,
    ) -> Prefill:
        before, hidden, cache = self._after(prefixes, source, tokens, lengths, columns)
        return self._prefilled(jnp.concatenate([before, hidden], axis=1), cache, lengths)

    def hidden_after(
        self,
        prefixes: Prefixes,
        source: Int32[Array, " texts"],
        tokens: Int32[Array, "texts own"],
        lengths: Int32[Array, " texts"],
        columns: int,
    ) -> Float[Array, "texts own width"]:
        """Hidden states of the last tokens of texts; arguments as for `prefill_after`."""
        _, hidden, _ = self._after(prefixes, source, tokens, lengths, columns)
        return whole(hidden, self.mesh)

    def _after(
        self,
        prefixes: Prefixes,
        source: Int32[Array, " prompts"],
        tokens: Int32[Array, "prompts own"],
        lengths: Int32[Array, " prompts"],
        columns: int,
    ) -> tuple[Float[Array, "prompts before width"], Float[Array, "prompts own width"], KVCache]:
        """Hidden states of the columns before the last T, of those, and the cache of all of them."""
        # Rows whose own part is shorter than others' compute the last tokens of their prefix once more, where there would be
        # padding otherwise: so one block of columns is written in all rows.
        width = tokens.shape[1]
        places = _places(columns, lengths)
        own = jnp.maximum(source, 0)
        start = prefixes.hidden.shape[1] + lengths - prefixes.lengths[own]

        def before(stored: Float[Array, "starts ..."], axis: int) -> Float[Array, "prompts ..."]:
            """The first `columns - width` columns of each row: its prefix, moved to where its own part follows."""
            room = [(columns, columns) if dim == axis else (0, 0) for dim in range(stored.ndim)]
            padded = jnp.pad(stored, room)
            cut = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(padded[row], at, columns - width, axis - 1))
            return cut(own, start)

        def around(stored: Float[Array, "starts ..."], axis: int) -> Float[Array, "prompts ..."]:
            """The same, with room for `width` columns behind it."""
            return jnp.pad(before(stored, axis), [(0, width if dim == axis else 0) for dim in range(stored.ndim)])

        cache = KVCache(
            keys=tuple(around(stored, 3) for stored in prefixes.cache.keys),
            values=tuple(around(stored, 2) for stored in prefixes.cache.values),
        )
        positions = jnp.maximum(places[:, columns - width :], 0)
        hidden, cache = self.model(tokens, positions, _causal(places, width), split_cache(cache, self.mesh), columns - width)
        return before(prefixes.hidden, 1), hidden, cache

    def _prefilled(
        self, hidden: Float[Array, "prompts tokens width"], cache: KVCache, lengths: Int32[Array, " prompts"]
    ) -> Prefill:
        """What prompts are: hidden states and cache of all their tokens, right-aligned."""
        real = _places(hidden.shape[1], lengths) >= 0
        weight = (real.astype(jnp.float32) / lengths[:, None].astype(jnp.float32))[:, :, None]
        mean = jnp.sum(hidden.astype(jnp.float32) * weight, axis=1).astype(hidden.dtype)
        return Prefill(split_cache(cache, self.mesh), whole(hidden[:, -1], self.mesh), whole(mean, self.mesh))

    def empty_cache(self, rows: int, size: int) -> KVCache:
        model = self.model
        return split_cache(KVCache.zeros(model.config, rows, size, model.embedding[...].dtype), self.mesh)

    def insert(self, cache: KVCache, prompts: KVCache, source: Int32[Array, " rows"], cursor: Int32[Array, ""]) -> KVCache:
        def prompt(row: Int32[Array, ""], axis: int, prompts: Shaped[Array, "prompts ..."]) -> Shaped[Array, "1 ..."]:
            return jax.lax.dynamic_slice_in_dim(prompts, row, 1, 0)

        size = cache.values[0].shape[2]
        if prompts.values[0].shape[2] > size:
            newest = (tuple(keys[..., -size:] for keys in prompts.keys), tuple(v[:, :, -size:] for v in prompts.values))
            prompts = KVCache(*newest)
        return split_cache(_insert(cache, cursor, prompts, prompt, source), self.mesh)

    def move(
        self,
        cache: KVCache,
        cursor: Int32[Array, ""],
        target: KVCache,
        target_cursor: Int32[Array, ""],
        source: Int32[Array, " target_rows"],
    ) -> KVCache:
        def entries(row: Int32[Array, ""], axis: int, ring: Shaped[Array, "rows ..."]) -> Shaped[Array, "1 ..."]:
            return jnp.roll(jax.lax.dynamic_slice_in_dim(ring, row, 1, 0), -cursor, axis)

        return split_cache(_insert(target, target_cursor, cache, entries, source), self.mesh)

    def step(
        self,
        caches: tuple[KVCache, ...],
        tokens: Int32[Array, " rows"],
        positions: Int32[Array, " rows"],
        columns: tuple[Int32[Array, ""], ...],
        visible: tuple[Bool[Array, "_ _"], ...],
    ) -> tuple[Float[Array, "rows width"], tuple[KVCache, ...]]:
        rings = [Ring(mask[:, None], cache, column) for mask, cache, column in zip(visible, caches, columns, strict=True)]
        hidden, caches = self.model.over_rings(tokens[:, None], positions[:, None], rings)
        return whole(hidden[:, 0], self.mesh), tuple(split_cache(cache, self.mesh) for cache in caches)

    def logits(self, hidden: Float[Array, "rows width"]) -> Float32[Array, "rows vocab"]:
        logits = gathered(self.model.logits(hidden), self.mesh)
        return logits if self.tokens is None else jnp.where(self.tokens, logits, -jnp.inf)


def _places(columns: int, lengths: Int32[Array, " prompts"]) -> Int32[Array, "prompts {columns}"]:
    """Each column's place in a text of so many tokens that ends in the last one; negative before it."""
    return jnp.arange(columns, dtype=jnp.int32)[None] - (columns - lengths)[:, None]


def _causal(places: Int32[Array, "prompts columns"], queries: int) -> Bool[Array, "prompts {queries} columns"]:
    """What the last `queries` columns see, of those that hold a token."""
    columns = places.shape[1]
    causal = jnp.tril(jnp.ones((queries, columns), bool), columns - queries)
    return causal[None] & (places >= 0)[:, None, :]


def _insert(
    target: KVCache, cursor: Int32[Array, ""], given: KVCache, entries: Callable[..., Layer], source: Int32[Array, " rows"]
) -> KVCache:
    """Write `entries(row, axis, array)`, of the arrays of `given`, behind the cursor; rows whose source is -1 get none.

    Row by row: only what is written is touched, in place (a masked write of all rows copies the ring).
    """
    receiving = source >= 0
    rows = jnp.nonzero(receiving, size=source.shape[0], fill_value=0)[0].astype(jnp.int32)
    wraps = cursor < given.values[0].shape[2]

    def insert_all(target: KVCache, write: Callable[..., Layer], applies: Bool[Array, ""]) -> KVCache:
        def insert_one(index: Int32[Array, ""], target: KVCache) -> KVCache:
            row = rows[index]

            def one(axis: int, ring: Layer, given: Shaped[Array, "given ..."]) -> Layer:
                return write(ring, entries(source[row], axis, given), row, cursor, axis)

            keys = [one(3, ring, own) for ring, own in zip(target.keys, given.keys, strict=True)]
            values = [one(2, ring, own) for ring, own in zip(target.values, given.values, strict=True)]
            return KVCache(keys=tuple(keys), values=tuple(values))

        return jax.lax.fori_loop(0, jnp.where(applies, jnp.sum(receiving), 0), insert_one, target)

    # of two loops one has nothing to do; XLA's CPU backend copies what is given to a branch of `lax.cond`
    return insert_all(insert_all(target, _write_around, wraps), _write_straight, ~wraps)


def _write_straight(
    ring: Layer, prompt: Shaped[Array, "1 kv_heads *prompt"], row: Int32[Array, ""], cursor: Int32[Array, ""], axis: int
) -> Layer:
    """Replace columns [cursor - P, cursor) of one row by a prompt of P columns; `axis` is that of the columns."""
    return jax.lax.dynamic_update_slice(ring, prompt, _corner(row, cursor - prompt.shape[axis], axis))


def _write_around(
    ring: Layer, prompt: Shaped[Array, "1 kv_heads *prompt"], row: Int32[Array, ""], cursor: Int32[Array, ""], axis: int
) -> Layer:
    """The same for cursor < P: the columns are the ring's first ones, and before those its last ones."""
    width, size = prompt.shape[axis], ring.shape[axis]
    # the ring's last P columns and its first P, with nothing else in them: with `jnp.roll`, an insert takes XLA's CPU backend
    # two to three times as long
    empty = jnp.zeros([2 * width if dim == axis else count for dim, count in enumerate(prompt.shape)], prompt.dtype)
    last, first = jnp.split(jax.lax.dynamic_update_slice(empty, prompt, _corner(jnp.int32(0), cursor, axis)), 2, axis)
    front = jnp.arange(width).reshape([-1 if dim == axis else 1 for dim in range(ring.ndim)]) < cursor
    for start, mine, new in ((0, front, first), (size - width, ~front, last)):
        corner = _corner(row, jnp.int32(start), axis)
        old = jax.lax.dynamic_slice(ring, corner, prompt.shape)
        ring = jax.lax.dynamic_update_slice(ring, jnp.where(mine, new, old), corner)
    return ring


def _corner(row: Int32[Array, ""], column: Int32[Array, ""], axis: int) -> list[Int32[Array, ""]]:
    """Where a part of one row of a layer's ring begins."""
    return [row if dim == 0 else column if dim == axis else jnp.int32(0) for dim in range(4)]

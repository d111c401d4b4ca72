"""What the rows of a ring carry from step to step, and how completions move from one ring into another."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int32, Key, Shaped

from adaptive_jax.lm.decoder import Decoder


class Shape(NamedTuple):
    """What a ring is compiled for."""

    rows: int  # of each replica
    size: int  # columns


@struct.dataclass
class DecodeState:
    """Everything the loop carries from step to step; where there are several replicas, they are an axis in front.

    Of a ring, or of several whose rows decode together (`joined`).

    Example with R = 2: row 0 has a 3-token prompt and has drawn 2 tokens, row 1 a 5-token prompt and none. The columns
    just behind the cursor are p p p t t for row 0 (length 5) and p p p p p for row 1 (length 5).

    Attributes:
        cache: the decoder's ring; a tuple of those of several.
        cursor: int32, the ring's column that the next token is written to, in all its rows; a tuple of those of several.
        hidden: predicts each row's next token.
        token: each row's last token.
        length: entries in the cache: prompt and new tokens.
        step: new tokens drawn, t.
        budget: most new tokens the completion may use, b.
        sequence_action: the action that the policy chose before the first token.
        completion: which one of the rollout the row works on.
        alive: the row's completion has not ended; what dead rows compute is thrown away.
        key: typed PRNG keys, one per completion.
    """

    cache: Any
    cursor: Any
    hidden: Float[Array, "*replicas rows width"]
    token: Int32[Array, "*replicas rows"]
    length: Int32[Array, "*replicas rows"]
    step: Int32[Array, "*replicas rows"]
    budget: Int32[Array, "*replicas rows"]
    sequence_action: Int32[Array, "*replicas rows"]
    completion: Int32[Array, "*replicas rows"]
    alive: Bool[Array, "*replicas rows"]
    key: Key[Array, "*replicas rows"]

    @property
    def remaining(self) -> Int32[Array, "*replicas rows"]:
        """Token budget left, b_t = b - t."""
        return self.budget - self.step


ROWS = [field.name for field in dataclasses.fields(DecodeState) if field.name not in ("cache", "cursor")]


def joined(states: Sequence[DecodeState]) -> DecodeState:
    """Rings as one state, the rows of the first one first."""
    rows = {name: jnp.concatenate([getattr(state, name) for state in states]) for name in ROWS}
    return DecodeState(cache=tuple(state.cache for state in states), cursor=tuple(state.cursor for state in states), **rows)


def parted(state: DecodeState, shapes: Sequence[Shape]) -> tuple[DecodeState, ...]:
    """The other way round; `shapes` are the rings'."""
    ends = itertools.accumulate(shape.rows for shape in shapes)
    return tuple(
        DecodeState(cache=cache, cursor=cursor, **{name: getattr(state, name)[end - shape.rows : end] for name in ROWS})
        for cache, cursor, shape, end in zip(state.cache, state.cursor, shapes, ends, strict=True)
    )


def visible(cursor: Int32[Array, ""], length: Int32[Array, " rows"], size: int) -> Bool[Array, "rows columns"]:
    """The columns, of `size`, that are a row's own, the one at the cursor included; `length` as in `DecodeState`."""
    behind = jnp.mod(cursor - jnp.arange(size, dtype=jnp.int32), size)
    return behind[None, :] <= length[:, None]


@functools.partial(jax.jit, static_argnames=("rows", "size"))
def empty_state(
    decoder: Decoder, key: Key[Array, ""], hidden: Float[Array, "*others width"], *, rows: int, size: int
) -> DecodeState:
    """A state of dead rows over a ring of `size` columns; `key` is any typed key, `hidden` gives width and dtype.

    Jitted so that every field owns its buffer: the state is donated, and a buffer can be donated once.
    """
    zeros = jnp.zeros((rows,), jnp.int32)
    return DecodeState(
        cache=decoder.empty_cache(rows, size),
        cursor=jnp.zeros((), jnp.int32),
        hidden=jnp.zeros((rows, hidden.shape[-1]), hidden.dtype),
        token=zeros,
        length=zeros,
        step=zeros,
        budget=zeros,
        sequence_action=zeros,
        completion=zeros,
        alive=jnp.zeros((rows,), bool),
        key=jnp.broadcast_to(key, (rows,)),
    )


@functools.partial(jax.jit, donate_argnames=("state", "target"))
def move(
    decoder: Decoder, state: DecodeState, target: DecodeState, source: Int32[Array, " rows"]
) -> tuple[DecodeState, DecodeState]:
    """Completions go on in rows of another ring, which has at least as many columns; their old rows are dead then.

    Args:
        source: for each row of the target, the row whose completion it gets; -1 for none.
    """
    received = source >= 0
    row = jnp.maximum(source, 0)

    def choose(old: jax.Array, own: jax.Array) -> jax.Array:
        return chosen(received, jnp.take(own, row, axis=0), old)

    left = jnp.where(received, source, len(state.alive))
    moved = DecodeState(
        cache=decoder.move(state.cache, state.cursor, target.cache, target.cursor, source),
        cursor=target.cursor,
        hidden=choose(target.hidden, state.hidden),
        token=choose(target.token, state.token),
        length=choose(target.length, state.length),
        step=choose(target.step, state.step),
        budget=choose(target.budget, state.budget),
        sequence_action=choose(target.sequence_action, state.sequence_action),
        completion=choose(target.completion, state.completion),
        alive=choose(target.alive, state.alive),
        key=choose(target.key, state.key),
    )
    return dataclasses.replace(state, alive=state.alive.at[left].set(False, mode="drop")), moved


def chosen(
    received: Bool[Array, " rows"], fresh: Shaped[Array, "rows ..."], old: Shaped[Array, "rows ..."]
) -> Shaped[Array, "rows ..."]:
    """The fresh of rows that received a completion, and the old of the others."""
    return jnp.where(received.reshape((-1,) + (1,) * (old.ndim - 1)), fresh, old)

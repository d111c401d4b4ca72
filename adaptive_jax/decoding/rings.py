"""Rings of cache columns: how long each is, how many rows it has, and which completion each row works on.

Attention costs by the column, and most completions are much shorter than the longest. So a rollout has several rings, each one
at least half as long again as the one before it. The longer it is, the fewer are the completions, and the rows, that it gets.
Where all layers of a model look at a text's last tokens only, rings are no longer than that, and what is older is overwritten.
"""

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from adaptive_jax.decoding.prefixes import BUCKET, prefill_width
from adaptive_jax.decoding.rows import DecodeState, Shape, empty_state
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.parallel import Replicas

GROWTH = 1.5  # columns of a ring over those of the one before it
SHORT_SHARE = 32  # the shortest ring leaves a completion at least this part of the longest budget,
COMMON_SHARE = 4  # it is no longer than this part of the longest budget needs
SHORT_BUDGET = 64  # and at least so many tokens: with fewer, attention is too small a part of a step
ROWS_SHARE = 3  # none but the shortest has more columns than this part of what all rows would have in the longest
FEW_ROWS = 16  # fewer rows are not worth a ring, or a compilation, of their own: a step would cost hardly less
TOGETHER = 512  # rings of up to so many columns decode together: what all rows share is a larger part of a step than attention
ALMOST = 8  # a ring that decodes with another one may have this part of its rows free


def round_up(count: int) -> int:
    """Columns of a ring for `count` entries."""
    return -(-count // BUCKET) * BUCKET


def ring_shapes(longest: int, budget: int, chunk: int, rows: int, reach: int | None = None) -> list[Shape]:
    """The rings of a rollout: the first holds every prompt and has all rows, the last holds the longest completion.

    Of both, what is within the model's reach.

    Args:
        longest: tokens of the longest prompt.
        budget: the largest one.
        chunk: steps between two looks of the host.
        rows: of each replica.
        reach: how many of a text's last tokens the model looks at; None for all.
    """
    width = prefill_width(longest)
    sizes = [round_up(width + budget if reach is None else min(width + budget, reach))]
    least = min(round_up(width + max(budget // SHORT_SHARE, SHORT_BUDGET, chunk)), sizes[0])
    # what outgrows a ring within a chunk has to find room in the next one
    while (shorter := int(sizes[0] / GROWTH) // BUCKET * BUCKET) >= least and sizes[0] - shorter >= chunk:
        sizes.insert(0, shorter)
    if len(sizes) > 1:
        sizes[0] = max(min(sizes[0], round_up(width + budget // COMMON_SHARE)), least)
    most = [rows * sizes[-1] // (ROWS_SHARE * size) // 8 * 8 for size in sizes]
    return [
        Shape(rows, sizes[0]),
        *(Shape(min(rows, max(FEW_ROWS, m)), size) for m, size in zip(most[1:], sizes[1:], strict=True)),
    ]


class Ring:
    """Rows that decode side by side.

    Args:
        replicas: where they are; each has the shape's rows.
        hidden: in each replica, of the width and dtype of hidden states.

    Attributes:
        state: the loop's.
        completion: the one that each row works on, as far as the host has looked; -1 for none.
    """

    state: DecodeState
    completion: Int[np.ndarray, " rows"]

    def __init__(
        self, decoder: Decoder, replicas: Replicas, key: Key[Array, ""], hidden: Float[Array, "*others width"], shape: Shape
    ):
        self.shape, self._replicas = shape, replicas
        self.completion = np.full(shape.rows * replicas.count, -1)
        self.state = replicas.call(empty_state, (decoder, key), (hidden,), rows=shape.rows, size=shape.size)

    @property
    def busy(self) -> Bool[np.ndarray, " rows"]:
        """The rows that work."""
        return self.completion >= 0

    def per_replica(self, rows: Int[np.ndarray, " some"]) -> list[Int[np.ndarray, " _"]]:
        """Of some rows, in order, those of each replica."""
        return [rows[rows // self.shape.rows == replica] for replica in range(self._replicas.count)]

    @property
    def free(self) -> Int[np.ndarray, " replicas"]:
        """How many rows of each replica work on nothing."""
        return np.sum(~self.busy.reshape(self._replicas.count, -1), axis=1)

    def look(self) -> None:
        """See which completions the rows work on now."""
        alive, completion = map(self._replicas.join, (self.state.alive, self.state.completion))
        self.completion = np.where(alive, completion, -1)

"""Completions that wait for a row: those of prompts that were prefilled together, and suspended ones on a shelf."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.prompt import Prompt, problem_digest
from adaptive_jax.decoding.trajectory import TrajectoryBuilder
from adaptive_jax.lm.decoder import Decoder, Prefill

BUCKET = 32  # ring sizes are rounded up to it, prompt widths to it times a power of two, so that few shapes are compiled


def round_up(count: int) -> int:
    """Columns of a ring for `count` entries."""
    return -(-count // BUCKET) * BUCKET


def prefill_width(count: int) -> int:
    """Columns of a prefill for prompts of up to `count` tokens."""
    return BUCKET << max(-(-count // BUCKET) - 1, 0).bit_length()


@dataclass(frozen=True)
class Batch:
    """Completions that lie in one `Prefill`.

    Attributes:
        completions: int [M], their numbers.
        places: int [M], where each lies in the prefill; completions of one prompt share a place.
        prefill: their entries.
        prompt_tokens: tokens that were computed for it.
    """

    completions: np.ndarray
    places: np.ndarray
    prefill: Prefill
    prompt_tokens: int = 0

    def split(self, count: int) -> tuple["Batch", "Batch"]:
        """The first `count` completions, and the others."""
        first = Batch(self.completions[:count], self.places[:count], self.prefill)
        return first, Batch(self.completions[count:], self.places[count:], self.prefill)


def waves(decoder: Decoder, prompts: Sequence[Prompt], completions: int, width: int) -> Iterator[Batch]:
    """Prefill the prompts, up to `width` at a time: only those that are about to start occupy memory.

    Long budgets come first, so that what is left when no completion waits any more is short; then prompts of like length
    together.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-prompts[i].budget, len(prompts[i].tokens)))
    width = min(width, len(prompts))
    for start in range(0, len(order), width):
        members = order[start : start + width]
        columns = prefill_width(max(len(prompts[i].tokens) for i in members))
        tokens = np.zeros((width, columns), np.int32)
        lengths = np.ones(width, np.int32)  # rows that pad the last wave are one-token prompts that nobody reads
        for row, index in enumerate(members):
            ids = prompts[index].tokens
            tokens[row, columns - len(ids) :] = ids
            lengths[row] = len(ids)
        yield Batch(
            completions=(np.array(members)[:, None] * completions + np.arange(completions)).reshape(-1),
            places=np.repeat(np.arange(len(members)), completions),
            prefill=loop.prefill(decoder, jnp.asarray(tokens), jnp.asarray(lengths)),
            prompt_tokens=sum(len(prompts[i].tokens) for i in members),
        )


class Shelf:
    """Room for suspended completions.

    Args:
        places, width: how many completions, and how many entries of each.
        hidden: [.., D], of the width and dtype of hidden states.
    """

    def __init__(self, decoder: Decoder, hidden: jax.Array, places: int, width: int):
        self._prefill = loop.empty_shelf(decoder, hidden, places=places, width=width)
        self._completions = np.zeros(0, np.int64)
        self._places = places

    @property
    def count(self) -> int:
        """How many completions are on it."""
        return len(self._completions)

    @property
    def room(self) -> int:
        """For how many more there is room."""
        return self._places - self.count

    def add(self, decoder: Decoder, state: loop.DecodeState, rows: np.ndarray, completions: np.ndarray) -> loop.DecodeState:
        """Suspend the completions of rows int [M]; returns the state without them. The one given is donated."""
        place = np.full(len(state.alive), -1, np.int32)
        place[rows] = self.count + np.arange(len(rows))
        self._completions = np.concatenate([self._completions, completions])
        state, self._prefill = loop.suspend(decoder, state, self._prefill, jnp.asarray(place))
        return state

    def batch(self) -> Batch:
        """What is on it; nothing may be added any more."""
        return Batch(self._completions, np.arange(self.count), self._prefill)


class Admissions:
    """What `loop.admit` is told of completions, at their start or when they go on.

    Args:
        prompts: N / G of them; completion n is number n % G of prompt n // G.
        completions: G.
        key: the rollout's.
    """

    def __init__(self, prompts: Sequence[Prompt], completions: int, key: jax.Array):
        digests = np.repeat(np.stack([problem_digest(p.id) for p in prompts]), completions, axis=0)
        first = np.repeat([p.first_completion for p in prompts], completions)
        self._index = (first + np.tile(np.arange(completions), len(prompts))).astype(np.int32)
        self._keys = loop.completion_keys(key, jnp.asarray(digests), jnp.asarray(self._index))
        self._last = np.repeat([p.tokens[-1] for p in prompts], completions)
        self._samples = completions
        self.prompt_lengths = np.repeat([len(p.tokens) for p in prompts], completions)
        self.budgets = np.repeat(np.array([p.budget for p in prompts], np.int32), completions)
        self._held = np.full(len(self._index), -1, np.int32)

    def remember(self, completions: np.ndarray, held: np.ndarray) -> None:
        """Completions int [M] are suspended, and hold these actions, int [M]."""
        self._held[completions] = held

    def of(self, batch: Batch, rows: np.ndarray, count: int, harvest: TrajectoryBuilder) -> loop.Admission:
        """The completions of a batch, [M], for the rows int [M] of `count`; `harvest` knows what they have drawn."""
        own = batch.completions
        step = harvest.lengths[own]

        def per_row(values: np.ndarray, elsewhere: int = 0) -> jax.Array:
            array = np.full(count, elsewhere, np.int32)
            array[rows] = values
            return jnp.asarray(array)

        return loop.Admission(
            source=per_row(batch.places, -1),
            token=per_row(np.where(step > 0, harvest.last_tokens(own), self._last[own])),
            length=per_row(self.prompt_lengths[own] + step),
            step=per_row(step),
            held=per_row(self._held[own]),
            completion=per_row(self._index[own]),
            budget=per_row(self.budgets[own]),
            samples=jnp.full((count,), self._samples, jnp.int32),
            key=self._keys[per_row(own)],
        )

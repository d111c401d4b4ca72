"""Completions that wait for a row: those of prompts that were prefilled together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Key

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt, problem_digest
from adaptive_jax.lm.decoder import Decoder, Prefill
from adaptive_jax.parallel import Replicas


@dataclass(frozen=True)
class Batch:
    """Completions that lie in one `Prefill`; each can only be given a row of the replica that it lies in.

    Attributes:
        completions: their numbers.
        replicas: the replica that each lies in.
        places: where in the replica's prefill; a replica's completions of one prompt share a place.
        prefill: their entries, on the devices of the replicas.
        prompt_tokens: tokens that were computed for it.
    """

    completions: Int[np.ndarray, " completions"]
    replicas: Int[np.ndarray, " completions"]
    places: Int[np.ndarray, " completions"]
    prefill: Prefill
    prompt_tokens: int = 0

    def take(self, free: Sequence[Int[np.ndarray, " _"]]) -> tuple["Batch", Int[np.ndarray, " taken"], "Batch"]:
        """The first completions for which a row is free, a row for each, and the other completions.

        Args:
            free: for each replica, its free rows.
        """
        rows = np.full(len(self.completions), -1)
        for replica, its_rows in enumerate(free):
            own = np.flatnonzero(self.replicas == replica)[: len(its_rows)]
            rows[own] = its_rows[: len(own)]
        return self._only(rows >= 0), rows[rows >= 0], self._only(rows < 0)

    def per_replica(self, count: int) -> Int[np.ndarray, " replicas"]:
        """How many of the completions are in each of `count` replicas."""
        return np.bincount(self.replicas, minlength=count)

    def _only(self, members: Bool[np.ndarray, " completions"]) -> "Batch":
        return Batch(self.completions[members], self.replicas[members], self.places[members], self.prefill)


def prefill_batches(
    decoder: Decoder,
    replicas: Replicas,
    prompts: Sequence[Prompt],
    completions: int,
    width: int,
    prefixes: SharedPrefixes,
) -> Iterator[Batch]:
    """Prefill the prompts, up to `width` at a time in each replica: only those that are about to start occupy memory.

    Long budgets come first, so that what is left when no completion waits any more is short; then prompts of like length
    together. A batch's prompts go round the replicas; where there are fewer of them than replicas, each is in several, with a
    part of its completions. What a prompt shares with others is taken from `prefixes` where that leaves fewer columns.
    """
    own = [prefixes.own(prompt.tokens) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (-prompts[i].budget, own[i]))
    parts = np.array_split(np.arange(completions), max(min(replicas.count // len(prompts), completions), 1))
    pieces = [(index, index * completions + part) for index in order for part in parts]
    width = min(width, -(-len(pieces) // replicas.count))
    count = replicas.count * width
    for start in range(0, len(pieces), count):
        members, owned = zip(*pieces[start : start + count], strict=True)
        replica, place = np.arange(len(members)) % replicas.count, np.arange(len(members)) // replicas.count
        padded = prefixes.padded([prompts[i].tokens for i in members], (replica * width + place).tolist(), count)
        prompt_tokens = sum(len(prompts[i].tokens) for i in members)
        if padded.whole:
            prefill = replicas.call(loop.prefill, (decoder,), (replicas.split(padded.tokens), replicas.split(padded.lengths)))
        else:
            before = prefixes.prompt_tokens
            computed = prefixes.computed()
            prompt_tokens = sum(own[i] for i in members) + prefixes.prompt_tokens - before
            split = computed, *map(replicas.split, (padded.source, padded.tokens, padded.lengths))
            prefill = replicas.call(loop.prefill_after, (decoder,), split, columns=padded.columns)
        yield Batch(
            completions=np.concatenate(owned),
            replicas=np.repeat(replica, [len(part) for part in owned]),
            places=np.repeat(place, [len(part) for part in owned]),
            prefill=prefill,
            prompt_tokens=prompt_tokens,
        )


class Admissions:
    """What `loop.admit` is told of completions.

    Args:
        replicas: where the rows are.
        prompts: N / G of them; completion n is number n % G of prompt n // G.
        completions: G.
        key: the rollout's.
    """

    def __init__(self, replicas: Replicas, prompts: Sequence[Prompt], completions: int, key: Key[Array, ""]):
        self._replicas = replicas
        digests = np.repeat(np.stack([problem_digest(p.id) for p in prompts]), completions, axis=0)
        first = np.repeat([p.first_completion for p in prompts], completions)
        self._index = (first + np.tile(np.arange(completions), len(prompts))).astype(np.int32)
        self._keys = np.asarray(jax.random.key_data(loop.completion_keys(key, jnp.asarray(digests), jnp.asarray(self._index))))
        self._last = np.repeat([p.tokens[-1] for p in prompts], completions)
        self._samples = completions
        self.prompt_lengths = np.repeat([len(p.tokens) for p in prompts], completions)
        self.budgets = np.repeat(np.array([p.budget for p in prompts], np.int32), completions)

    def of(self, batch: Batch, rows: Int[np.ndarray, " taken"], count: int) -> loop.Admission:
        """The completions of a batch for some of `count` rows, one each."""
        own = batch.completions

        def per_row(values: Int[np.ndarray, " taken"], elsewhere: int = 0) -> Int32[np.ndarray, " rows"]:
            array = np.full(count, elsewhere, np.int32)
            array[rows] = values
            return array

        admission = loop.Admission(
            source=per_row(batch.places, -1),
            token=per_row(self._last[own]),
            length=per_row(self.prompt_lengths[own]),
            completion=per_row(self._index[own]),
            budget=per_row(self.budgets[own]),
            samples=per_row(np.full(len(own), self._samples), 1),
            key=self._keys[per_row(own)],
        )
        return self._replicas.split(admission)

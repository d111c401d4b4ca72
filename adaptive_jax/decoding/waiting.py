"""Completions that wait for a row: prompts are prefilled together, and come into the queue that the loop takes them from."""

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Key

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.chance import completion_keys
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes, prefill_width
from adaptive_jax.decoding.prompt import Prompt, problem_digest
from adaptive_jax.decoding.queue import Entries, Queue, Waiting, empty_queue, enqueue
from adaptive_jax.decoding.rows import Shape
from adaptive_jax.lm.decoder import Decoder, Prefill
from adaptive_jax.parallel import Replicas

DEPTH = 2  # batches in a queue: while rows take the completions of one, there is room for the next
SHARE = 4  # a queue has at most this part of the columns that the shortest ring has,
WIDE = 1024  # or, where that is more, this many in a batch: prefills of fewer tokens use the processor badly
ENTRIES = 64  # completions of a batch that there is room for in any queue: some bytes each


@dataclass(frozen=True)
class Batch:
    """Completions that lie in one `Prefill`; each can only be given a row of the replica that it lies in.

    Attributes:
        completions: their numbers.
        replicas: the replica that each lies in.
        places: where in the replica's prefill; a replica's completions of one prompt share a place.
        prefill: their entries, on the devices of the replicas.
        capacity: most completions that one of the batches has in a replica.
        prompt_tokens: tokens that were computed for it.
    """

    completions: Int[np.ndarray, " completions"]
    replicas: Int[np.ndarray, " completions"]
    places: Int[np.ndarray, " completions"]
    prefill: Prefill
    capacity: int
    prompt_tokens: int


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
            call = functools.partial(replicas.call, loop.prefill, (decoder,))
            arrays: tuple[Any, ...] = (replicas.split(padded.tokens), replicas.split(padded.lengths))
        else:
            before = prefixes.prompt_tokens
            computed = prefixes.computed()
            prompt_tokens = sum(own[i] for i in members) + prefixes.prompt_tokens - before
            arrays = computed, *map(replicas.split, (padded.source, padded.tokens, padded.lengths))
            call = functools.partial(replicas.call, loop.prefill_after, (decoder,), columns=padded.columns)
        yield Batch(
            completions=np.concatenate(owned),
            replicas=np.repeat(replica, [len(part) for part in owned]),
            places=np.repeat(place, [len(part) for part in owned]),
            prefill=call(arrays),  # not kept here: it is large
            capacity=width * len(parts[0]),
            prompt_tokens=prompt_tokens,
        )


def queue_shape(ring: Shape, longest: int) -> Shape:
    """Prompts that a queue beside a shortest ring has room for, and columns of each, for prompts of up to `longest` tokens.

    A batch has a prompt for each row at most, and one at least.
    """
    columns = min(prefill_width(longest), ring.size)
    batch = max(ring.rows * ring.size // (SHARE * DEPTH), WIDE) // columns
    return Shape(DEPTH * min(max(batch, 1), ring.rows), columns)


class Line:
    """The host's side of a `Queue`: prefills what comes next, and knows who waits in it.

    Args:
        decoder: the language model.
        policy: begins the completions.
        replicas: where they are.
        prompts: N / G of them; completion n is number n % G of prompt n // G.
        completions: G.
        key: the rollout's.
        ring: the shortest one, which completions begin in.
        longest: tokens of the longest prompt.
        prefixes: what prompts start with.

    Attributes:
        prompt_lengths: tokens of each completion's prompt.
        budgets: token budgets.
        hidden: a replica's part is a model for the shape of hidden states.
        queued: completions in each replica's queue.
        later: those in none yet.
        prompt_tokens: computed so far.
    """

    def __init__(
        self,
        decoder: Decoder,
        policy: Policy,
        replicas: Replicas,
        prompts: Sequence[Prompt],
        completions: int,
        key: Key[Array, ""],
        ring: Shape,
        longest: int,
        prefixes: SharedPrefixes,
    ):
        self._decoder, self._policy, self._replicas, self._samples = decoder, policy, replicas, completions
        digests = np.repeat(np.stack([problem_digest(p.id) for p in prompts]), completions, axis=0)
        first = np.repeat([p.first_completion for p in prompts], completions)
        self._index = (first + np.tile(np.arange(completions), len(prompts))).astype(np.int32)
        self._keys = np.asarray(jax.random.key_data(completion_keys(key, jnp.asarray(digests), jnp.asarray(self._index))))
        self._last = np.repeat([p.tokens[-1] for p in prompts], completions)
        self.prompt_lengths = np.repeat([len(p.tokens) for p in prompts], completions)
        self.budgets = np.repeat(np.array([p.budget for p in prompts], np.int32), completions)
        self._prompts, columns = queue_shape(ring, longest)
        width = min(max(ring.rows // completions, 1), self._prompts // DEPTH)
        self._batches = prefill_batches(decoder, replicas, prompts, completions, width, prefixes)
        first_batch = next(self._batches)
        self._first: Batch | None = first_batch
        # whatever is asked, mostly: each size of the queue is one more compilation of the loop
        self._entries = DEPTH * max(ring.rows, first_batch.capacity, ENTRIES)
        self.prompt_tokens, self.later = 0, len(self.budgets)
        self.hidden = first_batch.prefill.last[..., :1, :]
        self._given, self._taken = 0, np.zeros(replicas.count, np.int64)  # batches and completions
        self._ends: deque[np.ndarray] = deque()  # of the queue's batches: how many completions came before their ends
        sizes = {"prompts": self._prompts, "columns": columns, "entries": self._entries}
        self.queue: Queue = replicas.call(empty_queue, (decoder, key), (self.hidden,), **sizes)

    @property
    def queued(self) -> Int[np.ndarray, " replicas"]:
        return self._ends[-1] - self._taken if self._ends else np.zeros_like(self._taken)

    def waiting(self) -> Waiting:
        """For the loop."""
        own = self._taken % self._entries, self.queued, np.full_like(self._taken, self.later // self._replicas.count)
        return Waiting(*map(self._per_replica, own))

    def nobody(self) -> Waiting:
        """For rings that completions come to one by one, out of another ring."""
        return Waiting(*[self._per_replica(np.zeros_like(self._taken))] * 3)

    def left(self, waiting: Waiting) -> None:
        """What the loop has left of `waiting`."""
        self.took(self.queued - np.asarray(waiting.queued).reshape(-1))

    def took(self, counts: Int[np.ndarray, " replicas"]) -> None:
        """So many completions got rows."""
        self._taken = self._taken + counts
        while self._ends and (self._taken >= self._ends[0]).all():
            self._ends.popleft()

    def fill(self) -> None:
        """Prefill batches, and bring them into the queue, as many as there is room for."""
        while len(self._ends) < DEPTH and self._bring_next():
            pass

    def _bring_next(self) -> bool:
        """Prefill a batch, and bring it into the queue; False if there is none. What it was prefilled into is let go."""
        batch, self._first = self._first or next(self._batches, None), None
        if batch is None:
            return False
        count = self._replicas.count
        added = np.bincount(batch.replicas, minlength=count)
        end = self._taken + self.queued
        shared = self._decoder, self._policy, np.int32(self._given % DEPTH * self._prompts // DEPTH)
        split = self.queue, batch.prefill, self._entries_of(batch, end % self._entries, added)
        self.queue = self._replicas.call(enqueue, shared, split, donate=1)
        self._ends.append(end + added)
        self._given += 1
        self.later -= len(batch.completions)
        self.prompt_tokens += batch.prompt_tokens
        return True

    def _entries_of(self, batch: Batch, first: Int[np.ndarray, " replicas"], added: Int[np.ndarray, " replicas"]) -> Entries:
        """A batch's completions, those of each replica in front of its part of the arrays."""
        own = batch.completions
        place = np.concatenate([np.arange(count) for count in added])[np.argsort(np.argsort(batch.replicas, kind="stable"))]
        place += batch.replicas * batch.capacity

        def spread(values: Int[np.ndarray, " completions"]) -> Int32[np.ndarray, "*replicas entries"]:
            array = np.zeros(len(added) * batch.capacity, np.int32)
            array[place] = values
            return self._replicas.split(array)

        return Entries(
            first=self._per_replica(first),
            count=self._per_replica(added),
            prompt=spread(batch.places),
            completion=spread(own),
            index=spread(self._index[own]),
            token=spread(self._last[own]),
            length=spread(self.prompt_lengths[own]),
            budget=spread(self.budgets[own]),
            samples=spread(np.full(len(own), self._samples)),
            key=self._keys[spread(own)],
        )

    def _per_replica(self, numbers: Int[np.ndarray, " replicas"]) -> Int32[np.ndarray, " replicas"] | np.int32:
        """As the replicas' functions take them: a scalar for one replica."""
        return numbers.astype(np.int32) if self._replicas.mesh is not None else numbers.astype(np.int32)[0]

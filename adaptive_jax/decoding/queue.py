"""Completions that wait for a row, on the device: so the loop itself gives a row that falls free to the next of them.

The host gives the queue what it has prefilled, a batch at a time. While rows take the completions of one, there is room for
another.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int32, Key, Shaped, UInt32

from adaptive_jax.decoding.chance import BEGIN_STEP, uniforms
from adaptive_jax.decoding.policy import Policy, PromptObservation
from adaptive_jax.decoding.rows import DecodeState, chosen
from adaptive_jax.lm.decoder import Decoder, Prefill


@struct.dataclass
class Queue:
    """Prompts of the last batches, and completions of them, in the order in which they are given rows.

    Entries are a ring: behind the last one comes the first. Where there are several replicas, they are an axis in front.

    Attributes:
        cache: the decoder's, of the prompts, right-aligned.
        hidden: predicts each prompt's first new token.
        prompt: each entry's place among the prompts.
        completion: which one of the rollout it is.
        token, length: its prompt's last token, and how many it has.
        budget: token budget b.
        sequence_action: chosen by the policy when the entry was made.
        key: typed PRNG keys.
    """

    cache: Any
    hidden: Float[Array, "*replicas prompts width"]
    prompt: Int32[Array, "*replicas entries"]
    completion: Int32[Array, "*replicas entries"]
    token: Int32[Array, "*replicas entries"]
    length: Int32[Array, "*replicas entries"]
    budget: Int32[Array, "*replicas entries"]
    sequence_action: Int32[Array, "*replicas entries"]
    key: Key[Array, "*replicas entries"]


@struct.dataclass
class Entries:
    """Completions of one batch for a queue; from place `count` on they mean nothing. Arrays of the host.

    Attributes:
        first: the queue's entry that the first one becomes.
        count: how many they are.
        prompt: place in the batch's `Prefill`.
        completion: which one of the rollout it is.
        index: among its prompt's completions.
        token, length: its prompt's last token, and how many it has.
        budget, samples: token budget b and sampling budget B.
        key: the data of PRNG keys.
    """

    first: Int32[Any, "*replicas"]
    count: Int32[Any, "*replicas"]
    prompt: Int32[Any, "*replicas completions"]
    completion: Int32[Any, "*replicas completions"]
    index: Int32[Any, "*replicas completions"]
    token: Int32[Any, "*replicas completions"]
    length: Int32[Any, "*replicas completions"]
    budget: Int32[Any, "*replicas completions"]
    samples: Int32[Any, "*replicas completions"]
    key: UInt32[Any, "*replicas completions words"]


@struct.dataclass
class Waiting:
    """How many completions wait, and where.

    Attributes:
        first: the queue's next entry.
        queued: entries from there on.
        later: completions that are not in the queue yet.
    """

    first: Int32[Any, "*replicas"]
    queued: Int32[Any, "*replicas"]
    later: Int32[Any, "*replicas"]

    def after(self, begun: Int32[Array, "*replicas"]) -> "Waiting":
        """When so many more have a row."""
        return Waiting(self.first + begun, self.queued - begun, self.later)


@functools.partial(jax.jit, static_argnames=("prompts", "columns", "entries"))
def empty_queue(
    decoder: Decoder,
    key: Key[Array, ""],
    hidden: Float[Array, "*others width"],
    *,
    prompts: int,
    columns: int,
    entries: int,
) -> Queue:
    """Room for prompts, of so many columns, and completions; `key` is any typed key, `hidden` gives width and dtype."""
    zeros = jnp.zeros((entries,), jnp.int32)
    return Queue(
        cache=decoder.empty_cache(prompts, columns),
        hidden=jnp.zeros((prompts, hidden.shape[-1]), hidden.dtype),
        prompt=zeros,
        completion=zeros,
        token=zeros,
        length=zeros,
        budget=zeros,
        sequence_action=zeros,
        key=jnp.broadcast_to(key, zeros.shape),
    )


@functools.partial(jax.jit, donate_argnames="queue")
def enqueue(decoder: Decoder, policy: Policy, start: Int32[Array, ""], queue: Queue, prefill: Prefill, new: Entries) -> Queue:
    """A batch of completions comes into the queue, in place of one whose completions all have a row; the policy begins them.

    Args:
        start: where its prompts lie in the queue.
    """
    prompts, entries = len(prefill.last), len(queue.prompt)
    place = jnp.arange(len(queue.hidden), dtype=jnp.int32) - start
    source = jnp.where((place >= 0) & (place < prompts), place, -1)
    last, mean = jnp.take(prefill.last, new.prompt, axis=0), jnp.take(prefill.mean, new.prompt, axis=0)
    observed = PromptObservation(last=last, mean=mean, completion=new.index, samples=new.samples, budget=new.budget)
    key = jax.random.wrap_key_data(new.key, impl=jax.random.key_impl(queue.key))
    begun = jnp.full_like(new.prompt, BEGIN_STEP, dtype=jnp.uint32)
    number = jnp.arange(len(new.prompt), dtype=jnp.int32)
    into = jnp.where(number < new.count, jnp.mod(new.first + number, entries), entries)

    def put(old: Shaped[Array, " entries"], fresh: Shaped[Array, " completions"]) -> Shaped[Array, " entries"]:
        return old.at[into].set(fresh, mode="drop")

    return Queue(
        cache=decoder.insert(queue.cache, prefill.cache, source, jnp.int32(0)),
        hidden=jax.lax.dynamic_update_slice_in_dim(queue.hidden, prefill.last, start, axis=0),
        prompt=put(queue.prompt, new.prompt + start),
        completion=put(queue.completion, new.completion),
        token=put(queue.token, new.token),
        length=put(queue.length, new.length),
        budget=put(queue.budget, new.budget),
        sequence_action=put(queue.sequence_action, policy.begin(observed, uniforms(key, begun, 1)[:, 0])),
        key=put(queue.key, key),
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(decoder: Decoder, state: DecodeState, queue: Queue, waiting: Waiting) -> DecodeState:
    """Dead rows get the next completions, in order, as far as there are any: prompts are written behind the cursor.

    The state is donated.
    """
    rank = jnp.cumsum(~state.alive, dtype=jnp.int32) - 1
    received = ~state.alive & (rank < waiting.queued)
    entry = jnp.mod(waiting.first + rank, len(queue.prompt))
    prompt = jnp.take(queue.prompt, entry)

    def choose(fresh: Shaped[Array, "entries ..."], old: Shaped[Array, "rows ..."]) -> Shaped[Array, "rows ..."]:
        return chosen(received, jnp.take(fresh, entry, axis=0), old)

    return DecodeState(
        cache=decoder.insert(state.cache, queue.cache, jnp.where(received, prompt, -1), state.cursor),
        cursor=state.cursor,
        hidden=chosen(received, jnp.take(queue.hidden, prompt, axis=0), state.hidden),
        token=choose(queue.token, state.token),
        length=choose(queue.length, state.length),
        step=jnp.where(received, 0, state.step),
        budget=choose(queue.budget, state.budget),
        sequence_action=choose(queue.sequence_action, state.sequence_action),
        completion=choose(queue.completion, state.completion),
        alive=received | state.alive,
        key=choose(queue.key, state.key),
    )

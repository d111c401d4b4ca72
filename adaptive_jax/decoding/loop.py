"""The decoding loop: one pure step, repeated in chunks, over rows that are at different places in their texts.

All rows share one write cursor into a ring of cache columns. Rotary position is applied when a key is written, so a row's
entries may lie anywhere as long as a mask says which are its own: the `length` columns just behind the cursor. That is why a
finished row can be given a new prompt at any time: its entries are written behind the cursor, and nothing else moves.

Randomness: a completion's draws come from its own key and its own step number, never from the row, the batch or the chunk.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped, UInt32

from adaptive_jax.decoding.policy import Observation, Policy, PromptObservation
from adaptive_jax.decoding.sampling import draw, draw_scored, summary
from adaptive_jax.lm.decoder import Decoder, Prefill, Prefixes

DECISION_TOP_PROBABILITY = 0.95
LOOK = 0.5  # a look of the host at what was drawn costs about as much as so many steps
BEGIN_STEP = 2**32 - 1  # the key of what is drawn before the first token; no completion has that many steps


@struct.dataclass
class DecodeState:
    """Everything the loop carries from step to step; where there are several replicas, they are an axis in front.

    Example with R = 2: row 0 has a 3-token prompt and has drawn 2 tokens, row 1 a 5-token prompt and none. The columns
    just behind the cursor are p p p t t for row 0 (length 5) and p p p p p for row 1 (length 5).

    Attributes:
        cache: the decoder's ring.
        cursor: the ring's column that the next token is written to, in all rows.
        hidden: predicts each row's next token.
        token: each row's last token.
        length: entries in the cache: prompt and new tokens.
        step: new tokens drawn, t.
        budget: most new tokens the completion may use, b.
        sequence_action: the action that the policy chose before the first token.
        alive: the row's completion has not ended; what dead rows compute is thrown away.
        key: typed PRNG keys, one per completion.
    """

    cache: Any
    cursor: Int32[Array, "*replicas"]
    hidden: Float[Array, "*replicas rows width"]
    token: Int32[Array, "*replicas rows"]
    length: Int32[Array, "*replicas rows"]
    step: Int32[Array, "*replicas rows"]
    budget: Int32[Array, "*replicas rows"]
    sequence_action: Int32[Array, "*replicas rows"]
    alive: Bool[Array, "*replicas rows"]
    key: Key[Array, "*replicas rows"]

    @property
    def remaining(self) -> Int32[Array, "*replicas rows"]:
        """Token budget left, b_t = b - t."""
        return self.budget - self.step

    def visible(self, size: int) -> Bool[Array, "rows columns"]:
        """The columns, of `size`, that are a row's own, the one at the cursor included."""
        behind = jnp.mod(self.cursor - jnp.arange(size, dtype=jnp.int32), size)
        return behind[None, :] <= self.length[:, None]


@struct.dataclass
class StepOutput:
    """What one step tells; a chunk's have a leading axis of steps.

    Attributes:
        alive: the row drew a token; the other fields mean nothing where it did not.
        token: drawn.
        action: index into the policy's action space.
        decision: alive, and the next-token distribution was not settled (top probability at most 0.95).
        entropy, top_probability: of the next-token distribution before the action; nats and 1. The entropy is NaN
            where there is no such distribution: the logits are not finite.
        features: what the policy chose from.
        logprob, model_logprob: of the token, in nats: in the distribution that it was drawn from, after
            temperature and filters, and in the model's, before them. None where they were not asked for.
    """

    alive: Bool[Array, "*steps rows"]
    token: Int32[Array, "*steps rows"]
    action: Int32[Array, "*steps rows"]
    decision: Bool[Array, "*steps rows"]
    entropy: Float32[Array, "*steps rows"]
    top_probability: Float32[Array, "*steps rows"]
    features: Float[Array, "*steps rows features"]
    logprob: Float32[Array, "*steps rows"] | None
    model_logprob: Float32[Array, "*steps rows"] | None


@struct.dataclass
class Admission:
    """New completions for rows; one entry per row, those with source -1 are left as they are.

    Attributes:
        source: place in the `Prefill`, or -1.
        token, length: the prompt's last token, and how many it has.
        completion: the completion's index among its prompt's.
        budget, samples: token budget b and sampling budget B.
        key: the data of PRNG keys of the state's kind: like all of this, an array of the host, whose way into
            a jitted function is short.
    """

    source: Int32[Any, "*replicas rows"]
    token: Int32[Any, "*replicas rows"]
    length: Int32[Any, "*replicas rows"]
    completion: Int32[Any, "*replicas rows"]
    budget: Int32[Any, "*replicas rows"]
    samples: Int32[Any, "*replicas rows"]
    key: UInt32[Any, "*replicas rows words"]


@jax.jit
def completion_keys(
    key: Key[Array, ""], problem: UInt32[Array, "completions 2"], completion: Int32[Array, " completions"]
) -> Key[Array, " completions"]:
    """Keys from one typed key, problem digests and completion indices; nothing else matters."""

    def one(problem: jax.Array, completion: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, problem[0]), problem[1]), completion)

    return jax.vmap(one)(problem, completion)


def _uniforms(key: Key[Array, " rows"], step: Shaped[Array, " rows"], count: int) -> Float32[Array, "rows count"]:
    """`count` numbers in [0, 1): the chance of step `step` of the completions with the keys."""
    return jax.vmap(lambda k, t: jax.random.uniform(jax.random.fold_in(k, t), (count,)))(key, step.astype(jnp.uint32))


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
        alive=jnp.zeros((rows,), bool),
        key=jnp.broadcast_to(key, (rows,)),
    )


@functools.partial(jax.jit, donate_argnames="state")
def admit(decoder: Decoder, policy: Policy, state: DecodeState, prefill: Prefill, new: Admission) -> DecodeState:
    """Give rows completions: their prompts are written behind the cursor, and the policy begins."""
    received = new.source >= 0
    source = jnp.maximum(new.source, 0)
    last, mean = jnp.take(prefill.last, source, axis=0), jnp.take(prefill.mean, source, axis=0)
    prompt = PromptObservation(last=last, mean=mean, completion=new.completion, samples=new.samples, budget=new.budget)
    begun = jnp.full_like(new.source, BEGIN_STEP, dtype=jnp.uint32)
    key = jax.random.wrap_key_data(new.key, impl=jax.random.key_impl(state.key))
    sequence_action = policy.begin(prompt, _uniforms(key, begun, 1)[:, 0])
    choose = functools.partial(_choose, received)
    return DecodeState(
        cache=decoder.insert(state.cache, prefill.cache, new.source, state.cursor),
        cursor=state.cursor,
        hidden=choose(last, state.hidden),
        token=choose(new.token, state.token),
        length=choose(new.length, state.length),
        step=choose(jnp.zeros_like(state.step), state.step),
        budget=choose(new.budget, state.budget),
        sequence_action=choose(sequence_action, state.sequence_action),
        alive=received | state.alive,
        key=choose(key, state.key),
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
        return _choose(received, jnp.take(own, row, axis=0), old)

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
        alive=choose(target.alive, state.alive),
        key=choose(target.key, state.key),
    )
    return dataclasses.replace(state, alive=state.alive.at[left].set(False, mode="drop")), moved


def _choose(
    received: Bool[Array, " rows"], fresh: Shaped[Array, "rows ..."], old: Shaped[Array, "rows ..."]
) -> Shaped[Array, "rows ..."]:
    """The fresh of rows that received a completion, and the old of the others."""
    return jnp.where(received.reshape((-1,) + (1,) * (old.ndim - 1)), fresh, old)


def decode_step(
    decoder: Decoder, policy: Policy, stop_ids: Int32[Array, " stops"], size: int, state: DecodeState, *, logprobs: bool = False
) -> tuple[DecodeState, StepOutput]:
    """LM head, observation, policy, sampling kernel, budget and stop tokens, one LM step.

    Args:
        stop_ids: tokens that end a completion.
        size: the ring's columns.
        logprobs: whether the tokens' log-probabilities are told.
    """
    logits = decoder.logits(state.hidden)
    entropy, top_probability = summary(logits)
    observation = Observation(
        hidden=state.hidden,
        remaining=state.remaining,
        budget=state.budget,
        token=state.token,
        entropy=entropy,
        top_probability=top_probability,
    )
    uniform = _uniforms(state.key, state.step, 2)
    action, features = policy.step(observation, state.sequence_action, uniform[:, 1])
    logprob = model_logprob = None
    if logprobs:
        token, logprob, model_logprob = draw_scored(uniform[:, 0], logits, policy.actions[action], top_probability)
    else:
        token = draw(uniform[:, 0], logits, policy.actions[action])
    output = StepOutput(
        alive=state.alive,
        token=token,
        action=action,
        decision=state.alive & (top_probability <= DECISION_TOP_PROBABILITY) & policy.learns,
        entropy=entropy,
        top_probability=top_probability,
        features=features,
        logprob=logprob,
        model_logprob=model_logprob,
    )
    stopped = jnp.any(token[:, None] == stop_ids[None, :], axis=1)
    hidden, cache = decoder.step(state.cache, token, state.length, state.cursor, state.visible(size))
    state = DecodeState(
        cache=cache,
        cursor=jnp.mod(state.cursor + 1, size),
        hidden=hidden,
        token=token,
        length=state.length + 1,
        step=state.step + 1,
        budget=state.budget,
        sequence_action=state.sequence_action,
        alive=state.alive & ~stopped & (state.remaining > 1),
        key=state.key,
    )
    return state, output


@functools.partial(jax.jit, static_argnames=("size", "chunk", "logprobs"), donate_argnames="state")
def decode_chunk(
    decoder: Decoder,
    policy: Policy,
    stop_ids: Int32[Array, " stops"],
    state: DecodeState,
    waiting: Int32[Array, ""],
    *,
    size: int,
    chunk: int,
    logprobs: bool = False,
) -> tuple[DecodeState, StepOutput]:
    """At most `chunk` steps, fewer where the host should look sooner; the state is donated.

    With rows that end at an even rate, most is drawn per second where as much is lost to rows that wait for the host as to its
    looks. So the chunk ends before dead rows that other completions could have used come to more than `LOOK` steps of all rows,
    and when no row is alive.

    Args:
        waiting: how many completions could have a row.

    Returns:
        The state, and the outputs with a leading axis of `chunk` steps. Steps that were not taken have no row alive, and those
        that were taken have at least one, unless the first had none.
    """
    step = functools.partial(decode_step, decoder, policy, stop_ids, size, logprobs=logprobs)
    outputs = jax.tree.map(lambda x: jnp.zeros((chunk, *x.shape), x.dtype), jax.eval_shape(step, state)[1])
    patience = int(LOOK * state.alive.size)

    def goes_on(carry: _Chunk) -> jax.Array:
        return (carry.taken < chunk) & (carry.idle <= patience) & jnp.any(carry.state.alive)

    def take(carry: _Chunk) -> _Chunk:
        state, output = step(carry.state)
        outputs = jax.tree.map(lambda steps, new: steps.at[carry.taken].set(new), carry.outputs, output)
        dead = jnp.sum(~state.alive, dtype=jnp.int32)
        return _Chunk(state, outputs, carry.taken + 1, carry.idle + jnp.minimum(dead, waiting))

    done = jax.lax.while_loop(goes_on, take, _Chunk(state, outputs, jnp.int32(0), jnp.int32(0)))
    return done.state, done.outputs


@struct.dataclass
class _Chunk:
    """What a chunk carries from step to step.

    Attributes:
        state, outputs: as `decode_chunk` returns them.
        taken: steps so far.
        idle: row-steps that waiting completions could have used, those of the next step included.
    """

    state: DecodeState
    outputs: StepOutput
    taken: Int32[Array, ""]
    idle: Int32[Array, ""]


@jax.jit
def prefill(decoder: Decoder, tokens: Int32[Array, "prompts columns"], lengths: Int32[Array, " prompts"]) -> Prefill:
    """`decoder.prefill`, compiled once per shape."""
    return decoder.prefill(tokens, lengths)


@jax.jit
def prefix(decoder: Decoder, tokens: Int32[Array, "prompts columns"], lengths: Int32[Array, " prompts"]) -> Prefixes:
    """`decoder.prefix`, compiled once per shape."""
    return decoder.prefix(tokens, lengths)


@functools.partial(jax.jit, static_argnames="columns")
def prefill_after(
    decoder: Decoder,
    prefixes: Prefixes,
    source: Int32[Array, " prompts"],
    tokens: Int32[Array, "prompts own"],
    lengths: Int32[Array, " prompts"],
    *,
    columns: int,
) -> Prefill:
    """`decoder.prefill_after`, compiled once per shape."""
    return decoder.prefill_after(prefixes, source, tokens, lengths, columns)

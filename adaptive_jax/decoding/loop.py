"""The decoding loop: one pure step, repeated in chunks, over rows that are at different places in their texts.

All rows share one write cursor into a ring of cache columns. Rotary position is applied when a key is written, so a row's
entries may lie anywhere as long as a mask says which are its own: the `length` columns just behind the cursor. That is why a
finished row can be given a new prompt at any time: its entries are written behind the cursor, and nothing else moves.

Randomness: a completion's draws come from its own key and its own step number, never from the row, the batch or the chunk.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Float32, Int32

from adaptive_jax.decoding.chance import uniforms
from adaptive_jax.decoding.policy import Observation, Policy
from adaptive_jax.decoding.queue import Queue, Waiting, admit
from adaptive_jax.decoding.rows import DecodeState, Shape, joined, parted, visible
from adaptive_jax.decoding.sampling import draw, draw_scored, summary
from adaptive_jax.lm.decoder import Decoder, Prefill, Prefixes

DECISION_TOP_PROBABILITY = 0.95
LOOK = 0.5  # a look of the host at what was drawn costs about as much as so many steps


@struct.dataclass
class StepOutput:
    """What one step tells; a chunk's have a leading axis of steps.

    Attributes:
        alive: the row drew a token; the other fields mean nothing where it did not.
        completion: which one of the rollout it is of.
        step: its place among the completion's new tokens.
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
    completion: Int32[Array, "*steps rows"]
    step: Int32[Array, "*steps rows"]
    token: Int32[Array, "*steps rows"]
    action: Int32[Array, "*steps rows"]
    decision: Bool[Array, "*steps rows"]
    entropy: Float32[Array, "*steps rows"]
    top_probability: Float32[Array, "*steps rows"]
    features: Float[Array, "*steps rows features"]
    logprob: Float32[Array, "*steps rows"] | None
    model_logprob: Float32[Array, "*steps rows"] | None


def decode_step(
    decoder: Decoder,
    policy: Policy,
    stop_ids: Int32[Array, " stops"],
    shapes: Sequence[Shape],
    state: DecodeState,
    *,
    logprobs: bool = False,
) -> tuple[DecodeState, StepOutput]:
    """LM head, observation, policy, sampling kernel, budget and stop tokens, one LM step.

    Args:
        stop_ids: tokens that end a completion.
        shapes: of the rings that were joined to the state.
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
    uniform = uniforms(state.key, state.step, 2)
    action, features = policy.step(observation, state.sequence_action, uniform[:, 1])
    logprob = model_logprob = None
    if logprobs:
        token, logprob, model_logprob = draw_scored(uniform[:, 0], logits, policy.actions[action], top_probability)
    else:
        token = draw(uniform[:, 0], logits, policy.actions[action])
    output = StepOutput(
        alive=state.alive,
        completion=state.completion,
        step=state.step,
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
    lengths = jnp.split(state.length, list(itertools.accumulate(shape.rows for shape in shapes))[:-1])
    seen = tuple(visible(c, own, shape.size) for c, own, shape in zip(state.cursor, lengths, shapes, strict=True))
    hidden, cache = decoder.step(state.cache, token, state.length, state.cursor, seen)
    state = DecodeState(
        cache=cache,
        cursor=tuple(jnp.mod(cursor + 1, shape.size) for cursor, shape in zip(state.cursor, shapes, strict=True)),
        hidden=hidden,
        token=token,
        length=state.length + 1,
        step=state.step + 1,
        budget=state.budget,
        sequence_action=state.sequence_action,
        completion=state.completion,
        alive=state.alive & ~stopped & (state.remaining > 1),
        key=state.key,
    )
    return state, output


@functools.partial(jax.jit, static_argnames=("sizes", "chunk", "logprobs"), donate_argnames="states")
def decode_chunk(
    decoder: Decoder,
    policy: Policy,
    stop_ids: Int32[Array, " stops"],
    states: tuple[DecodeState, ...],
    queue: Queue | None,
    waiting: Waiting,
    *,
    sizes: tuple[int, ...],
    chunk: int,
    logprobs: bool = False,
) -> tuple[tuple[DecodeState, ...], Waiting, StepOutput]:
    """At most `chunk` steps, fewer where the host should look sooner; the states are donated.

    A row of the first ring whose completion has ended is given to the queue's next one before the next step. When the queue is
    empty, the chunk goes on until dead rows that later completions could have used come to more than `LOOK` steps of all rows:
    with rows that end at an even rate, most is drawn per second where as much is lost to rows that wait for the host as to its
    looks. It also ends when no row is alive and no completion is queued.

    Args:
        stop_ids: tokens that end a completion.
        states: of rings whose rows decode together.
        queue: of completions that wait for the first ring; None for none.
        waiting: who waits for it.
        sizes: the rings' columns.
        chunk: most steps.
        logprobs: whether the tokens' log-probabilities are told.

    Returns:
        The states, what is left of those that waited, and the outputs with leading axes of `chunk` steps and of all rows. Steps
        that were not taken have no row alive, and those that were taken have at least one.
    """
    shapes = [Shape(len(state.alive), size) for state, size in zip(states, sizes, strict=True)]
    step = functools.partial(decode_step, decoder, policy, stop_ids, shapes, logprobs=logprobs)
    state = joined(states)
    outputs = jax.tree.map(lambda x: jnp.zeros((chunk, *x.shape), x.dtype), jax.eval_shape(step, state)[1])
    patience = int(LOOK * state.alive.size)

    def free(state: DecodeState) -> Int32[Array, ""]:
        """How many rows of the first ring are dead."""
        return jnp.sum(~state.alive[: shapes[0].rows], dtype=jnp.int32)

    def goes_on(carry: _Chunk) -> Bool[Array, ""]:
        return (carry.taken < chunk) & (carry.idle <= patience) & (jnp.any(carry.state.alive) | (carry.begin > 0))

    def take(carry: _Chunk) -> _Chunk:
        state, output = step(carry.state)
        outputs = jax.tree.map(lambda steps, new: steps.at[carry.taken].set(new), carry.outputs, output)
        begin = jnp.minimum(free(state), carry.waiting.queued)
        idle = jnp.minimum(free(state) - begin, carry.waiting.later)
        return _Chunk(state, outputs, carry.waiting, carry.taken + 1, carry.idle + idle, begin)

    def refill(carry: _Chunk) -> _Chunk:
        """The next completions begin, and steps are taken until others can."""
        assert queue is not None
        first, *others = parted(carry.state, shapes)
        state = joined([admit(decoder, first, queue, carry.waiting), *others])
        waiting = carry.waiting.after(carry.begin)
        filled = dataclasses.replace(carry, state=state, waiting=waiting, begin=jnp.zeros_like(carry.begin))
        return jax.lax.while_loop(lambda carry: goes_on(carry) & (carry.begin == 0), take, filled)

    waiting = jax.tree.map(jnp.asarray, waiting)
    zero = jnp.int32(0)
    start = _Chunk(state, outputs, waiting, zero, zero, jnp.minimum(free(state), waiting.queued))
    done = jax.lax.while_loop(goes_on, take if queue is None else refill, start)
    return parted(done.state, shapes), done.waiting, done.outputs


@struct.dataclass
class _Chunk:
    """What a chunk carries from step to step.

    Attributes:
        state: of all rings, joined.
        outputs, waiting: as `decode_chunk` returns them.
        taken: steps so far.
        idle: row-steps that later completions could have used, those of the next step included.
        begin: completions of the queue that there is a row for, before the next step.
    """

    state: DecodeState
    outputs: StepOutput
    waiting: Waiting
    taken: Int32[Array, ""]
    idle: Int32[Array, ""]
    begin: Int32[Array, ""]


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

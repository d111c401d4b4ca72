"""Short answers: what it is worth that the loop fills rows from a queue, and not the host after a fixed number of steps."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.loop import StepOutput, decode_step
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.queue import Queue, Waiting, admit
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.rows import DecodeState, Shape, joined, parted
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.environment import Cot, Environment
from adaptive_jax.lm.decoder import Decoder
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.token import token_adapter
from adaptive_jax.tasks import arithmetic
from experiments.bench.measure import Findings, alternate, quotient
from experiments.bench.subject import Subject

FIXED = 16  # steps between two looks
PROMPTS, COMPLETIONS, BUDGET = 512, 8, 48  # as `math_token` asks at its smallest budget
SEED = 0


def looks(subject: Subject) -> Findings:
    """Bars `short_answers_vs_fixed`, `short_answers_useful` and `worked_vs_fixed`.

    On `tiny`, whatever model is measured: it gives short answers when asked for them alone. Both sides draw the same tokens
    but for a few: a row that is filled at another time has its entries in other columns, and its sums another order.
    """
    short, short_details = _against_fixed(subject, "none")
    worked, worked_details = _against_fixed(subject, "all")
    bars: dict[str, float | None] = {
        "short_answers_vs_fixed": short,
        "short_answers_useful": short_details["useful"]["queue"],
        "worked_vs_fixed": worked,
    }
    return Findings(bars, {"short": short_details, "worked": worked_details})


def _against_fixed(subject: Subject, cot: Cot) -> tuple[float, dict]:
    """Tokens per second over those with a fixed number of steps, and details."""
    lm = load_lm("tiny")
    environment = Environment(lm, arithmetic.problems("test", PROMPTS), cot)
    prompts = [environment.prompt(index, BUDGET) for index in range(len(environment))]
    adapter = token_adapter(lm.config.hidden_size, budget_scale=BUDGET)
    found: dict[str, Trajectory] = {}

    def complete(name: str) -> None:
        found[name] = rollout(
            lm.decoder,
            adapter,
            prompts,
            key=jax.random.key(SEED),
            stop_ids=lm.stop_ids,
            completions=COMPLETIONS,
            rows=subject.rows,
            chunk=FIXED,
        )

    def complete_fixed() -> None:
        with mock.patch.object(loop, "decode_chunk", fixed_chunk):
            complete("fixed")

    times = alternate({"queue": functools.partial(complete, "queue"), "fixed": complete_fixed}, subject.repeats)
    tokens = {name: int(done.lengths.sum()) for name, done in found.items()}
    same = np.all(found["queue"].tokens == found["fixed"].tokens, axis=1)
    details = {
        "mean_length": float(found["queue"].lengths.mean()),
        "completions": len(same),
        "completions_alike": int(same.sum()),
        "useful": {name: float(tokens[name] / done.row_steps) for name, done in found.items()},
        "tokens_per_second": {name: tokens[name] / float(np.median(times[name])) for name in found},
    }
    return quotient(times, "fixed", "queue") * tokens["queue"] / tokens["fixed"], details


@functools.partial(jax.jit, static_argnames=("sizes", "chunk", "logprobs"), donate_argnames="states")
def fixed_chunk(
    decoder: Decoder,
    policy: Policy,
    stop_ids: jax.Array,
    states: tuple[DecodeState, ...],
    queue: Queue,
    waiting: Waiting,
    *,
    sizes: tuple[int, ...],
    chunk: int,
    logprobs: bool,
) -> tuple[tuple[DecodeState, ...], Waiting, StepOutput]:
    """`loop.decode_chunk` of always `chunk` steps, in which rows that fall free stay so; of one ring."""
    (state,), (size,) = states, sizes
    begun = jnp.minimum(jnp.sum(~state.alive, dtype=jnp.int32), waiting.queued)
    state = joined([admit(decoder, state, queue, waiting)])
    shapes = [Shape(len(state.alive), size)]

    def step(state: DecodeState, _: None) -> tuple[DecodeState, StepOutput]:
        return decode_step(decoder, policy, stop_ids, shapes, state, logprobs=logprobs)

    state, outputs = jax.lax.scan(step, state, None, length=chunk)
    return parted(state, shapes), waiting.after(begun), outputs

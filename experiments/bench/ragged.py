"""Completions of very different lengths: what refilling rows is worth, and how cost grows with rows and with the longest."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.queue import admit
from adaptive_jax.decoding.rings import round_up
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.rows import Shape, empty_state
from adaptive_jax.decoding.trajectory import Trajectory, TrajectoryBuilder
from adaptive_jax.decoding.waiting import Line
from adaptive_jax.parallel import Replicas
from adaptive_jax.policies.fixed import static
from adaptive_jax.policies.token import token_adapter
from experiments.bench.measure import Findings, alternate, compilations, quotient
from experiments.bench.opponent import TUNIX
from experiments.bench.scripted import ScriptedDecoder, long_tail
from experiments.bench.subject import Subject

CHUNK = 4  # short, because the mean length is; a step of this size costs far more than a look of the host
MEAN, LONGEST = 32, 256
STEPS = 64  # of batches without refill, timed in one go
SEED = 0
COMPILED = ("admit", "decode_chunk", "empty_queue", "empty_state", "enqueue", "move", "prefill")  # of a rollout


def ragged(subject: Subject) -> Findings:
    """Bars `ragged_useful`, `ragged_vs_no_refill` and `ragged_vs_tunix`.

    Half the rows of the other parts, and 16 completions for each. Without refill every batch decodes to its longest completion,
    over a ring that holds the longest of all, at the same cost in every step; and so it is on Tunix. So there a batch's start
    and a step are timed, and multiplied by the number of batches and the sum of their longest lengths.
    """
    rows = max(subject.rows // 2, 1)
    count = 16 * rows
    lengths = long_tail(count, MEAN, LONGEST)
    work = Work(subject, lengths)
    seconds, trajectory, compiled = _timed(work, rows)
    tokens_per_second = {"refill": lengths.sum() / seconds}
    longest = lengths.reshape(-1, rows).max(axis=1)
    without_refill(work, work.prompts[:rows], CHUNK)  # compiles
    times = []
    for steps in (CHUNK, STEPS):
        start = time.perf_counter()
        without_refill(work, work.prompts[:rows], steps)  # takes every chunk's tokens in, so nothing is left to wait for
        times.append(time.perf_counter() - start)
    tokens_per_second["no refill"] = lengths.sum() / in_batches(times[0], times[1], longest)
    details: dict[str, Any] = {
        "lengths": {"mean": float(lengths.mean()), "longest": int(lengths.max()), "completions": count, "rows": rows},
        "batches_without_refill": {"longest": longest.tolist(), f"seconds_of_{CHUNK}_and_{STEPS}_steps": times},
        "compilations_while_timed": compiled,
        "tokens_per_second": tokens_per_second,
    }
    bars: dict[str, float | None] = {
        "ragged_useful": float(trajectory.lengths.sum() / trajectory.row_steps),
        "ragged_vs_no_refill": tokens_per_second["refill"] / tokens_per_second["no refill"],
        "ragged_vs_tunix": None,
    }
    with subject.opponent(TUNIX) as tunix:
        if tunix is not None:
            prompts = [list(prompt.tokens) for prompt in work.prompts[:rows]]
            few, many = (tunix.generate(prompts, steps, dtype=subject.dtype, repeat=2) for steps in (CHUNK, STEPS))
            tokens_per_second["tunix"] = lengths.sum() / in_batches(few.seconds[-1], many.seconds[-1], longest)
            bars["ragged_vs_tunix"] = tokens_per_second["refill"] / tokens_per_second["tunix"]
            seconds_and_compilations = [(done.seconds, done.compilations) for done in (few, many)]
            details["tunix"] = {"seconds_and_compilations": seconds_and_compilations, **tunix.about}
    return Findings(bars, details)


def in_batches(few: float, many: float, longest: np.ndarray) -> float:
    """Seconds of batches of `longest`, int [N], steps each, if CHUNK and STEPS steps of one take `few` and `many`."""
    step = (many - few) / (STEPS - CHUNK)
    return float(len(longest) * (few - CHUNK * step) + longest.sum() * step)


def scaling(subject: Subject) -> Findings:
    """Bars `cost_256_over_32_rows` and `cost_long_tail`: what a useful token costs with more rows, or with a longer longest.

    At least 256 completions, and two a row, where all are equally long; sixteen a row where they are not. The cases take turns.
    """
    cases = [(32, MEAN), (128, MEAN), (256, MEAN), (32, 2 * MEAN), (32, 8 * MEAN)]
    works = {}
    for rows, longest in cases:
        lengths = long_tail(16 * rows if longest > MEAN else max(2 * rows, 256), MEAN, longest)
        adapter = token_adapter(subject.config.hidden_size + 1, budget_scale=longest)  # sees the script's channel, too
        works[rows, longest] = Work(subject, lengths, adapter)
    found = {case: work.run(case[0]) for case, work in works.items()}  # compiles
    sides = {str(case): functools.partial(work.run, case[0]) for case, work in works.items()}
    with compilations(*COMPILED) as compiled:
        times = alternate(sides, min(subject.repeats, 3), warm_up=False)  # a round takes minutes
    tokens = {case: float(work.lengths.sum()) for case, work in works.items()}

    def cost(case: tuple[int, int]) -> float:
        """Of a useful token, over that of the first case."""
        return quotient(times, str(case), str(cases[0])) * tokens[cases[0]] / tokens[case]

    table = [
        {
            "rows": rows,
            "mean": float(works[rows, longest].lengths.mean()),
            "longest": longest,
            "milliseconds_per_useful_token": 1e3 * float(np.median(times[str((rows, longest))])) / tokens[rows, longest],
            "cost": cost((rows, longest)),
            "useful": float(tokens[rows, longest] / trajectory.row_steps),
            "trajectory_bytes": _bytes(trajectory),
            "decisions": int(trajectory.decisions.sum()),
            "features_bytes": trajectory.features.nbytes,
            "rows_by_longest_by_width_bytes": len(trajectory.lengths) * longest * 4 * (subject.config.hidden_size + 1),
        }
        for (rows, longest), trajectory in found.items()
    ]
    return Findings(
        {"cost_256_over_32_rows": cost(cases[2]), "cost_long_tail": cost(cases[4])},
        {"table": table, "seconds": times, "compilations_while_timed": len(compiled)},
    )


def prefill(subject: Subject) -> Findings:
    """Bar `prompt_tokens_per_prompt`: prompt tokens computed for 256-token prompts with eight completions each."""
    long = dataclasses.replace(subject, prompt_tokens=256)
    prompts = long.prompts(8, 4)
    done = rollout(long.decoder, static(1.0), prompts, key=jax.random.key(SEED), stop_ids=(), completions=8, rows=32, chunk=4)
    return Findings({"prompt_tokens_per_prompt": done.prompt_tokens / len(prompts)}, {"prompts": 8, "completions": 8})


class Work:
    """Prompts and a decoder that gives each the length it should have."""

    def __init__(self, subject: Subject, lengths: np.ndarray, policy: Policy | None = None):
        self.policy = policy or static(1.0)
        stop = subject.config.vocab_size - 1
        self.prompts = subject.prompts(len(lengths), int(lengths.max()))
        self.lengths, self.stop_ids = lengths, (stop,)
        self.decoder = ScriptedDecoder(subject.decoder, jnp.asarray(lengths), stop)

    def run(self, rows: int) -> Trajectory:
        """A rollout of all."""
        done = rollout(
            self.decoder,
            self.policy,
            self.prompts,
            key=jax.random.key(SEED),
            stop_ids=self.stop_ids,
            rows=rows,
            chunk=CHUNK,
        )
        if not np.array_equal(done.lengths, self.lengths):
            raise RuntimeError("the completions did not get the lengths of the script")
        return done


def _timed(work: Work, rows: int) -> tuple[float, Trajectory, int]:
    """Seconds of a rollout, the rollout, and how often its functions were compiled meanwhile; another one goes before."""
    work.run(rows)
    with compilations(*COMPILED) as compiled:
        start = time.perf_counter()
        trajectory = work.run(rows)
        return time.perf_counter() - start, trajectory, len(compiled)


def without_refill(work: Work, prompts: list[Prompt], steps: int) -> TrajectoryBuilder:
    """The same loop on one batch, for `steps` steps: until its longest completion ends."""
    decoder, policy, key = work.decoder, work.policy, jax.random.key(SEED)
    length = len(prompts[0].tokens)
    size = round_up(length + LONGEST)
    ring = Shape(len(prompts), size)
    line = Line(decoder, policy, Replicas(), prompts, 1, key, ring, length, SharedPrefixes(decoder, []))
    state = empty_state(decoder, key, line.hidden, rows=len(prompts), size=size)
    line.fill()
    while line.queued.any():
        state = admit(decoder, state, line.queue, line.waiting())
        line.took(line.queued)
        line.fill()
    harvest = TrajectoryBuilder(line.budgets, work.stop_ids)
    stops = jnp.asarray(work.stop_ids, jnp.int32)
    for _ in range(-(-steps // CHUNK)):
        (state,), _, outputs = loop.decode_chunk(
            decoder, policy, stops, (state,), None, line.nobody(), sizes=(size,), chunk=CHUNK
        )
        alive, completion, step = map(np.asarray, (outputs.alive, outputs.completion, outputs.step))
        harvest.store(outputs, harvest.count(alive, completion, step, size * len(prompts)))
    return harvest


def _bytes(trajectory: Trajectory) -> int:
    arrays = (getattr(trajectory, field.name) for field in dataclasses.fields(trajectory))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

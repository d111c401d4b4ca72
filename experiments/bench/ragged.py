"""Completions of very different lengths: what refilling rows is worth, and how cost grows with rows and with the longest."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rings import round_up
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory, TrajectoryBuilder
from adaptive_jax.decoding.waiting import Admissions, prefill_batches
from adaptive_jax.parallel import Replicas
from adaptive_jax.policies.fixed import static
from adaptive_jax.policies.token import token_adapter
from experiments.bench.measure import Findings, compilations, log
from experiments.bench.opponent import TUNIX
from experiments.bench.scripted import ScriptedDecoder, long_tail
from experiments.bench.subject import Subject

CHUNK = 4  # short, because the mean length is; a step of this size costs far more than a look of the host
MEAN, LONGEST = 32, 256
STEPS = 64  # of batches without refill, timed in one go
SEED = 0


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

    Two completions a row where all are equally long, sixteen where they are not.
    """
    table = []
    cases = [(32, MEAN), (128, MEAN), (256, MEAN), (32, 2 * MEAN), (32, 8 * MEAN)]
    for rows, longest in cases:
        lengths = long_tail(16 * rows if longest > MEAN else 2 * rows, MEAN, longest)
        adapter = token_adapter(subject.config.hidden_size + 1, budget_scale=longest)  # sees the script's channel, too
        seconds, trajectory, compiled = _timed(Work(subject, lengths, adapter), rows, warm_up=1.0)
        features = trajectory.features.nbytes
        table.append(
            {
                "rows": rows,
                "mean": float(lengths.mean()),
                "longest": longest,
                "milliseconds_per_useful_token": 1e3 * seconds / float(lengths.sum()),
                "compilations_while_timed": compiled,
                "useful": float(lengths.sum() / trajectory.row_steps),
                "trajectory_bytes": _bytes(trajectory),
                "decisions": int(trajectory.decisions.sum()),
                "features_bytes": features,
                "rows_by_longest_by_width_bytes": len(lengths) * longest * 4 * (subject.config.hidden_size + 1),
            }
        )
        log.info("  %s", table[-1])
    cost = [row["milliseconds_per_useful_token"] for row in table]
    return Findings(
        {"cost_256_over_32_rows": cost[2] / cost[0], "cost_long_tail": cost[4] / cost[0]},
        {"table": table},
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

    def run(self, rows: int, share: float = 1.0) -> Trajectory:
        """A rollout of all, or of the first `share`."""
        count = int(share * len(self.prompts))
        done = rollout(
            self.decoder,
            self.policy,
            self.prompts[:count],
            key=jax.random.key(SEED),
            stop_ids=self.stop_ids,
            rows=rows,
            chunk=CHUNK,
        )
        if not np.array_equal(done.lengths, self.lengths[:count]):
            raise RuntimeError("the completions did not get the lengths of the script")
        return done


def _timed(work: Work, rows: int, warm_up: float = 0.25) -> tuple[float, Trajectory, int]:
    """Seconds of a rollout, the rollout, and how often its functions were compiled meanwhile; a part of it goes before."""
    work.run(rows, warm_up)
    with compilations("admit", "decode_chunk", "move", "empty_state", "prefill") as compiled:
        start = time.perf_counter()
        trajectory = work.run(rows)
        return time.perf_counter() - start, trajectory, len(compiled)


def without_refill(work: Work, prompts: list[Prompt], steps: int) -> TrajectoryBuilder:
    """The same loop on one batch, for `steps` steps: until its longest completion ends."""
    policy, count = work.policy, len(prompts)
    batch = next(prefill_batches(work.decoder, Replicas(), prompts, 1, count, SharedPrefixes(work.decoder, [])))
    admissions = Admissions(Replicas(), prompts, 1, jax.random.key(SEED))
    size = round_up(len(prompts[0].tokens) + LONGEST)
    state = loop.empty_state(work.decoder, jax.random.key(SEED), batch.prefill.last, rows=count, size=size)
    harvest = TrajectoryBuilder(admissions.budgets, work.stop_ids)
    state = loop.admit(work.decoder, policy, state, batch.prefill, admissions.of(batch, np.arange(count), count))
    stops = jnp.asarray(work.stop_ids, jnp.int32)
    for _ in range(-(-steps // CHUNK)):
        state, outputs = loop.decode_chunk(work.decoder, policy, stops, state, np.int32(0), size=size, chunk=CHUNK)
        harvest.store(outputs, harvest.count(np.asarray(outputs.alive), batch.completions, size))
    return harvest


def _bytes(trajectory: Trajectory) -> int:
    arrays = (getattr(trajectory, field.name) for field in dataclasses.fields(trajectory))
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

"""What the loop's schedule asks for, whatever the model: columns that attention reads, prompt tokens that are computed.

The model computes nothing here (`BlankDecoder`), so the figures are counts, the same on every machine.
"""

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.policies.fixed import static
from experiments.bench.measure import Findings
from experiments.bench.scripted import BlankDecoder, ScriptedDecoder, long_tail
from experiments.bench.subject import Subject

MEAN, LONGEST = 840, 8192  # of the completions of the paper's model on mathematics
PER_ROW = 16  # completions for each row
PROMPTS, SHARED = 1000, 512
STOP = 1


def schedule(subject: Subject) -> Findings:
    """Bars `columns_over_ideal` and `shared_prefix_tokens`."""
    lengths = long_tail(PER_ROW * subject.rows, MEAN, LONGEST)
    done = _scripted(lengths, [[index] + [0] * (subject.prompt_tokens - 1) for index in range(len(lengths))], subject.rows)
    ideal = columns_of(lengths, subject.prompt_tokens)
    random = np.random.default_rng(0)
    own = random.integers(5, 26, PROMPTS)
    shared = [0] * SHARED
    prompts = [[*shared, index, *random.integers(0, 100, count - 1).tolist()] for index, count in enumerate(own)]
    computed = _scripted(np.ones(PROMPTS, np.int32), prompts, subject.rows).prompt_tokens
    return Findings(
        {"columns_over_ideal": done.columns / ideal, "shared_prefix_tokens": (computed - int(own.sum())) / SHARED},
        {
            "lengths": {"mean": float(lengths.mean()), "longest": int(lengths.max()), "completions": len(lengths)},
            "columns_per_token": {"read": done.columns / int(lengths.sum()), "ideal": ideal / int(lengths.sum())},
            "useful": int(lengths.sum()) / done.row_steps,
            "prompt_tokens": {"computed": computed, "own": int(own.sum()), "shared": SHARED},
        },
    )


def columns_of(lengths: np.ndarray, prompt_tokens: int) -> float:
    """Columns that completions of `lengths`, int [N], have to read: each new token's reads the prompt and those before it."""
    counts = lengths.astype(np.int64)
    return float(np.sum(counts * prompt_tokens + counts * (counts + 1) // 2))


def _scripted(lengths: np.ndarray, prompts: list[list[int]], rows: int) -> Trajectory:
    """A rollout in which the completion of each prompt has its length, int32 [N]."""
    decoder = ScriptedDecoder(BlankDecoder(), jnp.asarray(lengths), STOP)
    asked = [Prompt(f"prompt {index}", tokens, int(lengths.max())) for index, tokens in enumerate(prompts)]
    done = rollout(decoder, static(1.0), asked, key=jax.random.key(0), stop_ids=(STOP,), rows=rows)
    if not np.array_equal(done.lengths, lengths):
        raise RuntimeError("the completions did not get the lengths of the script")
    return done

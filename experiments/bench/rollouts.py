"""Rollouts into files: what they cost beside the same completions in memory."""

import functools
import tempfile
from pathlib import Path

import jax

from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.environment import Environment
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.fixed import static
from adaptive_jax.rollouts.command import rollout as rollout_into_files
from adaptive_jax.rollouts.config import RolloutConfig
from adaptive_jax.tasks import arithmetic
from experiments.bench.measure import Findings, alternate, quotient
from experiments.bench.subject import Subject

PROMPTS, COMPLETIONS, BUDGET, TEMPERATURE = 4096, 8, 96, 0.8


def files(subject: Subject) -> Findings:
    """Bar `rollout_over_memory`: on `tiny`, with log-probabilities, grades, checksums and two shards of the default size."""
    lm = load_lm("tiny")
    environment = Environment(lm, arithmetic.problems("test", PROMPTS), "all")
    prompts = [environment.prompt(index, BUDGET) for index in range(len(environment))]

    def in_memory() -> Trajectory:
        return rollout(
            lm.decoder,
            static(TEMPERATURE),
            prompts,
            key=jax.random.key(0),
            stop_ids=lm.stop_ids,
            completions=COMPLETIONS,
            rows=subject.rows,
        )

    def into_files() -> None:
        with tempfile.TemporaryDirectory() as folder:
            asked = functools.partial(RolloutConfig, dataset="arithmetic", limit=PROMPTS, completions=COMPLETIONS)
            config = asked(temperature=TEMPERATURE, budget=BUDGET, grade=True, rows=subject.rows, out=Path(folder) / "rollout")
            rollout_into_files(config)

    times = alternate({"memory": in_memory, "files": into_files}, min(subject.repeats, 3))  # a round takes a minute
    return Findings({"rollout_over_memory": quotient(times, "memory", "files")}, {"seconds": times})

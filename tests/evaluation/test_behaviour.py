"""What policies do is counted as a loop over every token counts it."""

import json
from typing import Any

import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.evaluation.behaviour import BINS, behaviour_of

BUDGETS = (12, 24)
ACTIONS = SamplingParams.stack([SamplingParams(0.0), SamplingParams(0.5), SamplingParams(1.0, top_k=8)])


class Tokenizer:
    def decode(self, tokens: list[int]) -> str:
        return f"<{tokens[0]}>"


def trajectory(budgets: np.ndarray) -> Trajectory:
    rng = np.random.default_rng(0)
    shape = (len(budgets), max(BUDGETS))
    lengths = rng.integers(1, budgets + 1).astype(np.int32)
    none = np.zeros(shape, bool)
    return Trajectory(
        tokens=rng.integers(0, 9, shape).astype(np.int32),
        lengths=lengths,
        stopped=lengths < budgets,
        budgets=budgets,
        actions=rng.integers(0, 3, shape).astype(np.int32),
        decisions=none,  # of a policy that learns nothing
        entropy=np.zeros(shape, np.float32),
        top_probability=rng.uniform(0.9, 1.0, shape).astype(np.float32),
        features=np.zeros((0, 0), np.float32),
        row_steps=0,
        columns=0,
        prompt_tokens=0,
    )


@pytest.mark.parametrize("cut", [True, False])
def test_counts_are_those_of_a_loop(cut: bool) -> None:
    done = trajectory(np.full(40, 24, np.int32) if cut else np.repeat(np.int32(BUDGETS), 20))
    found: dict[str, Any] = json.loads(behaviour_of(done, ACTIONS, Tokenizer(), BUDGETS, {}, cut=cut).tobytes())
    assert found["actions"] == ["greedy", "T 0.5", "T 1, top-k 8"]
    remaining, tokens = np.zeros((BINS, 3), int), np.zeros((9, 3), int)
    lengths = np.zeros(BINS, int)
    used: dict[int, list[int]] = {budget: [] for budget in BUDGETS}
    for n, length in enumerate(done.lengths.tolist()):
        budget = int(done.budgets[n])
        for limit in BUDGETS if cut else (budget,):
            used[limit].append(min(length, limit))
        lengths[min(length // 2, BINS - 1)] += budget == 24  # bins of two tokens
        for step in range(length):
            if done.top_probability[n, step] <= 0.95:
                remaining[min((budget - step) // 2, BINS - 1), done.actions[n, step]] += 1
                tokens[done.tokens[n, step], done.actions[n, step]] += 1
    np.testing.assert_allclose(found["mean_tokens"], [np.mean(used[budget]) for budget in BUDGETS])
    np.testing.assert_array_equal(found["lengths"]["counts"], lengths)
    np.testing.assert_array_equal(found["remaining"]["counts"], remaining)
    assert dict(map(tuple, found["tokens"])) == {f"<{token}>": tokens[token].tolist() for token in range(9)}
    sums = [sum(counts) for _, counts in found["tokens"]]
    assert sums == sorted(sums, reverse=True)

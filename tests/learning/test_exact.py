"""Exact gradients on steps whose right action is known, and the expected Pass@B in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.evaluation.chances import RightSteps
from adaptive_jax.learning.exact import ExactSettings, expected, fit_exactly
from adaptive_jax.policies.token import token_adapter

HIDDEN = 8
ACTIONS = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.0), SamplingParams(1.25)])


def steps(seed: int, *, told: bool = True, questions: int = 40) -> RightSteps:
    """One right completion of two steps for each question: what its first number says chooses the action that draws it."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, 2 * questions)
    hidden = rng.normal(size=(2 * questions, HIDDEN)).astype(np.float32)
    hidden[:, 0] = np.where(told, 3.0 * (2 * kind - 1), 0.0)
    drawn = np.where(kind[:, None] == 0, [[0.9, 0.3, 0.1]], [[0.0, 0.3, 0.5]]).astype(np.float32)
    every, place = np.ones(2 * questions, np.float32), np.tile(np.arange(2, dtype=np.int32), questions)
    completion, question = np.repeat(np.arange(questions, dtype=np.int32), 2), np.arange(questions, dtype=np.int32)
    return RightSteps(hidden, every, every, place, place, drawn, completion, question, questions, 4, ACTIONS)


@pytest.mark.parametrize("samples", [1, 4])
def test_what_can_be_told_is_learnt(samples: int) -> None:
    known, unseen = steps(0), steps(1)
    settings = ExactSettings(updates=300, samples=samples)
    adapter, history = fit_exactly(
        token_adapter(HIDDEN, actions=ACTIONS, budget_scale=4), [known], settings, validation=[unseen]
    )
    best = np.prod(unseen.drawn.max(axis=1).reshape(-1, 2), axis=1)  # the better action at every step
    alone = max(expected(unseen.alone(action), samples) for action in range(3))
    reached = expected(unseen.under(adapter), samples)
    assert alone + 0.05 < reached <= expected(best, samples) + 1e-6
    assert reached > expected(best, samples) - 0.02
    assert max(metrics["validation_reward"] for metrics in history) == pytest.approx(reached, abs=1e-5)
    assert [metrics["update"] for metrics in history] == list(range(10, 301, 10))


def test_what_grows_is_the_expected_pass_at_b() -> None:
    """The first reported reward is that of the untrained adapter, which takes each action with the same chance."""
    known = steps(0)
    settings = ExactSettings(updates=1, samples=3, validate_every=1)
    _, history = fit_exactly(token_adapter(HIDDEN, actions=ACTIONS), [known], settings, validation=[known])
    chance = np.prod(known.drawn.mean(axis=1).reshape(-1, 2), axis=1)
    assert history[0]["reward"] == pytest.approx(np.mean(1 - (1 - chance) ** 3), abs=1e-6)


def test_where_nothing_can_be_told_the_best_action_alone_is_kept() -> None:
    known, unseen = steps(0, told=False), steps(1, told=False)
    settings = ExactSettings(updates=40, samples=1)
    adapter, _ = fit_exactly(token_adapter(HIDDEN, actions=ACTIONS), [known], settings, validation=[unseen])
    best = int(np.argmax([expected(unseen.alone(action), 1) for action in range(3)]))
    chosen = jax.nn.softmax(adapter.logits(jnp.asarray(np.random.default_rng(2).normal(size=(5, HIDDEN + 12)), jnp.float32)))
    np.testing.assert_allclose(chosen[:, best], 1.0, atol=1e-6)

"""Summed chances against the share of right ones among many draws of the decoding loop."""

import jax
import numpy as np
import pytest
from flax import nnx

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.chances import RightSteps, right_completions, right_steps
from adaptive_jax.evaluation.evaluate import evaluate
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.fixed import MixedPolicy, mixed, static
from adaptive_jax.policies.token import TokenAdapter, token_adapter
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Problem

BUDGET, DRAWS, QUESTIONS = 12, 1024, 4
SETTINGS = [SamplingParams(0.0), SamplingParams(1.0), SamplingParams(1.5, top_k=3)]


def even(problem: Problem, text: str) -> bool:
    """So that a question has many right completions."""
    digits = [character for character in text if character.isdigit()]
    return bool(digits) and int(digits[-1]) % 2 == 0


@pytest.fixture(scope="module")
def environment() -> Environment:
    return Environment(load_lm("tiny"), load_problems("arithmetic", split="test", limit=QUESTIONS), "none", reward=even)


@pytest.fixture(scope="module")
def steps(environment: Environment) -> RightSteps:
    right = right_completions(environment, [mixed(SETTINGS)], BUDGET, completions=256, rows=128)
    assert min(map(len, right)) >= 3
    return right_steps(environment, right, SamplingParams.stack(SETTINGS), BUDGET, rows=64)


def drawn(environment: Environment, policy: Policy) -> np.ndarray:
    """The share of right ones among completions of each question that the steps know nothing of."""
    return evaluate(environment, policy, [BUDGET], completions=DRAWS, seed=7, rows=128).correct.mean(axis=(1, 2))


def agree(chances: np.ndarray, shares: np.ndarray) -> None:
    """Within four standard errors, and of a sum that misses no more than a hundredth."""
    assert np.all(np.abs(chances - shares) <= 4 * np.sqrt(shares * (1 - shares) / DRAWS) + 0.01), (chances, shares)


def scrambled(environment: Environment) -> TokenAdapter:
    """An adapter whose choice depends on the hidden state and the budget."""
    adapter = token_adapter(environment.lm.config.hidden_size, actions=SamplingParams.stack(SETTINGS), budget_scale=BUDGET)
    leaves, tree = jax.tree.flatten(adapter.params)
    rng = np.random.default_rng(0)
    params: nnx.State = jax.tree.unflatten(tree, [rng.normal(scale=0.5, size=leaf.shape).astype(np.float32) for leaf in leaves])
    return adapter.replace(params=params)


@pytest.mark.parametrize("action", range(len(SETTINGS)))
def test_an_action_alone(environment: Environment, steps: RightSteps, action: int) -> None:
    agree(steps.alone(action), drawn(environment, MixedPolicy(SamplingParams.stack(SETTINGS[action : action + 1]))))


def test_an_adapter_that_changes_its_mind(environment: Environment, steps: RightSteps) -> None:
    adapter = scrambled(environment)
    chances = steps.under(adapter)
    assert not any(np.allclose(chances, steps.alone(action), atol=0.02) for action in range(len(SETTINGS)))
    agree(chances, drawn(environment, adapter))


def test_what_was_never_drawn_right_has_no_chance(environment: Environment, steps: RightSteps) -> None:
    """A question without a right completion counts as 0; without any, there is nothing to sum."""
    actions, right = steps.actions, right_completions(environment, [static(0.0)], BUDGET, completions=1)
    one = [right[0] or {(5,)}, *[set()] * (QUESTIONS - 1)]
    assert right_steps(environment, one, actions, BUDGET).alone(0)[1:].tolist() == [0.0] * (QUESTIONS - 1)
    with pytest.raises(ValueError, match="draw more"):
        right_steps(environment, [set()] * QUESTIONS, actions, BUDGET)


def test_a_boxed_answer_is_right_though_nobody_drew_it() -> None:
    lm = load_lm("tiny")
    problems = load_problems("arithmetic", split="test", limit=8)
    found = right_completions(Environment(lm, problems, "none"), [static(2.0)], BUDGET, completions=1)
    texts = [{lm.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in own} for own in found]
    assert all(rf"\boxed{{{problem.answer}}}" in own for problem, own in zip(problems, texts, strict=True))
    assert not any(problem.answer in own for problem, own in zip(problems, texts, strict=True))  # unboxed, it is wrong

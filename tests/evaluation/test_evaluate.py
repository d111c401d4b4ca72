"""Scores of policies at several budgets at once: on the counting model in closed form, and on `tiny` itself."""

import hashlib

import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.environment import Environment
from adaptive_jax.evaluation.evaluate import evaluate, score_actions
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.fixed import MixedPolicy, static
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import VERDICTS
from tests.decoding.counting_lm import greedy_completion
from tests.learning.questions import STOP, GreedyPath
from tests.policies.adapters import random_adapter


class Measured(GreedyPath):
    """The verdict tells which question was judged and how many of its tokens; nothing is known of question 3."""

    @staticmethod
    def verdict(question: int, length: int) -> str:
        digest = hashlib.sha256(f"{question} {length}".encode()).digest()
        return "error" if question == 3 else "correct" if digest[0] % 2 else "wrong"

    def verdicts(self, tokens: np.ndarray, lengths: np.ndarray, asked: np.ndarray) -> list[str]:
        return [self.verdict(int(question), int(length)) for question, length in zip(asked, lengths, strict=True)]


@pytest.mark.parametrize("sees_budget", [False, True])
def test_scores_lie_where_they_belong(sees_budget: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixedPolicy, "sees_budget", sees_budget)
    environment, budgets = Measured(8), (9, 2, 30)
    seen: list[int] = []
    scores = evaluate(environment, static(0.0), budgets, seed=5, completions=2, rows=16, on_progress=seen.append)
    assert scores.rewards.shape == scores.valid.shape == (8, 2, 3)
    for q in range(8):
        whole = len(greedy_completion(environment.prompts[q], 30, STOP))
        expected = [environment.verdict(q, min(whole, budget)) == "correct" for budget in budgets]
        np.testing.assert_array_equal(scores.rewards[q], [expected, expected])
        assert (scores.valid[q] == (q != 3)).all()
    counts = dict(zip(VERDICTS, scores.verdicts, strict=True))
    assert (counts["error"], counts["correct"]) == (2 * 3, scores.rewards.sum())
    assert sum(counts.values()) == 8 * 2 * 3
    assert seen == sorted(seen)
    assert seen[-1] == (48 if sees_budget else 16)


def test_a_policy_that_sees_the_budget_is_rolled_out_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, policy = GreedyPath(40), random_adapter(2, "hidden+budget", scale=3.0)
    options = {"seed": 5, "completions": 2, "rows": 16}
    each = evaluate(environment, policy, (3, 30), **options)
    for k, budget in enumerate((3, 30)):
        alone = evaluate(environment, policy, (budget,), **options)
        np.testing.assert_array_equal(alone.rewards[:, :, 0], each.rewards[:, :, k])
    monkeypatch.setattr(TokenAdapter, "sees_budget", False)
    prefixes = evaluate(environment, policy, (3, 30), **options)
    assert not np.array_equal(prefixes.rewards[:, :, 0], each.rewards[:, :, 0])


def test_one_rollout_is_enough_for_a_policy_that_ignores_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embedded model."""
    lm = load_lm("tiny")
    environment = Environment(lm, load_problems("arithmetic", limit=24), "none")

    once = evaluate(environment, static(0.7), (3, 24), seed=5, rows=8)
    monkeypatch.setattr(MixedPolicy, "sees_budget", True)
    each = evaluate(environment, static(0.7), (3, 24), seed=5, rows=8)
    np.testing.assert_array_equal(once.rewards, each.rewards)
    np.testing.assert_array_equal(once.valid, each.valid)
    assert once.valid.all()
    assert set(np.unique(once.rewards)) <= {0, 1}
    assert 0 < once.accuracy()[1] < 1


def test_every_action_is_scored_on_every_question() -> None:
    """Completion g of action a is completion a + A g of the question under that action alone."""
    environment, budgets = GreedyPath(12), (4, 20)
    settings = [SamplingParams(0.0), SamplingParams(1.0), SamplingParams(0.3)]
    seen: list[int] = []
    options = {"seed": 5, "rows": 16}
    scores = score_actions(
        environment, SamplingParams.stack(settings), budgets, completions=4, on_progress=seen.append, **options
    )
    assert scores.wins.shape == (2, 12, 3, 4)
    assert scores.wins.dtype == scores.known.dtype == bool
    assert scores.known.all()
    assert seen[-1] == 12 * 3 * 4
    for action, setting in enumerate(settings):
        alone = evaluate(environment, static(setting.temperature), budgets, completions=12, **options)
        np.testing.assert_array_equal(scores.wins[:, :, action], alone.rewards[:, action::3].transpose(2, 0, 1))
    assert scores.wins[:, :, 0].all()
    assert 0 < scores.wins[:, :, 1].mean() < scores.wins[:, :, 2].mean() < 1


def test_questions_that_could_not_be_graded_are_marked() -> None:
    scores = score_actions(Measured(5), SamplingParams(np.zeros(2)), (9,), completions=2, seed=5, rows=16)
    np.testing.assert_array_equal(scores.known, [True, True, True, False, True])

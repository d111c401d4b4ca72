"""Training in one call, on the embedded model: from rewards of a user's own."""

from pathlib import Path

import chex
import numpy as np
import pytest

import adaptive_jax as aj
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.learning.train import GradedRewards

BUDGETS = (12, 24)
OPTIONS = {"budgets": BUDGETS, "updates": 2, "prompts": 4, "completions": 4, "rows": 16, "seed": 3}


def environment(split: str, limit: int) -> aj.Environment:
    """Its reward is sent to workers whole; one that has a name would have each of them import this module, and JAX with it."""
    problems = aj.load_problems("arithmetic", split=split, limit=limit)
    return aj.Environment(LM, problems, "none", reward=lambda problem, text: 1 / (1 + text.count("7")))


LM = aj.load_lm("tiny")


def test_a_token_adapter_is_trained_saved_and_evaluated(tmp_path: Path) -> None:
    told: list[dict] = []
    seen = {"validation": environment("validation", 4), "on_update": told.append, "validate_every": 1}
    adapter, history = aj.train(environment("train", 16), **OPTIONS, **seen)
    assert told == history
    assert [metrics["update"] for metrics in history] == [1, 2]
    assert all(0 < metrics["reward"] < 1 and "validation_reward" in metrics for metrics in history)
    again, _ = aj.train(environment("train", 16), **OPTIONS, validation=environment("validation", 4), validate_every=1)
    chex.assert_trees_all_equal(adapter.params, again.params)
    aj.save_adapter(tmp_path / "own", adapter, LM)
    loaded = aj.load_adapter(tmp_path / "own", lm=LM)
    chex.assert_trees_all_equal(adapter.params, loaded.params)
    scores = aj.evaluate(environment("test", 8), loaded, budgets=BUDGETS, completions=4, seed=3, rows=16)
    assert scores.pass_at(1).shape == (8, 2)
    np.testing.assert_allclose(scores.pass_at(1), (scores.rewards == 1.0).mean(axis=1))
    assert scores.rewards.mean() > scores.accuracy().mean()  # what is graded is not right


def test_graded_rewards_do_not_train_for_several_samples() -> None:
    with pytest.raises(GradedRewards, match="train for samples = 1, or let rewards be 0 or 1"):
        aj.train(environment("train", 16), samples=2, **OPTIONS)
    start = aj.sequence_adapter(LM.config.hidden_size, SamplingParams(np.array([0.0, 1.0])))
    with pytest.raises(GradedRewards, match="training is for Pass@4"):
        aj.train(environment("train", 8), policy=start, **OPTIONS)


@pytest.mark.parametrize("worth", [0.5, -0.5])
def test_a_sequence_adapter_learns_by_the_same_call(worth: float) -> None:
    """What greedy decoding writes is worth more, or less, than all else: graded, and two actions to choose from."""
    problems = aj.load_problems("arithmetic", split="train", limit=16)
    prompts = [aj.prompt(LM, problem, cot=False) for problem in problems]
    done = aj.generate(LM, prompts, aj.static(0.0), max_new_tokens=24, rows=16)
    usual = {problem.id: completion.text for problem, (completion,) in zip(problems, done, strict=True)}
    start = aj.sequence_adapter(LM.config.hidden_size, aj.SamplingParams(np.array([0.0, 1.25])))
    seen = aj.Environment(LM, problems, "none", reward=lambda problem, text: 0.5 + worth * 0.8 * (text == usual[problem.id]))
    options = OPTIONS | {"budgets": (24,), "updates": 200, "completions": 2}
    adapter, history = aj.train(seen, policy=start, samples=1, **options)
    assert history[-1]["update"] == 200
    every = [aj.evaluate(seen, policy, (24,), completions=2, rows=16) for policy in (adapter, aj.static(0.0), aj.static(1.25))]
    adapted, *static = (scores.rewards.mean() for scores in every)
    assert adapted == static[worth < 0] > static[worth > 0]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"budgets": ()}, "budgets"),
        ({"updates": 0}, "updates is 0"),
        ({"completions": 1}, "completions is 1"),
        ({"samples": 4}, "samples"),
    ],
)
def test_numbers_that_cannot_be(options: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        aj.train(environment("train", 4), **OPTIONS | options)

"""The training loop on the counting model, where what is to be learnt is known."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from adaptive_jax.learning.reinforce import Decisions, reinforce_update
from adaptive_jax.learning.train import TrainingDiverged, TrainSettings, collect, draw_questions, train, usable_questions
from adaptive_jax.policies.token import TokenAdapter
from tests.learning.questions import GreedyPath
from tests.policies.adapters import small_adapter

SETTINGS = TrainSettings(
    updates=24, prompts=8, completions=8, budgets=(3, 5), learning_rate=2e-2, entropy_bonus=1e-3, rows=16, seed=1
)
ENVIRONMENT = GreedyPath(12)
EVERY = np.arange(12)


def untrained() -> TokenAdapter:
    return small_adapter(2)


def weights(adapter: TokenAdapter) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(adapter.params)]


class Scripted(GreedyPath):
    """Of the completions of question i, the first `right[i]` are right and the first `known[i]` have a known reward."""

    def __init__(self, right: list[int], known: list[int], completions: int):
        super().__init__(len(right))
        self.right, self.known, self.completions = np.array(right), np.array(known), completions

    def rewards(self, tokens: np.ndarray, lengths: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number = np.arange(len(asked)) % self.completions
        return (number < self.right[asked]).astype(np.float32), number < self.known[asked]


class Failing(GreedyPath):
    """Rewards are not finite in the calls of `bad`, counted from 1."""

    def __init__(self, bad: set[int]):
        super().__init__(12)
        self.bad, self.calls = bad, 0

    def rewards(self, tokens: np.ndarray, lengths: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls += 1
        rewards, valid = super().rewards(tokens, lengths, asked)
        return (rewards * np.nan if self.calls in self.bad else rewards), valid


def test_learns_which_action_is_right() -> None:
    """Only greedy follows the greedy path for sure: from a uniform policy to one that almost always picks it."""
    adapters, history = zip(*train(ENVIRONMENT, untrained(), SETTINGS, usable=EVERY), strict=True)
    assert [metrics["update"] for metrics in history] == list(range(1, 25))
    first, last = history[0], history[-5:]
    np.testing.assert_allclose(first["action_probabilities"], [0.25] * 4, rtol=1e-5)
    np.testing.assert_allclose(first["policy_entropy"], np.log(4), rtol=1e-5)
    assert first["reward"] < 0.5
    assert np.mean([metrics["reward"] for metrics in last]) > 0.9
    assert all(metrics["action_probabilities"][0] > 0.85 for metrics in last)
    assert all(metrics["applied"] and metrics["grader_errors"] == 0 for metrics in history)
    _, rewards, _ = collect(ENVIRONMENT, adapters[-1], SETTINGS, EVERY, np.full(12, 5), update=999)
    assert rewards.mean() > 0.9


def test_an_update_is_a_function_of_settings_and_number() -> None:
    runs = [list(itertools.islice(train(ENVIRONMENT, untrained(), SETTINGS, usable=EVERY), 2)) for _ in range(2)]
    for (left, metrics), (right, same) in zip(*runs, strict=True):
        assert weights(left) == weights(right)
        assert metrics == same
    assert weights(runs[0][0][0]) != weights(runs[0][1][0])
    other = dataclasses.replace(SETTINGS, seed=2)
    adapter, _ = next(train(ENVIRONMENT, untrained(), other, usable=EVERY))
    assert weights(adapter) != weights(runs[0][0][0])


def test_an_update_is_made_of_the_decisions_whose_reward_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, actions, advantages and the entropy bonus of three updates, put together anew by a plain loop."""
    environment = Scripted(right=[i % 9 for i in range(12)], known=[8 - i % 3 for i in range(12)], completions=8)
    settings = dataclasses.replace(SETTINGS, updates=3)
    made = []

    def spy(policy: TokenAdapter, opt_state: Any, batch: Decisions, bonus: jax.Array, **options: Any) -> Any:
        made.append((policy, batch, bonus))
        return reinforce_update(policy, opt_state, batch, bonus, **options)

    monkeypatch.setattr("adaptive_jax.learning.train.reinforce_update", spy)
    assert len(list(train(environment, untrained(), settings, usable=EVERY))) == len(made) == 3
    for update, (policy, batch, bonus) in enumerate(made, start=1):
        asked, budgets = draw_questions(EVERY, settings, update)
        trajectory, rewards, valid = collect(environment, policy, settings, asked, budgets, update)
        features = iter(trajectory.features)
        expected = []
        for n in range(64):
            q, i = divmod(n, 8)
            others = [rewards[q, j] for j in range(8) if j != i and valid[q, j]]
            for t in np.flatnonzero(trajectory.decisions[n]):
                feature = next(features)
                if valid[q, i]:
                    expected.append((feature, trajectory.actions[n, t], rewards[q, i] - np.mean(others)))
        count = len(expected)
        assert count < trajectory.decisions.sum()
        np.testing.assert_array_equal(batch.weight, np.arange(len(batch.weight)) < count)
        for found, wanted in zip((batch.features, batch.actions, batch.advantages), zip(*expected, strict=True), strict=True):
            np.testing.assert_allclose(found[:count], np.stack(wanted), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(bonus, 1e-3 * (1.0, 0.55, 0.1)[update - 1], rtol=1e-5)


def test_metrics_describe_the_rollouts() -> None:
    asked, budgets = draw_questions(EVERY, SETTINGS, 1)
    trajectory, rewards, valid = collect(ENVIRONMENT, untrained(), SETTINGS, asked, budgets, 1)
    np.testing.assert_array_equal(trajectory.budgets, np.repeat(budgets, 8))
    assert rewards.shape == valid.shape == (8, 8)
    _, metrics = next(train(ENVIRONMENT, untrained(), SETTINGS, usable=EVERY))
    assert metrics["reward"] == pytest.approx(rewards.mean())
    assert metrics["decisions"] == trajectory.decisions.sum()
    assert metrics["new_tokens"] == pytest.approx(trajectory.lengths.mean())
    assert 0 < metrics["useful_row_steps"] <= 1


def test_a_question_twice_in_an_update_gets_other_draws() -> None:
    """Few usable questions come several times in an update; equal completions would count the same luck twice."""
    trajectory, _, _ = collect(ENVIRONMENT, untrained(), SETTINGS, np.array([4, 4]), np.array([5, 5]), update=1)
    completions = [tuple(trajectory.new_tokens(n)) for n in range(16)]
    assert completions[:8] != completions[8:]


def test_unknown_rewards_are_counted_and_do_not_teach() -> None:
    environment = Scripted(right=[4] * 12, known=[6] * 12, completions=8)
    adapter, metrics = next(train(environment, untrained(), SETTINGS, usable=EVERY))
    assert metrics["grader_errors"] == 8 * 2
    assert metrics["reward"] == pytest.approx(4 / 6)
    unknown = Scripted(right=[4] * 12, known=[0] * 12, completions=8)
    same, metrics = next(train(unknown, untrained(), SETTINGS, usable=EVERY))
    assert metrics["reward"] == 0
    assert metrics["applied"]
    assert weights(same) == weights(untrained())
    assert weights(adapter) != weights(untrained())


def test_divergence_stops_the_run() -> None:
    environment = Failing(bad=set(range(1, 100)))
    run = train(environment, untrained(), dataclasses.replace(SETTINGS, max_skipped=2), usable=EVERY)
    for _ in range(2):
        adapter, metrics = next(run)
        assert not metrics["applied"]
        assert weights(adapter) == weights(untrained())
    with pytest.raises(TrainingDiverged, match=r"3 updates in a row.*update 3.*lower the learning rate"):
        next(run)


def test_skipped_updates_with_good_ones_between_are_survived(caplog: pytest.LogCaptureFixture) -> None:
    settings = dataclasses.replace(SETTINGS, updates=7, max_skipped=2)
    run = list(train(Failing(bad={1, 2, 4, 5, 7}), untrained(), settings, usable=EVERY))
    assert [metrics["applied"] for _, metrics in run] == [False, False, True, False, False, True, False]
    assert [metrics["skipped_updates"] for _, metrics in run] == [1, 2, 2, 3, 4, 4, 5]
    adapters = [weights(adapter) for adapter, _ in run]
    assert adapters[0] == adapters[1] == weights(untrained())
    assert adapters[1] != adapters[2] == adapters[3] == adapters[4] != adapters[5] == adapters[6]
    assert [message.split(":")[0] for message in caplog.messages] == [f"update {n} was skipped" for n in (1, 2, 4, 5, 7)]


@pytest.mark.parametrize(
    ("usable", "changes", "message"),
    [([], {}, "no question carries a signal"), ([0, 1], {"completions": 1}, "completions is 1.*at least 2")],
)
def test_what_cannot_teach_is_refused(usable: list[int], changes: dict[str, int], message: str) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=message):
        next(train(ENVIRONMENT, untrained(), settings, usable=np.array(usable, int)))


def test_opening_pass_finds_the_questions_that_teach() -> None:
    right = [0, 1, 8, 7, 4, 4, 8]
    known = [8, 8, 8, 8, 4, 5, 7]  # of question 4 all known rewards are 1, of 5 not, of 6 all are
    environment = Scripted(right, known, completions=8)
    settings = dataclasses.replace(SETTINGS, filter_completions=8)
    np.testing.assert_array_equal(usable_questions(environment, untrained(), settings), [1, 3, 5])


def test_opening_pass_can_be_left_out() -> None:
    settings = dataclasses.replace(SETTINGS, filter_completions=0)
    np.testing.assert_array_equal(usable_questions(ENVIRONMENT, untrained(), settings), EVERY)


def test_opening_pass_sees_solved_and_unsolved_completions() -> None:
    """On the counting model itself: with a budget of 1, whoever stops by luck is as right as greedy decoding says."""
    environment = GreedyPath(30)
    settings = dataclasses.replace(SETTINGS, budgets=(1,), filter_completions=8)
    usable = usable_questions(environment, untrained(), settings)
    assert 0 < len(usable) < 30
    assert len(set(usable.tolist())) == len(usable)


@pytest.mark.parametrize("prompts", [3, 7, 8, 20])
def test_every_usable_question_comes_once_per_epoch(prompts: int) -> None:
    usable = np.array([2, 3, 5, 7, 11, 13, 17])
    settings = dataclasses.replace(SETTINGS, prompts=prompts)
    asked = np.concatenate([draw_questions(usable, settings, update)[0] for update in range(1, 30)])
    epochs = asked[: len(asked) // 7 * 7].reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(usable, epochs.shape))
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) / 2


def test_questions_and_budgets_depend_on_settings_and_update_only() -> None:
    drawn = {update: draw_questions(EVERY, SETTINGS, update) for update in range(1, 200)}
    for update in (150, 3, 42):
        for left, right in zip(draw_questions(EVERY, SETTINGS, update), drawn[update], strict=True):
            np.testing.assert_array_equal(left, right)
    budgets = np.concatenate([budgets for _, budgets in drawn.values()])
    assert set(budgets.tolist()) == {3, 5}
    assert abs((budgets == 3).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(budgets))
    other = draw_questions(EVERY, dataclasses.replace(SETTINGS, seed=9), 1)
    assert not all(map(np.array_equal, other, drawn[1]))

"""The training loop on the counting model, where what is to be learnt is known."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.environment import Grading
from adaptive_jax.learning.reinforce import Decisions, reinforce_update
from adaptive_jax.learning.train import (
    TrainingDiverged,
    TrainSettings,
    TrainState,
    collect,
    draw_questions,
    first_state,
    train,
    validate,
)
from adaptive_jax.policies.fixed import mixed
from adaptive_jax.policies.token import PAPER_ACTIONS, TokenAdapter
from adaptive_jax.runs.directory import Metrics
from adaptive_jax.runs.records import named_leaves, replace_leaves
from tests.learning.questions import GreedyPath
from tests.policies.adapters import small_adapter

SETTINGS = TrainSettings(
    updates=24, prompts=8, completions=8, budgets=(3, 5), learning_rate=2e-2, entropy_bonus=1e-3, rows=16, seed=1
)
ENVIRONMENT = GreedyPath(12)
EVERY = np.arange(12)


def untrained() -> TokenAdapter:
    return small_adapter(2)


def trained(
    environment: Any, settings: TrainSettings, state: TrainState | None = None, validation: Any = None
) -> Iterator[tuple[TrainState, Metrics]]:
    """Training from the start, or from `state` on."""
    return train(environment, state or first_state(untrained(), settings, 12), settings, validation=validation)


def bits(state: TrainState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in named_leaves(state).items()}


def weights(adapter: TokenAdapter) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(adapter.params)]


class Scripted(GreedyPath):
    """Of the completions of question i, the first `right[i]` are right and the first `known[i]` have a known reward."""

    def __init__(self, right: list[int], known: list[int], completions: int):
        super().__init__(len(right))
        self.right, self.known, self.completions = np.array(right), np.array(known), completions

    def grading(self, asked: np.ndarray, cuts: Sequence[int] | None = None) -> Grading:
        number = np.arange(len(asked)) % self.completions
        rewards, valid = number < self.right[asked], number < self.known[asked]
        return GivenRewards(rewards[:, None].astype(np.float32), valid[:, None])


class Failing(GreedyPath):
    """Rewards are not finite in the calls of `bad`, counted from 1."""

    def __init__(self, bad: set[int]):
        super().__init__(12)
        self.bad, self.calls = bad, 0

    def grading(self, asked: np.ndarray, cuts: Sequence[int] | None = None) -> Grading:
        self.calls += 1
        if self.calls not in self.bad:
            return super().grading(asked, cuts)
        return GivenRewards(np.full((len(asked), 1), np.nan, np.float32), np.ones((len(asked), 1), bool))


class GivenRewards(Grading):
    """Rewards that are known beforehand, float32 [N, 1] where bool [N, 1]."""

    def __init__(self, rewards: np.ndarray, valid: np.ndarray):
        super().__init__(GreedyPath(1), np.zeros(len(rewards), int), None)
        self.given = rewards, valid

    def rewards(self) -> tuple[np.ndarray, np.ndarray]:
        return self.given


def test_learns_which_action_is_right() -> None:
    """Only greedy follows the greedy path for sure: from a uniform policy to one that almost always picks it."""
    states, history = zip(*trained(ENVIRONMENT, SETTINGS), strict=True)
    assert [metrics["update"] for metrics in history] == list(range(1, 25))
    first, last = history[0], history[-5:]
    np.testing.assert_allclose(first["action_probabilities"], [0.25] * 4, rtol=1e-5)
    np.testing.assert_allclose(first["policy_entropy"], np.log(4), rtol=1e-5)
    assert first["reward"] < 0.5
    assert np.mean([metrics["reward"] for metrics in last]) > 0.9
    assert all(metrics["action_probabilities"][0] > 0.85 for metrics in last)
    assert all(metrics["applied"] and metrics["grader_errors"] == 0 for metrics in history)
    _, rewards, _ = collect(ENVIRONMENT, states[-1].adapter, SETTINGS, EVERY, np.full(12, 5), update=999)
    assert rewards.mean() > 0.9


@pytest.mark.parametrize("changes", [{"rule": "lpo", "beta": 0.3}, {"samples": 4}])
def test_learns_which_action_is_right_by_preferences_and_by_pass_at_b(changes: dict[str, Any]) -> None:
    *_, (state, _) = trained(ENVIRONMENT, dataclasses.replace(SETTINGS, **changes))
    _, rewards, _ = collect(ENVIRONMENT, untrained(), SETTINGS, EVERY, np.full(12, 5), update=999)
    _, later, _ = collect(ENVIRONMENT, state.adapter, SETTINGS, EVERY, np.full(12, 5), update=999)
    assert later.mean() > rewards.mean() + 0.2


def test_the_rewards_samples_need_as_many_other_completions() -> None:
    for samples in (0, 8):
        with pytest.raises(ValueError, match=f"samples is {samples}: give 1 to 7"):
            first_state(untrained(), dataclasses.replace(SETTINGS, samples=samples), 12)


def test_an_update_is_a_function_of_settings_and_number() -> None:
    runs = [list(itertools.islice(trained(ENVIRONMENT, SETTINGS), 2)) for _ in range(2)]
    for (left, metrics), (right, same) in zip(*runs, strict=True):
        assert bits(left) == bits(right)
        assert metrics == same
    assert weights(runs[0][0][0].adapter) != weights(runs[0][1][0].adapter)
    state, _ = next(trained(ENVIRONMENT, dataclasses.replace(SETTINGS, seed=2)))
    assert weights(state.adapter) != weights(runs[0][0][0].adapter)


def test_training_goes_on_from_any_state_as_if_nothing_had_happened() -> None:
    """From its arrays alone, put into a fresh state: optimiser, counters, best policy, questions and draws included."""
    settings = dataclasses.replace(SETTINGS, updates=5, max_skipped=2, validate_every=2)
    watched = GreedyPath(5)
    whole = list(trained(Failing(bad={2, 3}), settings, validation=watched))
    assert [state.update for state, _ in whole] == [1, 2, 3, 4, 5]
    assert [(state.skipped, state.total_skipped) for state, _ in whole] == [(0, 0), (1, 1), (2, 2), (0, 2), (0, 2)]
    fresh = first_state(untrained(), settings, 12)
    assert len({state.next_batch_digest.tobytes() for state, _ in [*whole, (fresh, {})]}) == 6
    for done in (1, 3, 5):
        start = replace_leaves(fresh, named_leaves(whole[done - 1][0]))
        environment = Failing(bad={2 - done, 3 - done})
        resumed = trained(environment, settings, start, watched)
        for (left, metrics), (right, same) in zip(resumed, whole[done:], strict=True):
            assert bits(left) == bits(right)
            np.testing.assert_equal(metrics, same)


def test_the_policy_that_validated_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the validated ones only, the earlier of two that are level, and bit for bit; without validation the last one."""
    rewards = iter([0.1, 0.0, 0.2, 0.0, 0.3, 0.5, 0.5, 0.4])  # each action alone, then after updates 1, 2, 4, 5
    monkeypatch.setattr("adaptive_jax.learning.train.validate", lambda *_: next(rewards))
    settings = dataclasses.replace(SETTINGS, updates=5, validate_every=2)
    states, history = zip(*trained(ENVIRONMENT, settings, validation=ENVIRONMENT), strict=True)
    assert [metrics.get("validation_by_action") for metrics in history] == [[0.1, 0.0, 0.2, 0.0], None, None, None, None]
    assert [metrics.get("validation_reward") for metrics in history] == [0.3, 0.5, None, 0.5, 0.4]
    assert [float(state.best_reward) for state in states] == [0.3, 0.5, 0.5, 0.5, 0.5]
    for state, best in zip(states, (0, 1, 1, 1, 1), strict=True):
        assert weights(state.best) == weights(states[best].adapter)
    state, metrics = next(trained(ENVIRONMENT, settings))
    assert weights(state.best) == weights(state.adapter)
    assert "validation_reward" not in metrics


def test_what_is_not_above_the_best_action_alone_is_not_kept() -> None:
    """Greedy is always right, so no policy is above it; it is taken whatever is observed and drawn."""
    settings = dataclasses.replace(SETTINGS, updates=2, validate_every=1)
    states, history = zip(*trained(ENVIRONMENT, settings, validation=ENVIRONMENT), strict=True)
    alone = [validate(ENVIRONMENT, mixed([SamplingParams(t)]), settings) for t in PAPER_ACTIONS]
    assert history[0]["validation_by_action"] == alone
    assert alone[0] == 1.0 > max(*alone[1:], *(metrics["validation_reward"] for metrics in history))
    assert float(states[-1].best_reward) == 1.0
    features = np.random.default_rng(0).normal(scale=100, size=(50, 10)).astype(np.float32)
    assert (jax.nn.softmax(states[-1].best.logits(jax.numpy.asarray(features)))[:, 0] == 1.0).all()


def test_validation_is_pass_at_b_of_what_is_known() -> None:
    """Of 4 B completions per question the first `right` of them are right; one that is unknown is in no subset of B."""
    environment = Scripted(right=[0, 1, 2, 3, 4, 4], known=[4, 4, 4, 4, 4, 3], completions=4)
    assert validate(environment, untrained(), SETTINGS) == pytest.approx((1 + 2 + 3 + 4 + 3) / 23)

    right, known = [0, 1, 5, 8, 3, 1], [8, 8, 6, 3, 2, 1]  # a single known completion is no pair
    environment = Scripted(right, known, completions=8)
    pairs = [
        [max(pair) for pair in itertools.combinations([n < r for n in range(k)], 2)] for r, k in zip(right, known, strict=True)
    ]
    expected = sum(k * np.mean(solved) for k, solved in zip(known, pairs, strict=True) if solved) / sum(known[:-1])
    found = validate(environment, untrained(), dataclasses.replace(SETTINGS, samples=2))
    assert found == pytest.approx(expected)


def test_an_update_is_made_of_the_decisions_whose_reward_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, actions, advantages and the entropy bonus of three updates, put together anew by a plain loop.

    The bonus is for the decisions of prompts whose known rewards differ.
    """
    environment = Scripted(right=[i % 9 for i in range(12)], known=[8 - i % 3 for i in range(12)], completions=8)
    settings = dataclasses.replace(SETTINGS, updates=3)
    made = []

    def spy(policy: TokenAdapter, opt_state: Any, batch: Decisions, bonus: jax.Array, **options: Any) -> Any:
        made.append((policy, batch, bonus))
        return reinforce_update(policy, opt_state, batch, bonus, **options)

    monkeypatch.setattr("adaptive_jax.learning.train.reinforce_update", spy)
    assert len(list(trained(environment, settings))) == len(made) == 3
    for update, (policy, batch, bonus) in enumerate(made, start=1):
        asked, budgets = draw_questions(12, settings, update)
        trajectory, rewards, valid = collect(environment, policy, settings, asked, budgets, update)
        features = iter(trajectory.features)
        expected, teaching = [], 0
        for n in range(64):
            q, i = divmod(n, 8)
            others = [rewards[q, j] for j in range(8) if j != i and valid[q, j]]
            for t in np.flatnonzero(trajectory.decisions[n]):
                feature = next(features)
                if valid[q, i]:
                    teaching += len(set(rewards[q, valid[q]])) > 1
                    expected.append((feature, trajectory.actions[n, t], rewards[q, i] - np.mean(others)))
        count = len(expected)
        assert count < trajectory.decisions.sum()
        np.testing.assert_array_equal(batch.weight, np.arange(len(batch.weight)) < count)
        for found, wanted in zip((batch.features, batch.actions, batch.advantages), zip(*expected, strict=True), strict=True):
            np.testing.assert_allclose(found[:count], np.stack(wanted), rtol=1e-5, atol=1e-6)
        assert 0 < teaching < count
        np.testing.assert_allclose(bonus, 1e-3 * (1.0, 0.55, 0.1)[update - 1] * teaching / count, rtol=1e-5)


def test_metrics_describe_the_rollouts() -> None:
    asked, budgets = draw_questions(12, SETTINGS, 1)
    trajectory, rewards, valid = collect(ENVIRONMENT, untrained(), SETTINGS, asked, budgets, 1)
    np.testing.assert_array_equal(trajectory.budgets, np.repeat(budgets, 8))
    assert rewards.shape == valid.shape == (8, 8)
    _, metrics = next(trained(ENVIRONMENT, SETTINGS))
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
    state, metrics = next(trained(environment, SETTINGS))
    assert metrics["grader_errors"] == 8 * 2
    assert metrics["reward"] == pytest.approx(4 / 6)
    unknown = Scripted(right=[4] * 12, known=[0] * 12, completions=8)
    same, metrics = next(trained(unknown, SETTINGS))
    assert metrics["reward"] == 0
    assert metrics["applied"]
    assert weights(same.adapter) == weights(untrained())
    assert weights(state.adapter) != weights(untrained())


@pytest.mark.parametrize(
    ("cause", "named"), [("reward", "reward, loss, gradient"), ("feature", "feature, loss, gradient"), ("gradient", "gradient")]
)
def test_what_is_not_finite_stops_the_run(cause: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No update is applied, and the error holds the batch that did it."""
    environment, patched = ENVIRONMENT, {}
    if cause == "reward":
        environment = Failing(bad=set(range(1, 100)))
    elif cause == "feature":

        def poisoned(*operands: Any) -> tuple[Trajectory, np.ndarray, np.ndarray]:
            trajectory, rewards, valid = collect(*operands)
            features = trajectory.features.copy()
            features[5, 0] = np.inf
            return dataclasses.replace(trajectory, features=features), rewards, valid

        patched["collect"] = poisoned
    else:

        def exploded(*operands: Any, **options: Any) -> Any:
            adapter, opt_state, metrics = reinforce_update(*operands, **options)
            return adapter, opt_state, metrics | {"gradient_norm": np.float32("nan"), "applied": np.array(False)}

        patched["reinforce_update"] = exploded
    for name, function in patched.items():
        monkeypatch.setattr(f"adaptive_jax.learning.train.{name}", function)
    run = trained(environment, dataclasses.replace(SETTINGS, max_skipped=2))
    for count in (1, 2):
        state, metrics = next(run)
        assert not metrics["applied"]
        assert (state.skipped, metrics["skipped_updates"]) == (count, count)
        counters = {"update": count, "skipped": count, "total_skipped": count, "next_batch_digest": state.next_batch_digest}
        assert bits(state) == bits(first_state(untrained(), SETTINGS, 12).replace(**counters))
    expected = rf"3 updates in a row were skipped, the last one update 3; not finite: {named}\. Lower the learning rate"
    with pytest.raises(TrainingDiverged, match=expected) as diverged:
        next(run)
    batch = diverged.value.batch
    asked, budgets = draw_questions(12, SETTINGS, 3)
    np.testing.assert_array_equal(batch["questions"], asked)
    np.testing.assert_array_equal(batch["budgets"], budgets)
    assert batch["features"].shape == (batch["decisions"].sum(), 10)
    assert np.isfinite(batch["features"]).all() == (cause != "feature")
    assert np.isfinite(batch["rewards"]).all() == (cause != "reward")
    assert {"tokens", "lengths", "actions", "valid"} <= set(batch)


def test_skipped_updates_with_good_ones_between_are_survived(caplog: pytest.LogCaptureFixture) -> None:
    settings = dataclasses.replace(SETTINGS, updates=7, max_skipped=2)
    run = list(trained(Failing(bad={1, 2, 4, 5, 7}), settings))
    assert [metrics["applied"] for _, metrics in run] == [False, False, True, False, False, True, False]
    assert [metrics["skipped_updates"] for _, metrics in run] == [1, 2, 2, 3, 4, 4, 5]
    adapters = [weights(state.adapter) for state, _ in run]
    assert adapters[0] == adapters[1] == weights(untrained())
    assert adapters[1] != adapters[2] == adapters[3] == adapters[4] != adapters[5] == adapters[6]
    assert [message.split(":")[0] for message in caplog.messages] == [f"update {n} was skipped" for n in (1, 2, 4, 5, 7)]


@pytest.mark.parametrize(
    ("questions", "changes", "message"),
    [
        (0, {}, "no questions to train on"),
        (2, {"epochs": 0}, "epochs is 0: give at least 1"),
        (2, {"completions": 1}, "completions is 1.*at least 2"),
    ],
)
def test_what_cannot_teach_is_refused(questions: int, changes: dict[str, int], message: str) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    with pytest.raises(ValueError, match=message):
        first_state(untrained(), settings, questions)


@pytest.mark.parametrize("prompts", [3, 7, 8, 20])
def test_every_question_comes_once_per_epoch(prompts: int) -> None:
    settings = dataclasses.replace(SETTINGS, prompts=prompts)
    asked = np.concatenate([draw_questions(7, settings, update)[0] for update in range(1, 30)])
    epochs = asked[: len(asked) // 7 * 7].reshape(-1, 7)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(7), epochs.shape))
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) / 2


def test_questions_and_budgets_depend_on_settings_and_update_only() -> None:
    drawn = {update: draw_questions(12, SETTINGS, update) for update in range(1, 200)}
    for update in (150, 3, 42):
        for left, right in zip(draw_questions(12, SETTINGS, update), drawn[update], strict=True):
            np.testing.assert_array_equal(left, right)
    budgets = np.concatenate([budgets for _, budgets in drawn.values()])
    assert set(budgets.tolist()) == {3, 5}
    assert abs((budgets == 3).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(budgets))
    other = draw_questions(12, dataclasses.replace(SETTINGS, seed=9), 1)
    assert not all(map(np.array_equal, other, drawn[1]))

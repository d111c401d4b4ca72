"""Greedy selection against exhaustive search and its bound; estimates against the truth; action sets on disk."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from adaptive_jax.decoding.params import SamplingParams, setting_name
from adaptive_jax.learning.selection import (
    FILTERS,
    TEMPERATURES,
    candidates,
    coverage,
    expected_rewards,
    greedy_coverage,
    load_actions,
    save_actions,
    top_by_mean,
)


def best_coverage(scores: np.ndarray, count: int) -> float:
    return max(coverage(scores, chosen) for chosen in itertools.combinations(range(scores.shape[1]), count))


def test_candidates_are_every_temperature_with_every_filter() -> None:
    settings = candidates()
    assert len(settings) == len({setting_name(setting) for setting in settings}) == 180
    assert len(SamplingParams.stack(settings)) == 180
    assert (len(TEMPERATURES), len(FILTERS)) == (12, 15)
    assert {setting.temperature for setting in settings} == set(TEMPERATURES)
    assert SamplingParams(1.2, 0, 0.9, 0.0) in settings
    assert SamplingParams(0.3, 64, 1.0, 0.0) in settings
    assert not any((setting.top_k != 0) + (setting.top_p != 1) + (setting.min_p != 0) > 1 for setting in settings)


def test_coverage_is_the_mean_of_the_best() -> None:
    scores = np.array([[0.1, 0.5, 0.2], [0.9, 0.0, 0.3]])
    assert coverage(scores, [0]) == pytest.approx(0.5)
    assert coverage(scores, [1, 2]) == pytest.approx(0.4)
    assert coverage(scores, [2, 0, 1]) == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(30))
def test_greedy_is_within_its_bound_of_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((12, 8)) * (rng.random((12, 8)) < 0.3)
    for count in range(1, 6):
        chosen = greedy_coverage(scores, count)
        assert len(set(chosen)) == count
        assert chosen == greedy_coverage(scores, 8)[:count]
        assert (1 - 1 / math.e) * best_coverage(scores, count) <= coverage(scores, chosen) <= best_coverage(scores, count)
    assert coverage(scores, greedy_coverage(scores, 1)) == best_coverage(scores, 1)


def test_greedy_takes_what_adds_most_and_top_n_does_not() -> None:
    """Two settings for the same half of the problems, and a poorer one for the other half."""
    scores = np.array([[0.9, 0.8, 0.0]] * 5 + [[0.0, 0.1, 0.6]] * 5)
    assert greedy_coverage(scores, 2) == [1, 2] or greedy_coverage(scores, 2) == [0, 2]
    assert top_by_mean(scores, 2) == [0, 1]
    assert coverage(scores, greedy_coverage(scores, 2)) > coverage(scores, top_by_mean(scores, 2))
    assert greedy_coverage(scores, 1) == top_by_mean(scores, 1)


def test_where_nothing_adds_the_best_by_mean_follows() -> None:
    scores = np.array([[1.0, 0.2, 0.7, 0.4]] * 3)
    assert greedy_coverage(scores, 4) == top_by_mean(scores, 4) == [0, 2, 3, 1]


def true_chances(problems: int = 120, settings: int = 40) -> np.ndarray:
    """Two kinds of problems; settings along one line, on which the kinds have their best at different places."""
    place, kind = np.linspace(0, 1, settings), np.arange(problems) % 2
    return np.where(kind[:, None] == 0, 0.8 * (1 - place), 0.1 + 0.5 * place)


def test_expected_rewards_are_nearer_to_the_truth_than_the_shares() -> None:
    truth = true_chances()
    wins = np.random.default_rng(0).random((*truth.shape, 4)) < truth[..., None]
    estimate, shares = expected_rewards(wins), wins.mean(axis=-1)
    assert estimate.shape == truth.shape
    assert 0 <= estimate.min() <= estimate.max() <= 1
    assert np.square(estimate - truth).mean() < 0.2 * np.square(shares - truth).mean()
    best = coverage(truth, greedy_coverage(truth, 2))
    assert coverage(truth, greedy_coverage(estimate, 2)) > 0.97 * best


def test_expected_rewards_at_sampling_budgets() -> None:
    truth = true_chances()
    wins = np.random.default_rng(0).random((*truth.shape, 4)) < truth[..., None]
    one, three = np.split(expected_rewards(wins, (1, 3)), 2)
    np.testing.assert_array_equal(one, expected_rewards(wins))
    np.testing.assert_allclose(three, 1 - (1 - one) ** 3)


def test_certain_completions_are_taken_as_they_are() -> None:
    wins = np.repeat((np.random.default_rng(1).random((9, 6)) < 0.5)[..., None], 3, axis=-1)
    np.testing.assert_allclose(expected_rewards(wins), wins[..., 0], atol=1e-9)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (SamplingParams(0.0), "greedy"),
        (SamplingParams(1.0), "T 1"),
        (SamplingParams(0.7, top_p=0.95), "T 0.7, top-p 0.95"),
        (SamplingParams(1.2, 8, 0.9, 0.05), "T 1.2, top-k 8, top-p 0.9, min-p 0.05"),
    ],
)
def test_names(setting: SamplingParams, name: str) -> None:
    assert setting_name(setting) == name


def test_an_action_set_comes_back(tmp_path: Path) -> None:
    settings = [SamplingParams(0.7, top_p=0.9), SamplingParams(0.0), SamplingParams(2.5, 64, 1.0, 0.01)]
    save_actions(tmp_path / "actions.json", settings)
    assert load_actions(tmp_path / "actions.json") == settings
    (tmp_path / "by hand.json").write_text('{"actions": [{"temperature": 1, "min_p": 0.1}, {}]}')
    assert load_actions(tmp_path / "by hand.json") == [SamplingParams(1, min_p=0.1), SamplingParams()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{broken", "set.json: not JSON"),
        ("[1, 2]", r'set.json: no action set; it holds .*"temperature"'),
        ({}, "set.json: no action set"),
        ({"actions": []}, "set.json: no action set"),
        ({"actions": {"temperature": 1}}, "set.json: no action set"),
        ({"actions": [{"temperature": 1}, 0.7]}, "set.json, action 2: a float, where an object"),
        ({"actions": [{"temperature": "1"}]}, "set.json, action 1: temperature is '1'; write it as a number"),
        ({"actions": [{"temperature": [1, 2]}]}, "set.json, action 1: temperature is .*; write it as a number"),
        ({"actions": [{"top_k": True}]}, "set.json, action 1: top_k is True"),
        ({"actions": [{"temperature": -1}]}, "set.json, action 1: temperature must be at least 0"),
        ({"actions": [{}, {}, {"top_p": 1.5}]}, "set.json, action 3: top_p must be in"),
        ({"actions": [{"temprature": 1}]}, "set.json, action 1: .*temprature"),
    ],
)
def test_a_malformed_action_set_is_named(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_actions(path)


def test_a_missing_action_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.json: no such file; .*select_actions"):
        load_actions(tmp_path / "nowhere.json")

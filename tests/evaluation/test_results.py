"""Result rows, their JSON and their table."""

import json

import numpy as np
import pytest

from adaptive_jax.evaluation.evaluate import Scores
from adaptive_jax.evaluation.results import Gain, markdown_table, pass_rows, results_json, rows_of
from adaptive_jax.evaluation.statistics import paired_ci95

# DESIGN section 3, and what this project adds to it
FIELDS = {"method", "cot", "metric", "budget", "value", "ci95", "n", "seeds", "spread", "by_seed"}
BUDGETS = (16, 64)


def scores(first: int, second: int) -> Scores:
    """Ten questions, one completion each; so many of them are right at the two budgets."""
    rewards = np.zeros((10, 1, 2), np.float32)
    rewards[:first, 0, 0] = 1
    rewards[:second, 0, 1] = 1
    return Scores(rewards, np.ones(rewards.shape, bool))


def test_accuracy_leaves_out_what_the_grader_could_not_judge() -> None:
    rewards = np.float32([[[1, 1], [1, 0]], [[0, 1], [0, 1]]])  # [Q, G, K]
    valid = np.array([[[True, True], [False, True]], [[True, False], [True, False]]])
    np.testing.assert_allclose(Scores(rewards, valid).accuracy(), [1 / 3, 1 / 2])
    np.testing.assert_array_equal(Scores(rewards, np.zeros_like(valid)).accuracy(), [0, 0])


def test_rows_of_one_run() -> None:
    rows = rows_of("greedy", "all", BUDGETS, [scores(2, 5)])
    assert [row.budget for row in rows] == [16, 64, "mean"]
    assert [row.value for row in rows] == pytest.approx([0.2, 0.5, 0.35])
    for row in rows:
        assert (row.method, row.cot, row.metric, row.n, row.seeds) == ("greedy", "all", "pass@1", 10, 1)
        assert row.ci95 == pytest.approx(1.96 * (row.value * (1 - row.value) / 10) ** 0.5)
        assert row.spread == 0
        assert row.by_seed == (row.value,)


def test_rows_of_several_seeds() -> None:
    rows = rows_of("token adapter, budget", "mix", BUDGETS, [scores(2, 6), scores(4, 6), scores(6, 9)])
    assert [row.value for row in rows] == pytest.approx([0.4, 0.7, 0.55])
    assert [row.spread for row in rows] == pytest.approx([0.2, 0.03**0.5, np.std([0.4, 0.5, 0.75], ddof=1)])
    assert rows[0].by_seed == pytest.approx((0.2, 0.4, 0.6))
    assert rows[2].by_seed == pytest.approx((0.4, 0.5, 0.75))
    assert {row.seeds for row in rows} == {3}
    assert {row.n for row in rows} == {10}


def test_json_has_the_fields_that_are_promised() -> None:
    rows = rows_of("greedy", "none", BUDGETS, [scores(0, 10)])
    verdicts = {"greedy": np.array([3, 4, 0, 1, 2])}
    content = json.loads(json.dumps(results_json("math_token", "tiny", "arithmetic", rows, verdicts)))
    assert set(content) == {"experiment", "model", "dataset", "rows", "verdicts"}
    assert content["verdicts"] == {"greedy": {"correct": 3, "wrong": 4, "unparseable": 0, "timeout": 1, "error": 2}}
    assert [content[key] for key in ("experiment", "model", "dataset")] == ["math_token", "tiny", "arithmetic"]
    assert len(content["rows"]) == 3
    for row in content["rows"]:
        assert set(row) == FIELDS
        assert 0 <= row["value"] <= 1
        assert 0 <= row["ci95"] <= 1


def test_rows_of_pass_at_k() -> None:
    rng = np.random.default_rng(0)
    baseline, *runs = rng.random((4, 20, 3))
    plain = pass_rows("best static", "mix", 28, [baseline])
    assert [(row.metric, row.budget, row.cot, row.n, row.seeds, row.spread) for row in plain] == [
        (f"pass@{k}", 28, "mix", 20, 1, 0) for k in (1, 2, 3)
    ]
    assert [row.value for row in plain] == pytest.approx(baseline.mean(axis=0))
    assert all(row.gain is None for row in plain)
    compared = pass_rows("adapter", "mix", 28, runs, ("best static", baseline))
    for k, row in enumerate(compared):
        by_seed = [run[:, k].mean() for run in runs]
        assert (row.seeds, row.by_seed) == (3, pytest.approx(by_seed))
        assert row.value == pytest.approx(np.mean(by_seed))
        assert row.spread == pytest.approx(np.std(by_seed, ddof=1))
        assert row.ci95 == pytest.approx(1.96 * (row.value * (1 - row.value) / 20) ** 0.5)
        ahead = np.mean([run[:, k] for run in runs], axis=0) - baseline[:, k]
        assert row.gain == Gain("best static", pytest.approx(ahead.mean()), paired_ci95(ahead))
    content = json.loads(json.dumps(results_json("math_sequence", "tiny", "arithmetic", plain + compared)))["rows"]
    assert [set(row) - FIELDS for row in content] == [set()] * 3 + [{"gain"}] * 3
    assert content[3]["gain"]["over"] == "best static"


def test_table() -> None:
    rows = rows_of("greedy", "all", BUDGETS, [scores(2, 5)])
    rows += rows_of("token adapter, budget", "all", BUDGETS, [scores(2, 6), scores(4, 9)])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown_table(rows).splitlines()]
    header, rule, *body = lines
    assert header == ["method", "b = 16", "b = 64", "mean", "mean, each seed"]
    assert {cell.strip("-") for cell in rule} <= {":", ""}
    assert body == [
        ["greedy", "20.0 ± 24.8", "50.0 ± 31.0", "35.0 ± 29.6", ""],
        ["token adapter, budget", "30.0 ± 28.4", "75.0 ± 26.8", "52.5 ± 31.0", "40.0 / 65.0 (sd 17.7)"],
    ]
    assert {len(line) for line in lines} == {5}

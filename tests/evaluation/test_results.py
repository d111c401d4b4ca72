"""Result rows, their JSON and their table."""

import json

import numpy as np
import pytest

from adaptive_jax.evaluation.evaluate import Scores
from adaptive_jax.evaluation.results import Gain, Row, budget_rows, markdown_table, pass_rows, points, results_json
from adaptive_jax.evaluation.statistics import paired_ci95

# DESIGN section 3, and what this project adds to it
FIELDS = {"method", "cot", "metric", "budget", "value", "ci95", "n", "seeds", "spread", "by_seed"}
BUDGETS = (16, 64)


def scores(first: int, second: int) -> np.ndarray:
    """Ten questions; so many of them are right at the two budgets."""
    return (np.arange(10)[:, None] < [first, second]).astype(np.float64)


def rows_of(method: str, cot: str, runs: list[np.ndarray], over: tuple[str, np.ndarray] | None = None) -> list[Row]:
    return budget_rows(method, cot, "pass@1", BUDGETS, runs, over)


def test_accuracy_leaves_out_what_the_grader_could_not_judge() -> None:
    rewards = np.float32([[[1, 1], [1, 0]], [[0, 1], [0, 1]]])  # [Q, G, K]
    valid = np.array([[[True, True], [False, True]], [[True, False], [True, False]]])
    np.testing.assert_allclose(Scores(rewards, valid).accuracy(), [1 / 3, 1 / 2])
    np.testing.assert_array_equal(Scores(rewards, np.zeros_like(valid)).accuracy(), [0, 0])
    known = Scores(rewards, valid)
    np.testing.assert_array_equal(known.pass_at(1), [[np.nan, 0.5], [0, np.nan]])
    np.testing.assert_array_equal(known.pass_at(2), [[np.nan, 1.0], [0, np.nan]])


def test_rows_of_one_run() -> None:
    rows = rows_of("greedy", "all", [scores(2, 5)])
    assert [row.budget for row in rows] == [16, 64, "mean"]
    assert [row.value for row in rows] == pytest.approx([0.2, 0.5, 0.35])
    for row in rows:
        assert (row.method, row.cot, row.metric, row.n, row.seeds) == ("greedy", "all", "pass@1", 10, 1)
        assert row.ci95 == pytest.approx(1.96 * (row.value * (1 - row.value) / 10) ** 0.5)
        assert row.spread == 0
        assert row.by_seed == (row.value,)


def test_rows_of_several_seeds() -> None:
    rows = rows_of("token adapter, budget", "mix", [scores(2, 6), scores(4, 6), scores(6, 9)])
    assert [row.value for row in rows] == pytest.approx([0.4, 0.7, 0.55])
    assert [row.spread for row in rows] == pytest.approx([0.2, 0.03**0.5, np.std([0.4, 0.5, 0.75], ddof=1)])
    assert rows[0].by_seed == pytest.approx((0.2, 0.4, 0.6))
    assert rows[2].by_seed == pytest.approx((0.4, 0.5, 0.75))
    assert {row.seeds for row in rows} == {3}
    assert {row.n for row in rows} == {10}


def test_json_has_the_fields_that_are_promised() -> None:
    rows = rows_of("greedy", "none", [scores(0, 10)])
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


def test_gains_at_each_budget_and_at_their_mean() -> None:
    rng = np.random.default_rng(1)
    baseline, *runs = rng.random((3, 20, 2))
    rows = rows_of("adapter", "all", runs, ("best static", baseline))
    for column, row in enumerate(rows):
        pick = (lambda x: x.mean(axis=1)) if column == 2 else (lambda x, column=column: x[:, column])
        ahead = np.mean([pick(run) for run in runs], axis=0) - pick(baseline)
        assert row.gain == Gain("best static", pytest.approx(ahead.mean()), paired_ci95(ahead))
        assert row.gain.value == pytest.approx(row.value - pick(baseline).mean())


def test_what_the_grader_could_not_judge_is_left_out() -> None:
    some, base = scores(4, 10), scores(0, 5)
    some[0, 0] = np.nan
    base[9, 1] = np.nan
    first, second, mean = rows_of("adapter", "all", [some], ("best static", base))
    assert (first.n, second.n, mean.n) == (9, 10, 9)
    assert [first.value, second.value, mean.value] == pytest.approx([3 / 9, 1.0, (3 * 1.0 + 6 * 0.5) / 9])
    assert first.gain is not None
    assert second.gain is not None
    assert [first.gain.value, second.gain.value] == pytest.approx([3 / 9, 4 / 9])
    for row in rows_of("adapter", "all", [np.full((10, 2), np.nan)], ("best static", base)):
        assert (row.value, row.n, row.gain) == (0.0, 0, None)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_table() -> None:
    rows = rows_of("greedy", "all", [scores(2, 5)])
    rows += rows_of("token adapter, budget", "all", [scores(2, 6), scores(4, 9)])
    header, rule, *body = cells(markdown_table(rows))
    assert header == ["method", "b = 16", "b = 64", "mean", "mean, each seed"]
    assert {cell.strip("-") for cell in rule} <= {":", ""}
    assert body == [
        ["greedy", "20.0 ± 24.8", "50.0 ± 31.0", "35.0 ± 29.6", ""],
        ["token adapter, budget", "30.0 ± 28.4", "75.0 ± 26.8", "52.5 ± 31.0", "40.0 / 65.0 (sd 17.7)"],
    ]
    assert len(rule) == 5


def test_table_with_gains_of_one_seed() -> None:
    rows = rows_of("best static", "all", [scores(2, 5)])
    rows += rows_of("adapter", "all", [scores(3, 6)], ("best static", scores(2, 5)))
    header, _, *body = cells(markdown_table(rows))
    assert header == ["method", "b = 16", "b = 64", "mean", "difference of the mean"]
    assert [line[-1] for line in body] == ["", points(rows[-1].gain)]
    assert points(rows[-1].gain).startswith("+10.0 [")


def test_points() -> None:
    assert points(None) == ""
    assert points(Gain("x", -0.031, (-0.06, 0.001))) == "-3.1 [-6.0, +0.1]"

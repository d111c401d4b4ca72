"""The action-set experiment, small: what it leaves, and that others can read it."""

import json
from pathlib import Path

import pytest

from adaptive_jax.decoding.params import setting_name
from adaptive_jax.learning.selection import candidates, load_actions
from experiments.select_actions import GREEDY, TOP, SelectActions, main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Direct answers, so that every prompt is of one width."""
    path = tmp_path_factory.mktemp("runs") / "select"
    config = SelectActions(
        model="tiny",
        limit=8,
        train_limit=16,
        completions=2,
        held_out_completions=16,
        size=2,
        cot="none",
        budget=(12,),
        rows=64,
        run_dir=path,
    )
    assert main(config) == path
    return path


def test_a_run_leaves_what_is_promised(run: Path) -> None:
    files = {"config.json", "environment.json", "metrics.jsonl", "results.json", "results.md", "actions.json", "coverage.png"}
    assert {path.name for path in run.iterdir()} == files | {
        "samples.jsonl",
        "report.html",
        "checkpoints",
        "sums.json",
        "times.md",
        ".lock",
    }
    assert (run / "coverage.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(event["event"], event["questions"], event["unknown"]) for event in events] == [("scored", 4, 0), ("scored", 8, 0)]


def test_the_action_set_is_the_greedy_selection(run: Path) -> None:
    chosen = load_actions(run / "actions.json")
    assert len(chosen) == 2
    assert all(setting in candidates() for setting in chosen)
    table = (run / "results.md").read_text()
    assert f"{GREEDY}: {'; '.join(map(setting_name, chosen))}" in table


def test_results_are_consistent(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    assert [content[key] for key in ("experiment", "model", "dataset")] == ["select_actions", "tiny", "arithmetic"]
    rows = {(row["method"], row["metric"]): row for row in content["rows"]}
    metrics = [f"coverage@{n}{where}" for n in (1, 2) for where in ("", ", selected on")]
    assert set(rows) == {(method, metric) for method in (GREEDY, TOP) for metric in metrics}
    for (method, metric), row in rows.items():
        assert (row["cot"], row["budget"], row["seeds"]) == ("none", 12, 1)
        assert row["n"] == (4 if metric.endswith("on") else 8)
        assert 0 <= row["value"] <= 1
        assert ("gain" in row) == (method == GREEDY and not metric.endswith("on"))
    for count in (1, 2):
        ours, theirs = (rows[method, f"coverage@{count}"] for method in (GREEDY, TOP))
        assert ours["gain"]["value"] == pytest.approx(ours["value"] - theirs["value"])
        low, high = ours["gain"]["ci95"]
        assert low <= ours["gain"]["value"] <= high
    assert rows[GREEDY, "coverage@1"]["value"] == rows[TOP, "coverage@1"]["value"]  # the best single setting
    selected = [rows[GREEDY, f"coverage@{n}, selected on"]["value"] for n in (1, 2)]
    assert selected[0] <= selected[1]
    assert selected[1] >= rows[TOP, "coverage@2, selected on"]["value"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"size": 0}, "--size 0: give at least 1"),
        ({"completions": 1}, "--completions 1: give at least 2"),
        ({"held_out_completions": 8}, "--held-out-completions 8: give at least 16"),
    ],
)
def test_a_flag_that_cannot_be_is_named(flags: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectActions(**flags)

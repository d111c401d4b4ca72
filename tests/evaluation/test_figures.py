"""The figures are pictures that another program can read, and show something."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from adaptive_jax.evaluation.figures import budget_figure, coverage_figure, pass_figure, training_figure
from adaptive_jax.evaluation.results import budget_rows, pass_rows
from tests.evaluation.coverage_rows import coverage_rows


def read(path: Path) -> np.ndarray:
    """[H, W, 4] of a PNG file."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = imread(path)
    height, width, _ = picture.shape
    assert 300 < height < 1200
    assert 500 < width < 4000
    assert (picture[..., :3].reshape(-1, 3).min(axis=1) < 0.9).mean() > 0.01  # not a white sheet
    return picture


def curve(updates: int) -> list[dict[str, Any]]:
    shares = np.random.default_rng(0).dirichlet(np.ones(4), updates)
    lines = [{"update": n + 1, "action_probabilities": share.tolist()} for n, share in enumerate(shares)]
    for line in lines[:: max(updates // 3, 1)]:
        line["validation_reward"] = 0.5
    return lines


@pytest.mark.parametrize("updates", [1, 2, 5, 30])
def test_training_figure(tmp_path: Path, updates: int) -> None:
    path = tmp_path / "training.png"
    training_figure(path, {"entropy-only": curve(updates)}, ["greedy", "T = 0.5", "T = 1", "T = 1.25"])
    narrow = read(path)
    training_figure(path, dict.fromkeys(["entropy-only", "hidden", "budget"], curve(updates)), ["a", "b", "c", "d"])
    assert read(path).shape[1] > 2 * narrow.shape[1]


def test_budget_figure(tmp_path: Path) -> None:
    runs = [(np.random.default_rng(0).random((50, 3)) < 0.4).astype(np.float64)]
    methods = ("greedy", "entropy-only", "token adapter")
    rows = [row for method in methods for row in budget_rows(method, "all", "pass@1", (8, 16, 32), runs)]
    budget_figure(tmp_path / "three.png", rows)
    budget_figure(tmp_path / "trained.png", rows, trained=["entropy-only"])
    budget_figure(tmp_path / "one.png", budget_rows("greedy", "all", "pass@1", (64,), [runs[0][:, :1]]))
    pictures = [read(tmp_path / f"{name}.png") for name in ("three", "trained", "one")]
    assert not any(np.array_equal(left, right) for left, right in itertools.combinations(pictures, 2))


def test_coverage_figure(tmp_path: Path) -> None:
    for size in (1, 4):
        coverage_figure(tmp_path / f"{size}.png", coverage_rows(size))
    assert not np.array_equal(read(tmp_path / "1.png"), read(tmp_path / "4.png"))


def test_pass_figure(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((2, 20, 8))
    rows = [row for cot in ("all", "none") for n in (0, 1) for row in pass_rows(f"method {n}", cot, 28, [scores[n]])]
    pass_figure(tmp_path / "both.png", rows)
    pass_figure(tmp_path / "trained.png", rows, trained=["method 1"])
    pass_figure(tmp_path / "one.png", rows[:16])
    pictures = [read(tmp_path / f"{name}.png") for name in ("both", "trained", "one")]
    assert not any(np.array_equal(left, right) for left, right in itertools.combinations(pictures, 2))

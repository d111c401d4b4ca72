"""A run's directory is readable at every moment."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from adaptive_jax.runs.directory import VERSIONS, RunDirectory, read_metrics


@dataclass(frozen=True)
class Config:
    budget: tuple[int, ...] = (16, 32)
    run_dir: Path | None = Path("runs/x")
    rate: float = 2e-3


def read(path: Path) -> dict[str, Any]:
    """One JSON object; NaN and Infinity are no JSON."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory(tmp_path / "runs" / "first", Config())
    yield run
    run.close()


def test_says_what_was_asked_for(run: RunDirectory) -> None:
    assert read(run.path / "config.json") == {"budget": [16, 32], "run_dir": "runs/x", "rate": 2e-3}


def test_says_on_what_it_ran(run: RunDirectory) -> None:
    environment = read(run.path / "environment.json")
    assert environment["python"] == platform.python_version()
    assert environment["cores"] == os.cpu_count()
    assert environment["devices"] == [device.device_kind for device in jax.devices()]
    assert environment["processor"]
    assert {"adaptive-jax", "jax", "jaxlib", "flax", "transformers", "numpy"} <= set(VERSIONS)
    assert environment["versions"] == {name: importlib.metadata.version(name) for name in VERSIONS}
    assert {"command", "commit", "platform"} <= set(environment)


def test_a_directory_holds_one_run(run: RunDirectory) -> None:
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match="first holds a run already: choose another --run-dir"):
        RunDirectory(run.path, Config(rate=1.0))
    assert (run.path / "config.json").read_bytes() == before


def test_a_directory_that_holds_other_things_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory(tmp_path, Config()).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_metrics_are_on_disk_at_once(run: RunDirectory) -> None:
    assert read_metrics(run.path) == []
    run.log(update=1, reward=np.float32(0.5), applied=np.True_, shares=np.array([0.25, 0.75]))
    assert read_metrics(run.path) == [{"update": 1, "reward": 0.5, "applied": True, "shares": [0.25, 0.75]}]
    run.log(event="prompt filter", usable=np.int64(3))
    assert read_metrics(run.path)[1:] == [{"event": "prompt filter", "usable": 3}]


def test_numbers_that_are_not_finite_become_null(run: RunDirectory) -> None:
    run.log(loss=float("nan"), norm=np.float32("inf"), shares=np.array([0.5, -np.inf]))
    run.write_json("results.json", {"rows": [{"value": np.nan, "by_seed": (1.0, float("inf"))}]})
    assert read(run.path / "metrics.jsonl") == {"loss": None, "norm": None, "shares": [0.5, None]}
    assert read(run.path / "results.json") == {"rows": [{"value": None, "by_seed": [1.0, None]}]}


def test_a_file_is_written_whole_or_not_at_all(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("results.json", {"rows": [1]})
    with pytest.raises(TypeError):
        run.write_json("results.json", {"rows": [1, 2, object()]})
    assert read(run.path / "results.json") == {"rows": [1]}

    half_written = Path.write_text

    def full_disk(path: Path, text: str) -> None:
        half_written(path, text[: len(text) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="no space"):
            run.write_text("results.json", '{"rows": [1, 2, 3]}')
    assert read(run.path / "results.json") == {"rows": [1]}
    run.write_json("results.json", {"rows": [1, 2]})
    assert read(run.path / "results.json") == {"rows": [1, 2]}
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
    ]

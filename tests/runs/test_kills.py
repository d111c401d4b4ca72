"""A real process, killed at 20 random moments: what comes out is what comes out of a run that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.runs.checkpoints import Checkpoints
from adaptive_jax.runs.directory import read_metrics
from adaptive_jax.runs.inspection import inspect_run
from adaptive_jax.runs.records import named_leaves

ROOT = Path(__file__).parents[2]
KILLS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("killed")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache")}
    command = [sys.executable, "-m", "tests.runs.killed_run", str(directory), str(KILLS)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("killed") == KILLS
    print(ended.stdout)
    return directory


def final(run: Path) -> tuple[dict[str, bytes], bytes, bytes, list[bytes]]:
    """Adapter, optimiser and all else of the last state, results, metrics, and the adapter as it is loaded."""
    number, record = Checkpoints(run / "checkpoints" / "training").newest()
    assert number == 8
    state = {name: array.tobytes() for name, array in record.arrays.items()}
    adapter = [leaf.tobytes() for leaf in named_leaves(load_adapter(run).params).values()]
    return state, (run / "results.json").read_bytes(), (run / "metrics.jsonl").read_bytes(), adapter


def test_killed_and_resumed_is_bitwise_what_it_would_have_been(runs: Path) -> None:
    expected = final(runs / "whole")
    assert {"opt_state.0.count", "update", "next_batch_digest"} < set(expected[0])
    killed = sorted(path for path in runs.iterdir() if path.name.isdecimal())
    assert killed
    for run in killed:
        assert final(run) == expected
        assert [line["update"] for line in read_metrics(run)[1:]] == list(range(1, 9))
        assert inspect_run(run)[1]


def test_the_training_has_moved(runs: Path) -> None:
    """So that equal bits mean something."""
    stages = Checkpoints(runs / "whole" / "checkpoints" / "training").paths()
    assert [path.name for path in stages] == ["000006", "000007", "000008"]
    metrics = read_metrics(runs / "whole")[1:]
    assert len({line["loss"] for line in metrics}) > 4
    assert all(line["applied"] for line in metrics)

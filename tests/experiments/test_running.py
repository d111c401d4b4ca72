"""Runs end in good order, whatever ends them."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_jax.learning.train import TrainingDiverged
from adaptive_jax.runs.fingerprint import FingerprintMismatch, code_fingerprint
from adaptive_jax.runs.records import NotWritten
from experiments import running
from experiments.config import Config, TrainingConfig
from experiments.progress import Progress
from experiments.running import fingerprint_of, open_run
from experiments.splits import Splits

NOTHING = Splits([], [], [], [])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingConfig:
    """Of a run whose model and problems do not matter."""
    monkeypatch.setattr(running, "model_fingerprint", lambda lm: {"weights": str(lm)})
    return TrainingConfig(run_dir=tmp_path / "run", checkpoint_every=1)


def run_until(config: Config, error: BaseException | None = None, number: int | None = None) -> None:
    """A run with one stage, then an error or a signal."""
    with open_run("some", config, None, NOTHING) as run:
        run.stage("first", lambda: {"n": np.arange(3)})
        if error is not None:
            raise error
        os.kill(os.getpid(), number)
        with Progress("working", 10, run.stop) as progress:
            while True:
                progress.at_least(1)
                time.sleep(0.001)


def test_a_run_tells_where_its_time_went(config: TrainingConfig) -> None:
    with open_run("some", config, None, NOTHING) as run:
        run.stage("first", lambda: time.sleep(0.3) or {})
        run.stage("second", lambda: time.sleep(0.1) or {})
    told = dict(run.seconds)
    assert 0.3 <= told["first"] < told["first"] + 0.1 <= told["first"] + told["second"]
    head, _, *rows = (run.path / "times.md").read_text().splitlines()
    assert head == "| stage | minutes | share |"
    names, minutes, shares = zip(*(row.strip("| ").split(" | ") for row in rows), strict=True)
    assert names == ("first", "second", "between them", "all")
    assert float(minutes[-1]) == pytest.approx(sum(map(float, minutes[:-1])), abs=0.2)
    assert shares[-1] == "100%"
    assert int(shares[0][:-1]) > int(shares[1][:-1])


def ended(config: Config, **how: Any) -> Any:
    """The exit status of such a run."""
    with pytest.raises(SystemExit) as told:
        run_until(config, **how)
    return told.value.code


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_in_good_order(
    config: TrainingConfig, number: int, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job would ignore
    try:
        assert ended(config, number=number) == status
    finally:
        signal.signal(signal.SIGINT, before)
    asked, told = capfd.readouterr().err.strip().splitlines()
    assert asked.startswith("stopping")
    assert told == f"interrupted: what was measured so far is in {config.run_dir}; --run-dir {config.run_dir} --resume goes on"
    with open_run("some", config, None, NOTHING) as run:  # the lock is free, and nothing is computed twice
        assert run.stage("first", dict)["n"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NotWritten("x could not be written: No space left on device"),
            "No space left on device. Mend that, and --run-dir {run} --resume goes on",
        ),
        (FingerprintMismatch("history is float64"), "error: history is float64"),
        (FloatingPointError("logits are NaN"), "error: logits are NaN. What was measured so far is in {run}"),
        (TrainingDiverged("too many", {"rewards": np.array([np.nan])}), "too many. The batch is in {run}/diverged.npz"),
    ],
)
def test_an_error_is_told_with_what_to_do(
    config: TrainingConfig, error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(config, error=error) == (2 if isinstance(error, FingerprintMismatch) else 1)
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert message.format(run=config.run_dir) in told
    if isinstance(error, TrainingDiverged):
        assert np.isnan(np.load(config.run_dir / "diverged.npz")["rewards"]).all()


def test_what_decides_the_numbers(config: TrainingConfig) -> None:
    found = fingerprint_of("some", config, None, NOTHING)
    assert {"experiment", "model", "updates", "seed", "rows", "weights", "training-problems", "code", "device"} <= set(found)
    assert not {"run-dir", "run_dir", "resume", "allow-changed", "checkpoint-every"} & set(found)
    assert found["code"] != code_fingerprint()["code"]  # that of the experiments counts, too


@pytest.mark.parametrize("often", [True, False])
def test_a_long_training_is_reported_on_while_it_lasts(
    config: TrainingConfig, often: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "REPORT_EVERY", -1.0 if often else math.inf)
    with open_run("some", config, None, NOTHING) as run:
        for update in (1, 2):
            run.log(method="own", seed=0, update=update, action_probabilities=[0.25, 0.75], validation_reward=0.5)
            page = run.path / "report.html"
            assert page.exists() == often
            if often:
                assert "own, seed 0" in page.read_text()
                assert page.read_text().count('class="area') == 2

"""What experiments share: held-out problems stay out of training, and runs end in good order, whatever ends them."""

import dataclasses
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_jax.learning.train import TrainingDiverged, TrainSettings, TrainState, upcoming
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.checkpoints import Checkpoints
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.fingerprint import FingerprintMismatch, code_fingerprint
from adaptive_jax.runs.records import NotWritten, tree_digest, write_record
from adaptive_jax.tasks.problem import shared
from experiments import common
from experiments.common import Config, Progress, Splits, TrainingConfig, fingerprint_of, load_splits, open_run, train_stage
from tests.learning.questions import GreedyPath
from tests.policies.adapters import small_adapter


def write(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in questions))
    return str(path)


def texts(splits: Splits) -> list[list[str]]:
    return [[problem.question for problem in part] for part in (splits.test, splits.validation, splits.train)]


def assert_disjoint(splits: Splits) -> None:
    for left, right in itertools.combinations((splits.test, splits.validation, splits.train), 2):
        assert shared(left, right) == []
        assert not {problem.id for problem in left} & {problem.id for problem in right}


def test_the_embedded_task_is_divided_by_its_splits() -> None:
    splits = load_splits(Config(limit=300, train_limit=200))
    assert [len(part) for part in texts(splits)] == [300, 50, 200]
    assert_disjoint(splits)


def test_a_file_is_divided(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(30)])
    splits = load_splits(Config(dataset=file, limit=10, train_limit=8))
    test, validation, train = texts(splits)
    assert test == [f"Question {n}?" for n in range(10)]
    assert len(validation) == 2
    assert len(train) == 8
    assert_disjoint(splits)


def test_problems_that_are_passed_over_are_in_no_part(tmp_path: Path) -> None:
    every = load_splits(Config(limit=50, train_limit=200))
    later = load_splits(Config(limit=20, skip=30, train_limit=200))
    assert texts(later) == [texts(every)[0][30:], *texts(every)[1:]]
    file = write(tmp_path / "some.jsonl", [f"Question {n}?" for n in range(30)])
    test, validation, train = texts(load_splits(Config(dataset=file, limit=5, skip=7, train_limit=10)))
    assert test == [f"Question {n}?" for n in range(7, 12)]
    assert validation + train == [f"Question {n}?" for n in range(12, 24)]


@pytest.mark.parametrize("own_file", [False, True])
def test_what_is_evaluated_is_never_trained_on(tmp_path: Path, own_file: bool) -> None:
    """Questions that come again, in another case or with other white space, are left out of training."""
    test = [f"Question {n}?" for n in range(6)]
    others = ["QUESTION  3?", *[f"Other {n}?" for n in range(8)], " question 5?\n"]
    if own_file:
        dataset, train_dataset = write(tmp_path / "test.jsonl", test), write(tmp_path / "train.jsonl", others)
    else:
        dataset, train_dataset = write(tmp_path / "all.jsonl", test + others), None
    splits = load_splits(Config(dataset=dataset, train_dataset=train_dataset, limit=6))
    found, validation, train = texts(splits)
    assert found == test
    assert sorted(validation + train) == [f"Other {n}?" for n in range(8)]
    assert_disjoint(splits)


def test_a_question_that_comes_twice_is_not_in_two_parts(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", [f"Question {n % 12}?" for n in range(36)])
    assert_disjoint(load_splits(Config(dataset=file, limit=4)))


def test_malformed_rows_stop_a_run_unless_they_may_be_skipped(tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", ["first?", " ", *[f"Question {n}?" for n in range(9)]])
    with pytest.raises(ValueError, match=r"some.jsonl, line 2: .*blank.*--skip-bad"):
        load_splits(Config(dataset=file, limit=4))
    assert texts(load_splits(Config(dataset=file, limit=4, skip_bad=True)))[0][:2] == ["first?", "Question 0?"]


@pytest.mark.parametrize("count", [1, 8, 11])
def test_too_few_problems_to_train_on(tmp_path: Path, count: int) -> None:
    file = write(tmp_path / "few.jsonl", [f"Question {n}?" for n in range(count)])
    with pytest.raises(ValueError, match=rf"few.jsonl has {count} problems.*--limit 8.*lower --limit"):
        load_splits(Config(dataset=file, limit=8))


def test_budgets() -> None:
    assert Config(budget=(64, 16, 64)).budgets == (16, 64)
    assert Config().budgets == (48, 64, 96)
    assert Config(model="smollm2").budgets == (256, 512, 1024)


# How a run ends


NOTHING = Splits([], [], [])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingConfig:
    """Of a run whose model and problems do not matter."""
    monkeypatch.setattr(common, "model_fingerprint", lambda lm: {"weights": str(lm)})
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


SETTINGS = TrainSettings(updates=2, prompts=2, completions=4, budgets=(4,), rows=8)


def trained(config: TrainingConfig) -> tuple[TokenAdapter, list[Metrics]]:
    run, every = RunDirectory(config.run_dir, config, {}), np.arange(5)

    def measure(state: TrainState) -> Metrics:
        return {"method": "mine", "twice": 2 * state.update}

    try:
        return train_stage(run, "training", GreedyPath(5), small_adapter(2), SETTINGS, config, usable=every, measure=measure)
    finally:
        run.close()


def counted(
    environment: Any, state: TrainState, settings: TrainSettings, **others: Any
) -> Iterator[tuple[TrainState, Metrics]]:
    """In place of `train`: counts updates, and learns nothing."""
    for update in range(state.update + 1, settings.updates + 1):
        yield (
            state.replace(update=update, upcoming=upcoming(others["usable"], settings, update)),
            {"update": update, "reward": 0},
        )


def test_a_training_stage_refuses_a_checkpoint_that_foresaw_other_draws(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after another version of NumPy, whose streams may differ: the fingerprint names that, and this sees it."""
    monkeypatch.setattr(common, "train", counted)
    adapter, curve = trained(config)
    assert [(line["method"], line["update"], line["twice"]) for line in curve] == [("mine", 1, 2), ("mine", 2, 4)]
    again, lines = trained(config)
    assert lines == curve
    assert tree_digest(again) == tree_digest(adapter)

    checkpoints = Checkpoints(config.run_dir / "checkpoints" / "training")
    _, record = checkpoints.newest()
    record.arrays["upcoming"] = record.arrays["upcoming"] ^ 1
    write_record(checkpoints.paths()[-1], record.arrays, record.facts)
    with pytest.raises(FingerprintMismatch, match="training: update 3 would draw other questions, budgets or keys than before"):
        trained(config)
    trained(dataclasses.replace(config, allow_changed=("numpy",)))

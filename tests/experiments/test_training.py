"""The training of an adapter as a stage of a run."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptive_jax.digest import tree_digest
from adaptive_jax.learning.train import TrainSettings, TrainState, next_batch_digest
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.checkpoints import Checkpoints
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.fingerprint import FingerprintMismatch
from adaptive_jax.runs.records import write_record
from experiments import training
from experiments.config import TrainingConfig
from experiments.training import train_stage
from tests.learning.questions import GreedyPath
from tests.policies.adapters import small_adapter

SETTINGS = TrainSettings(updates=2, prompts=2, completions=4, budgets=(4,), rows=8)


def trained(config: TrainingConfig) -> tuple[TokenAdapter, list[Metrics]]:
    run, others = RunDirectory(config.run_dir, config, {}), {"validation": GreedyPath(3), "labels": {"method": "mine"}}
    try:
        return train_stage(run, "training", GreedyPath(5), small_adapter(2), SETTINGS, config, **others)
    finally:
        run.close()


def counted(
    environment: Any, state: TrainState, settings: TrainSettings, **others: Any
) -> Iterator[tuple[TrainState, Metrics]]:
    """In place of `train`: counts updates, and learns nothing."""
    for update in range(state.update + 1, settings.updates + 1):
        yield (
            state.replace(update=update, next_batch_digest=next_batch_digest(len(environment), settings, update)),
            {"update": update, "reward": 0},
        )


def test_a_training_stage_refuses_a_checkpoint_that_foresaw_other_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after another version of NumPy, whose streams may differ: the fingerprint names that, and this sees it."""
    config = TrainingConfig(run_dir=tmp_path / "run", checkpoint_every=1)
    monkeypatch.setattr(training, "train", counted)
    adapter, curve = trained(config)
    assert [(line["method"], line["update"]) for line in curve] == [("mine", 1), ("mine", 2)]
    again, lines = trained(config)
    assert lines == curve
    assert tree_digest(again) == tree_digest(adapter)

    checkpoints = Checkpoints(config.run_dir / "checkpoints" / "training")
    _, record = checkpoints.newest()
    record.arrays["next_batch_digest"] = record.arrays["next_batch_digest"] ^ 1
    write_record(checkpoints.paths()[-1], record.arrays, record.facts)
    with pytest.raises(FingerprintMismatch, match="training: update 3 would draw other questions, budgets or keys than before"):
        trained(config)
    trained(dataclasses.replace(config, allow_changed=("numpy",)))

"""Of a stage's checkpoints the newest sound one is used, and damage is told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptive_jax.runs.checkpoints import KEEP, Checkpoints
from tests.runs.damage import files, flip

FACTS = {"stage": "Stage", "fingerprint": {}, "metrics": []}


def save(checkpoints: Checkpoints, *numbers: int) -> None:
    for number in numbers:
        checkpoints.save(number, {"n": np.array(number)}, FACTS | {"number": number})


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.directory.iterdir())


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "stage")


def test_there_may_be_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    assert checkpoints.paths() == []


def test_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    save(checkpoints, 2, 4, 999_999, 1_000_000)
    assert KEEP == 3
    assert [path.name for path in checkpoints.paths()] == ["000004", "999999", "1000000"]
    number, record = checkpoints.newest()
    assert number == record.facts["number"] == record.arrays["n"] == 1_000_000


def test_a_damaged_one_is_told_and_the_one_before_it_used(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever file of the newest one it is."""
    save(checkpoints, 1, 2)
    for file in files(checkpoints.paths()[-1]):
        flip(file, 3)
        caplog.clear()
        assert checkpoints.newest()[0] == 1
        (told,) = caplog.records
        assert told.levelname == "ERROR"
        assert str(file) in told.message
        assert "going back to the one before it" in told.message
        flip(file, 3)
    assert checkpoints.newest()[0] == 2
    for path in checkpoints.paths():
        (path / "manifest.json").unlink()
    assert checkpoints.newest() is None
    assert "starting this stage anew" in caplog.messages[-1]


def test_those_of_another_stage_are_damaged(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    other = Checkpoints.of(checkpoints.directory, "Training A, seed 0")
    other.save(1, {}, FACTS | {"stage": "Training A, seed 0"})
    assert other.newest()[0] == 1
    other.directory.rename(checkpoints.directory / "checkpoints" / "training-a-seed-1")
    assert Checkpoints.of(checkpoints.directory, "training A, seed 1").newest() is None
    assert "holds what was written as training-a-seed-0" in caplog.messages[-1]


@pytest.mark.parametrize("lie", [{"stage": 3}, {"fingerprint": None}, {"metrics": {}}, {"metrics": [1]}])
def test_facts_that_cannot_be_are_damage(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, lie: dict[str, Any]
) -> None:
    save(checkpoints, 1)
    checkpoints.save(2, {}, FACTS | lie)
    assert checkpoints.newest()[0] == 1
    assert f"000002/manifest.json: {next(iter(lie))!r} " in caplog.messages[-1]


def test_those_ahead_of_one_that_is_saved_are_damaged_and_go(checkpoints: Checkpoints) -> None:
    save(checkpoints, 10, 20, 30)
    for path in checkpoints.paths()[1:]:
        (path / "manifest.json").unlink()
    assert checkpoints.newest()[0] == 10
    save(checkpoints, 15)
    assert names(checkpoints) == ["000010", "000015"]


def test_leftovers_of_killed_processes_go(checkpoints: Checkpoints) -> None:
    for leftover in (".000001.partial", ".000002.discarded"):
        (checkpoints.directory / leftover / "arrays").mkdir(parents=True)
    assert checkpoints.newest() is None
    save(checkpoints, 3)
    assert names(checkpoints) == ["000003"]

"""`python -m adaptive_jax inspect RUN` tells what a run is and what is wrong with it."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adaptive_jax.__main__ import main
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.policies.sequence import sequence_adapter
from adaptive_jax.runs.adapters import save_adapter
from adaptive_jax.runs.directory import RunDirectory
from tests.policies.adapters import random_adapter
from tests.runs.damage import files, flip


@dataclass(frozen=True)
class Config:
    model: str = "tiny"
    budget: tuple[int, ...] = (16, 32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    directory = RunDirectory(path, Config(), {"seed": 0})

    def training() -> dict[str, np.ndarray]:
        for reward in (0.25, 0.75, 0.5):
            directory.log(validation_reward=reward)
        return {"a": np.arange(3)}

    directory.stage("Training, seed 0", training)
    directory.stage("Training, seed 1", lambda: {"a": np.arange(4)})
    save_adapter(path / "adapters" / "mine-seed0", random_adapter(6))
    settings = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.0)])
    save_adapter(path / "adapters" / "other-seed0", sequence_adapter(6, settings))
    rows = [("greedy", 16, 0.9), ("greedy", "mean", 0.2), ("adapter", "mean", 0.5)]
    row = [
        {"method": method, "metric": "pass@1", "cot": "all", "budget": budget, "value": value, "ci95": 0.03}
        for method, budget, value in rows
    ]
    directory.write_json("results.json", {"rows": row})
    directory.write_text("results.md", "# Results\n")
    directory.close()
    return path


def inspected(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["adaptive_jax", "inspect", str(path)])
    status = main()
    out, err = capsys.readouterr()
    return status, out, err


def test_a_sound_run(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = inspected(run, monkeypatch, capsys)
    assert (status, err) == (0, "")
    for words in (
        '"tiny"',
        "[16, 32]",
        "adapter, pass@1, CoT all, budget mean: 50.0 ± 3.0",
        "all files are as they were written",
    ):
        assert words in out
    assert "sound    training-seed-0 000000, best validation reward 0.750" in out
    assert "sound    mine-seed0 (token, hidden+budget)" in out
    assert "sound    other-seed0 (sequence, both)" in out


def test_damage_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (file.relative_to(run) for file in files(run) if file.name != ".lock"):
        copy = tmp_path / place.name
        shutil.copytree(run, copy)
        flip(copy / place, 6)  # the first byte: a brace in JSON
        status, out, _ = inspected(copy, monkeypatch, capsys)
        assert status == 1
        (line,) = [line for line in out.splitlines() if line.startswith("DAMAGED")]
        assert str(copy / place) in line
        shutil.rmtree(copy)


def test_what_was_not_checked_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "notes.txt").write_text("mine")
    with (copy / "metrics.jsonl").open("a") as metrics:  # what a killed process has written last
        metrics.write("{}\n")
    status, out, _ = inspected(copy, monkeypatch, capsys)
    assert status == 0
    assert "all files that were checked are" in out
    assert "not checked, for there is no sum of it: the last 3 bytes of metrics.jsonl, notes.txt\n" in out
    (copy / "results.md").unlink()
    status, out, _ = inspected(copy, monkeypatch, capsys)
    assert status == 1
    assert f"DAMAGED: {copy / 'results.md'} is missing" in out
    (copy / "sums.json").unlink()  # as in runs of before there were sums
    status, out, _ = inspected(copy, monkeypatch, capsys)
    assert status == 0
    assert "no sum of it: config.json, environment.json, metrics.jsonl, notes.txt, results.json\n" in out


def test_a_stage_that_is_gone_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    gone, emptied = (copy / "checkpoints" / f"training-seed-{seed}" for seed in (0, 1))
    shutil.rmtree(gone)
    shutil.rmtree(emptied / "000000")
    status, out, _ = inspected(copy, monkeypatch, capsys)
    assert status == 1
    assert "MISSING  training-seed-0\n" in out
    told = [line for line in out.splitlines() if line.startswith("DAMAGED")]
    assert told == [f"DAMAGED: {folder} is missing, or empty: the stage had a checkpoint" for folder in (gone, emptied)]
    RunDirectory(copy, Config(), {"seed": 0}, resume=True).close()  # goes on without them
    assert inspected(copy, monkeypatch, capsys)[0] == 0


def test_results_that_are_none_are_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "sums.json").unlink()
    for content in ('{"rows": [{"metric": "pass@1"}]}', '{"rows": 7}', "[1]"):
        (copy / "results.json").write_text(content)
        status, out, _ = inspected(copy, monkeypatch, capsys)
        assert status == 1
        assert f"DAMAGED: {copy / 'results.json'} " in out


@pytest.mark.parametrize("part", ["adapters", "checkpoints"])
def test_what_was_exchanged_is_named(
    run: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    one, other = sorted((tmp_path / "copy" / part).iterdir())
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    status, out, _ = inspected(tmp_path / "copy", monkeypatch, capsys)
    assert status == 1
    told = [line for line in out.splitlines() if line.startswith("DAMAGED")]
    assert len(told) == 2
    for place, name in ((one, other.name), (other, one.name)):
        assert any(f"{place} holds what was written as {name}" in line for line in told)


def test_a_run_that_has_only_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    RunDirectory(tmp_path, Config(), {}).close()
    status, out, _ = inspected(tmp_path, monkeypatch, capsys)
    assert status == 0
    assert "no results yet" in out
    assert "0 stages" in out


def test_what_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = inspected(tmp_path / "nothing", monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert "nothing is no run directory: it has no config.json" in err
    (tmp_path / "results.json").write_text(json.dumps({}))
    assert inspected(tmp_path, monkeypatch, capsys)[0] == 2

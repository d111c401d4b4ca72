"""A run's directory is readable at every moment, and what a run has done it does not do again."""

import errno
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from adaptive_jax.runs import directory, records
from adaptive_jax.runs.directory import RunDirectory, read_metrics
from adaptive_jax.runs.fingerprint import FingerprintMismatch
from adaptive_jax.runs.machine import VERSIONS
from adaptive_jax.runs.records import NewerRecord, NotWritten
from adaptive_jax.runs.stopping import Stopped
from tests.runs.damage import files, flip

FINGERPRINT = {"updates": 6, "weights": "float32 abc"}


@dataclass(frozen=True)
class Config:
    budget: tuple[int, ...] = (16, 32)
    run_dir: Path | None = Path("runs/x")
    rate: float = 2e-3


def read(path: Path) -> dict[str, Any]:
    """One JSON object; NaN and Infinity are no JSON."""
    return json.loads(path.read_text(), parse_constant=pytest.fail)


def opened(path: Path, **options: Any) -> RunDirectory:
    return RunDirectory(path, Config(), FINGERPRINT, **options)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    run = opened(tmp_path / "runs" / "first")
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


def test_a_directory_that_holds_other_things_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    opened(tmp_path).close()
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
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(NotWritten, match=r"results.json could not be written: No space"):
            run.write_text("results.json", '{"rows": [1, 2, 3]}')
    assert read(run.path / "results.json") == {"rows": [1]}
    run.write_json("results.json", {"rows": [1, 2]})
    assert read(run.path / "results.json") == {"rows": [1, 2]}
    assert {path.name for path in run.path.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "sums.json",
    }


# A small run: an opening stage, a loop of six steps, a closing stage


@struct.dataclass
class Sum:
    """Adds up what the steps draw."""

    update: int
    total: jax.Array
    history: np.ndarray


START = Sum(0, jnp.float32(0.0), np.zeros(6))


class Work:
    """Runs the stages and writes down which were computed.

    Args:
        stop_at: ask the run to stop during this step.
        fail_at: raise an error in this step.
    """

    def __init__(self, stop_at: int | None = None, fail_at: int | None = None):
        self.done: list[str] = []
        self.stop_at, self.fail_at = stop_at, fail_at

    def __call__(self, run: RunDirectory) -> tuple[Sum, list[dict[str, Any]], float]:
        def opening() -> dict[str, np.ndarray]:
            self.done.append("opening")
            run.log(event="opening", found=3)
            return {"weights": np.arange(3.0), "none": np.zeros(0, int)}

        def steps(state: Sum) -> Iterator[tuple[Sum, dict[str, Any]]]:
            for update in range(state.update + 1, 7):
                self.done.append(f"step {update}")
                if update == self.fail_at:
                    raise RuntimeError("broken")
                if update == self.stop_at:
                    run.stop._asked = signal.SIGTERM
                value = np.random.default_rng(update).normal()
                history = np.where(np.arange(6) == update - 1, value, state.history)
                state = Sum(update, state.total + jnp.float32(value), history)
                yield state, {"update": update, "value": value, "total": state.total.item(), "bad": float("nan")}

        def closing() -> dict[str, np.ndarray]:
            self.done.append("closing")
            return {"score": np.asarray(state.total * 2)}

        run.log(event="settings")
        weights = run.stage("Opening: first", opening)
        assert weights["none"].shape == (0,)
        state, lines = run.loop("Adding up", START.replace(total=jnp.float32(weights["weights"].sum())), steps, every=2)
        run.log(event="between")
        return state, lines, run.stage("closing", closing, inputs=state)["score"].item()


STEPS = [f"step {n}" for n in range(1, 7)]


def outcome(result: tuple[Sum, list[dict[str, Any]], float]) -> tuple[Any, ...]:
    state, lines, score = result
    return state.update, np.asarray(state.total).tobytes(), state.history.tobytes(), lines, score


def worked(path: Path, work: Work, **options: Any) -> tuple[Any, ...]:
    run = opened(path, **options)
    try:
        return outcome(work(run))
    finally:
        run.close()


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, tuple[Any, ...]]:
    """A run that nothing interrupted."""
    return tmp_path / "whole", worked(tmp_path / "whole", Work())


def test_stages_with_long_names_are_kept_apart(tmp_path: Path) -> None:
    """A mixture's name is part of them, and a file system takes 255 bytes."""
    names = [f"scoring {'reasoning_gym:gcd?max_value=20 + ' * 12}{end}" for end in ("a", "b")]
    for again in (False, True):
        run = opened(tmp_path / "run", resume=again)
        for number, name in enumerate(names):
            found = run.stage(name, lambda n=number: pytest.fail("computed again") if again else {"n": np.array(n)})  # noqa: B023
            assert found["n"] == number
        run.close()


def test_where_the_time_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's seconds are those of all processes, but for what was lost; those between stages are of one."""
    clock = [1000.0]
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def opening() -> dict[str, np.ndarray]:
        clock[0] += 5
        return {}

    def work(fail_at: int | None) -> RunDirectory:
        def steps(state: Sum) -> Iterator[tuple[Sum, dict[str, Any]]]:
            for update in range(state.update + 1, 7):
                clock[0] += 1
                if update == fail_at:
                    raise RuntimeError("broken")
                yield state.replace(update=update), {}

        run = opened(tmp_path / "run")
        clock[0] += 0.5
        try:
            run.stage("opening", opening)
            clock[0] += 0.25
            run.loop("steps", START, steps, every=2)
        finally:
            run.close()
        return run

    with pytest.raises(RuntimeError):
        work(fail_at=4)  # what follows step 2 is lost
    again = work(None)
    assert again.seconds == {"opening": 5, "steps": 6}
    assert again.seconds_between == 0.75
    assert work(None).seconds == again.seconds


def test_a_run_that_goes_on_computes_nothing_twice(whole: tuple[Path, tuple[Any, ...]]) -> None:
    path, expected = whole
    metrics = (path / "metrics.jsonl").read_bytes()
    assert [line.get("event", line.get("update")) for line in read_metrics(path)] == [
        *("settings", "opening", 1, 2, 3, 4, 5, 6, "between")
    ]
    again = Work()
    assert worked(path, again) == expected
    assert again.done == []
    assert (path / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("at", range(1, 7))
def test_a_run_that_is_stopped_goes_on_where_it_was(at: int, whole: tuple[Path, tuple[Any, ...]], tmp_path: Path) -> None:
    """The step under way is given up, and those before it are saved, wherever the last checkpoint was."""
    path, first, second = tmp_path / "cut", Work(stop_at=at), Work()
    with pytest.raises(Stopped) as stopped:
        worked(path, first)
    assert stopped.value.status == 143
    assert read_metrics(path)[-1].get("update", 0) == at - 1
    assert worked(path, second) == whole[1]
    assert second.done == [*STEPS[at - 1 :], "closing"]
    assert (path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("at", range(1, 7))
def test_after_an_error_the_last_checkpoint_counts(at: int, whole: tuple[Path, tuple[Any, ...]], tmp_path: Path) -> None:
    path, second = tmp_path / "cut", Work()
    with pytest.raises(RuntimeError, match="broken"):
        worked(path, Work(fail_at=at))
    with (path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"update": 3, "val')  # killed in the middle of a line
    assert len(read_metrics(path)) == at + 1
    assert worked(path, second) == whole[1]
    assert second.done == [*STEPS[(at - 1) // 2 * 2 :], "closing"]
    assert (path / "metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_no_damage_changes_the_outcome(
    whole: tuple[Path, tuple[Any, ...]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit in every file of every checkpoint in turn: told, and computed again from what is before it."""
    path, expected = whole
    places = [file.relative_to(path) for file in files(path / "checkpoints")]
    assert {place.parts[1] for place in places} == {"opening-first", "adding-up", "closing"}
    for number, place in enumerate(places):
        copy, work = Path(shutil.copytree(path, tmp_path / str(number))), Work()
        flip(copy / place, 5)
        caplog.clear()
        assert worked(copy, work) == expected
        stage, record = place.parts[1:3]
        used = record in ("000000", "000006")  # older ones are not looked at as long as there is a sound one
        assert (str(copy / place) in caplog.text) == used
        assert work.done == (STEPS[4:] if stage == "adding-up" else [stage.partition("-")[0]]) * used


def test_a_result_is_of_what_it_was_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = opened(tmp_path)
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"n": np.array(len(calls))}

    found = [run.stage("same", compute, inputs=np.array(given))["n"] for given in (1.0, 1.0, 2.0, 2.0)]
    run.close()
    assert found == [1, 1, 2, 2]
    assert "same: what it depends on has changed" in caplog.text


def test_a_stage_that_is_stopped_is_not_kept(run: RunDirectory) -> None:
    def compute() -> dict[str, np.ndarray]:
        run.stop._asked = signal.SIGINT
        return {"poisoned": np.array(1)}

    with pytest.raises(Stopped) as stopped:
        run.stage("evaluating", compute)
    assert stopped.value.status == 130
    assert files(run.path / "checkpoints") == []


def test_a_checkpoint_of_another_kind_of_state_is_refused(whole: tuple[Path, tuple[Any, ...]]) -> None:
    run = opened(whole[0])
    with pytest.raises(FingerprintMismatch, match=r"adding-up, checkpoint 6: history is float64 \(6,\) in the checkpoint"):
        run.loop("Adding up", START.replace(history=np.zeros(7)), lambda state: iter(()), every=1)
    run.close()


# Who may go on, and where


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in files(path) if file.name != ".lock"}


def test_another_fingerprint_is_refused(whole: tuple[Path, tuple[Any, ...]], caplog: pytest.LogCaptureFixture) -> None:
    path, before = whole[0], contents(whole[0])
    other = FINGERPRINT | {"updates": 9}
    with pytest.raises(FingerprintMismatch, match=r"whole was made.*updates was 6 and is 9.*--allow-changed updates"):
        RunDirectory(path, Config(), other, resume=True)
    assert contents(path) == before
    with caplog.at_level(logging.INFO):
        RunDirectory(path, Config(), other, allowed=["updates"]).close()
    assert "going on with the run in" in caplog.text


def test_checkpoints_of_a_newer_version_are_refused(
    whole: tuple[Path, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "FORMAT", records.FORMAT + 1)
        records.write_record(whole[0] / "checkpoints" / "adding-up" / "000009", {}, {})
    before = contents(whole[0])
    with pytest.raises(NewerRecord, match="newer version"):
        opened(whole[0], resume=True)
    assert contents(whole[0]) == before


def test_a_run_without_checkpoints_is_started_anew_only_if_asked(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run already, without a checkpoint: .*--run-dir.*--resume"):
        opened(tmp_path)
    assert contents(tmp_path) == before
    opened(tmp_path, resume=True).close()
    assert read_metrics(tmp_path) == []


def test_what_is_no_run_of_this_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="one that cannot go on: choose another --run-dir"):
            opened(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(("path", "reason"), [("/proc/run", ".*"), ("/dev/null/run", "Not a.*"), ("/dev/null", "it is no.*")])
def test_where_nothing_can_be_written(path: str, reason: str) -> None:
    with pytest.raises(OSError, match=rf"{path} cannot be written \({reason}\): choose another --run-dir"):
        opened(Path(path))


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("results.json", ".partial-results.json"):
        (run.path / name).symlink_to(tmp_path / "mine")
    run.write_json("results.json", {})
    assert (tmp_path / "mine").read_text() == "mine"
    assert read(run.path / "results.json") == {}
    assert not (run.path / "results.json").is_symlink()


LOCKER = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.ftruncate(lock, 0)
os.write(lock, b"process 7 on there")
print(flush=True)
sys.stdin.read()
"""


def test_a_directory_that_another_process_works_in(tmp_path: Path) -> None:
    opened(tmp_path).close()
    before = contents(tmp_path)
    command = [sys.executable, "-c", LOCKER, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError, match="is in use by process 7 on there: wait for it, or choose another --run-dir"):
            opened(tmp_path, resume=True)
        process.kill()
    assert contents(tmp_path) == before
    run = opened(tmp_path, resume=True)  # a lock does not outlive its process
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on "):
        opened(tmp_path, resume=True)
    run.close()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", unsupported)
    opened(tmp_path).close()
    assert "cannot be locked (Function not implemented): see that no other process works in it" in caplog.text


def test_a_full_disk_is_told(run: RunDirectory) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        files = run._files
        assert files is not None
        metrics, files._metrics = files._metrics, full
        with pytest.raises(NotWritten, match="/dev/full could not be written: No space left"):
            run.log(update=1)
        files._metrics = metrics

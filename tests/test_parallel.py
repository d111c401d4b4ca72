"""Many devices, simulated, and several processes, real ones: the same as one device in one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from adaptive_jax import parallel
from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.runs.checkpoints import Checkpoints
from adaptive_jax.runs.directory import read_metrics
from adaptive_jax.runs.records import named_leaves
from tests.conftest import KEPT
from tests.simulated_devices import CHECKS

ROOT = Path(__file__).parents[1]
UPDATES = 25  # enough for one to be killed in the middle


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_on_eight_simulated_devices(check: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.simulated_devices", check]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "held\n"


def test_a_single_process_has_everything_to_itself() -> None:
    own = np.arange(6.0).reshape(3, 2)
    assert parallel.share(3).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(parallel.gather(own, 3), own)
    assert parallel.on_main_process(lambda: 5) == 5
    assert (parallel.total(4), parallel.largest(4), parallel.rows_here(7), parallel.is_main_process()) == (4, 4, 7, True)
    assert parallel.local_mesh() is None
    assert parallel.Replicas().count == 1


def test_every_process_needs_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    assert parallel.share(3).tolist() == [0]
    with pytest.raises(ValueError, match="2 questions cannot be shared out among 3 processes: give more of them"):
        parallel.share(2)


def test_a_model_takes_a_whole_part_of_the_devices() -> None:
    with pytest.raises(ValueError, match=r"--model-parallel 2: this process has 1 devices.*: give one of 1"):
        parallel.local_mesh(2)


def start(processes: int, devices: int, cache: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """`tests.two_processes` in so many processes of so many simulated devices each; what one compiles, later ones need not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.two_processes", *arguments],
            cwd=ROOT,
            env=os.environ | own | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def finish(job: list[subprocess.Popen[str]]) -> list[str]:
    """What each process of a job printed, once all have ended well."""
    printed = [process.communicate(timeout=300)[0] for process in job]
    assert [process.returncode for process in job] == [0] * len(job), "\n".join(printed)
    return printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process of one device, and by two of two."""
    directory = tmp_path_factory.mktemp("processes")
    finish(start(1, 1, directory / "cache", "train", str(directory / "one"), str(UPDATES)))
    finish(start(2, 2, directory / "cache", "train", str(directory / "two"), str(UPDATES)))
    return directory


def final(run: Path) -> dict[str, np.ndarray]:
    return Checkpoints(run / "checkpoints" / "training").newest()[1].arrays


def assert_same_run(found: Path, expected: Path) -> None:
    """The same results; numbers that sum over devices, in whatever order, within 1e-6."""
    assert json.loads((found / "results.json").read_text()) == json.loads((expected / "results.json").read_text())
    for left, right in zip(read_metrics(found), read_metrics(expected), strict=True):
        for name in set(right) - {"useful_row_steps"}:  # tells how the work was laid out
            np.testing.assert_allclose(left[name], right[name], rtol=1e-5, atol=1e-6, err_msg=name)
    theirs = final(expected)
    for name, array in final(found).items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-6, err_msg=name)


def test_two_processes_of_two_devices_are_as_good_as_one_of_one(runs: Path) -> None:
    assert_same_run(runs / "two", runs / "one")
    lines = read_metrics(runs / "one")
    assert [line["update"] for line in lines] == list(range(1, UPDATES + 1))
    assert len({line["loss"] for line in lines}) > UPDATES / 2, "nothing was learnt, so equality means nothing"
    assert json.loads((runs / "two" / "environment.json").read_text())["processes"] == 2
    loaded = named_leaves(load_adapter(runs / "two").params)
    assert all(np.array_equal(final(runs / "two")[f"adapter.params.{name}"], leaf) for name, leaf in loaded.items())


def test_an_update_is_one_program_in_all_processes(runs: Path) -> None:
    """However many decisions the longest pair of each has: TPUs that run different programs wait for each other in vain."""
    one = json.loads((runs / "one" / "preferences-0.json").read_text())
    assert one["shapes"] == [[4, 8, 3]]
    for number in range(2):
        own = json.loads((runs / "two" / f"preferences-{number}.json").read_text())
        assert {tuple(shape) for shape in own["shapes"]} == {(1, 8, 3)}  # of each device
        assert own["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_a_number_of_processes_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="--distributed: JAX_NUM_PROCESSES is 'two': give a number"):
        parallel.connect()


def test_the_main_experiment_by_two_processes_is_that_by_one(tmp_path: Path) -> None:
    """From the command line to the tables: problems, prompts, four adapters, evaluations, files."""
    # uneven numbers of questions, but few programs to compile: all rows are in use, and all budgets are longer than a chunk
    flags = ["--limit", "9", "--train-limit", "12", "--updates", "2", "--prompts", "5", "--completions", "2"]
    flags += ["--budget", "17", "20", "--validate-every", "1", "--cot", "none", "--rows", "8"]
    finish(start(1, 1, KEPT, "math_token", "--run-dir", str(tmp_path / "one"), *flags))
    said = finish(start(2, 2, KEPT, "math_token", "--distributed", "--run-dir", str(tmp_path / "two"), *flags))
    assert "everything is in" in said[0]
    assert "everything is in" not in said[1], "both processes report"
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("one", "two")]
    assert results[0] == results[1]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())


@pytest.mark.parametrize(("busy", "asked"), [(0, 1), (1, 0)])
def test_a_job_stops_in_the_middle_of_a_stage(tmp_path: Path, busy: int, asked: int) -> None:
    """One process is at work and the other waits for it; the one that waits gets the signal, and both leave."""
    job = start(2, 1, tmp_path / "cache", "wait", str(busy))
    try:
        for process in job:
            while (line := process.stdout.readline()) != "ready\n":  # JAX may have said something before
                assert line, "it ended before it was asked"
        job[asked].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=30)[0] for process in job]  # what is promised: otherwise they go on for ever
    finally:
        for process in job:
            process.kill()
            process.communicate()
    assert [process.returncode for process in job] == [143, 143], said


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_job_and_the_next_one_goes_on(runs: Path, tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    job = start(2, 2, runs / "cache", "train", str(run), str(UPDATES))
    try:
        deadline = time.monotonic() + 200
        while not list(run.glob("checkpoints/training/0*")):
            assert time.monotonic() < deadline, "the training did not begin"
            assert all(process.poll() is None for process in job)
            time.sleep(0.02)
        job[victim].send_signal(signal.SIGKILL)
        said, _ = job[1 - victim].communicate(timeout=120)  # a bound, not a measurement: it hangs for ever if this fails
    finally:
        for process in job:
            process.kill()
            process.communicate()
    assert job[1 - victim].returncode not in (0, None)
    assert "process" in said or "task" in said
    assert not (run / "results.json").exists()
    finish(start(2, 2, runs / "cache", "train", str(run), str(UPDATES)))
    assert_same_run(run, runs / "two")

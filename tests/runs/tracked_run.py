"""A run of two series that sends its metrics to a tracker and may be killed on the way: RUN TRACKER [KILL_AT]."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from flax import struct

from adaptive_jax.runs.directory import RunDirectory
from adaptive_jax.runs.trackers import Trackers

LAST = 12
ACTIONS = ["greedy", "T 1"]


@dataclass
class Config:
    model: str = "none"


@struct.dataclass
class State:
    update: int = 0


def main(path: Path, tracker: Any, kill_at: int) -> None:
    trackers = Trackers([tracker], path, {"seed": 0}, {"model": "none"})
    run = RunDirectory(path, Config(), {"seed": 0}, on_line=trackers.follow)
    run.log(event="settings", actions=ACTIONS)

    def steps(state: State, method: str) -> Iterator[tuple[State, dict[str, Any]]]:
        for update in range(state.update + 1, LAST + 1):
            shares = [update / LAST, 1 - update / LAST]
            told = {"method": method, "seed": 1, "update": update, "reward": update / 16, "action_probabilities": shares}
            yield State(update), told | ({"validation_reward": 0.5} if update % 5 == 0 else {})
            if method == "second" and update == kill_at:
                time.sleep(1)  # the tracker writes what it has
                os.kill(os.getpid(), signal.SIGKILL)

    for method in ("first", "second"):
        run.loop(f"training {method}", State(), lambda state, method=method: steps(state, method), every=5)
    run.write_file("budgets.png", lambda file: plt.imsave(file, [[0.0, 1.0], [1.0, 0.0]]))
    trackers.figures([path / "budgets.png"])
    trackers.close()
    run.close(folders=[tracker])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)

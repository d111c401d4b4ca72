"""A run of two series that sends its metrics to all trackers and may be killed on the way: RUN [KILL_AT]."""

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
from adaptive_jax.runs.trackers import TrackerName, Trackers

LAST = 12
ACTIONS = ["greedy", "T 1"]


@dataclass
class Config:
    model: str = "none"


@struct.dataclass
class State:
    update: int = 0


TRACKERS: tuple[TrackerName, ...] = ("tensorboard", "wandb", "trackio")


def main(path: Path, kill_at: int) -> None:
    trackers = Trackers(TRACKERS, path, {"seed": 0}, {"model": "none"})
    run = RunDirectory(path, Config(), {"seed": 0}, on_line=trackers.follow)
    run.log(event="settings", actions=ACTIONS)

    def steps(state: State, method: str) -> Iterator[tuple[State, dict[str, Any]]]:
        for update in range(state.update + 1, LAST + 1):
            shares = [update / LAST, 1 - update / LAST]
            told = {"method": method, "seed": 1, "update": update, "reward": update / 16, "action_probabilities": shares}
            yield State(update), told | ({"validation_reward": 0.5} if update % 5 == 0 else {})
            if method == "second" and update == kill_at:
                time.sleep(1)  # the trackers write what they have
                os.kill(os.getpid(), signal.SIGKILL)

    for method in ("first", "second"):
        run.loop(f"training {method}", State(), lambda state, method=method: steps(state, method), every=5)
    run.write_file("budgets.png", lambda file: plt.imsave(file, [[0.0, 1.0], [1.0, 0.0]]))
    trackers.figures([path / "budgets.png"])
    trackers.close()
    run.close(folders=TRACKERS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)

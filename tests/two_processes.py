"""One process of a job of several, or all of a job of one; see test_parallel.py, which starts it.

python -m tests.two_processes train RUN [UPDATES]      a run with a training and an evaluation
python -m tests.two_processes wait NUMBER              process NUMBER works until it is to stop, the other waits for it
python -m tests.two_processes math_token FLAG...       the experiment, with a heartbeat that suits a test
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import optax

from adaptive_jax import parallel

parallel.HEARTBEAT_SECONDS = 10


def train_and_evaluate(path: Path, updates: int) -> None:
    """A run whose questions and completions are divided unevenly among the processes, in three stages."""
    from adaptive_jax.evaluation.evaluate import evaluate
    from adaptive_jax.learning.train import TrainSettings, first_state, train
    from adaptive_jax.policies.fixed import static
    from adaptive_jax.policies.token import token_adapter
    from adaptive_jax.runs.adapters import save_adapter
    from adaptive_jax.runs.directory import RunDirectory
    from tests.learning.questions import GreedyPath

    environment = GreedyPath(13)
    own = vars(environment.lm) | {"decoder": parallel.Replicas(parallel.local_mesh()).replicate(environment.lm.decoder)}
    environment.lm = SimpleNamespace(**own)
    settings = TrainSettings(updates=updates, prompts=5, completions=3, budgets=(4, 6), rows=12)
    run = RunDirectory(path, settings, {"experiment": "two processes"}, resume=True)
    with run.stop:
        adapter = token_adapter(2, width=16, budget_scale=6)
        start = first_state(adapter, settings, len(environment))
        watched = GreedyPath(7)
        watched.lm = environment.lm
        state, curve = run.loop(
            "training", start, lambda state: train(environment, state, settings, validation=watched), every=1
        )
        parallel.on_main_process(lambda: save_adapter(path / "adapters" / "token-adapter-budget-seed0", state.adapter))
        found = {}
        for name, policy in (("adapter", state.adapter), ("static", static(1.0))):
            scores = evaluate(environment, policy, (3, 6), seed=1, completions=2, rows=12)
            found[name] = {field: np.asarray(value).tolist() for field, value in vars(scores).items()}
        (path / f"preferences-{jax.process_index()}.json").write_text(json.dumps(follow_preferences()))
        run.write_json("results.json", {"scores": found, "rewards": [line["reward"] for line in curve]})
    run.close()


def wait_for(busy: int) -> None:
    """Works, or waits for what the other has, and leaves where the job is to stop."""
    from adaptive_jax.runs.stopping import Stop, Stopped

    try:
        with Stop() as stop:
            print("ready", flush=True)
            while jax.process_index() == busy:
                stop.check()
                time.sleep(0.01)
            parallel.total(1)
    except Stopped as stopped:
        sys.exit(stopped.status)


def follow_preferences() -> dict[str, Any]:
    """An update by pairs of 8 decisions or, every second one, of 4, which has another shape where all of a process's are."""
    from adaptive_jax.learning.lpo import Preferences, lpo_update
    from tests.policies.adapters import random_adapter

    random, own, seen = np.random.default_rng(0), parallel.share(4), []
    features, actions = random.normal(size=(4, 8, 3)).astype(np.float32), random.integers(0, 4, (4, 8)).astype(np.int32)
    sign = random.choice([-1, 1], (4, 8)).astype(np.float32)
    sign[::2, 4:] = 0
    size = 8 if sign[own, 4:].any() else 4
    pairs = Preferences(features[own, :size], actions[own, :size], sign[own, :size], np.ones(len(own), np.float32))

    def update(*arguments: Any, **static: Any) -> Any:
        seen.append(arguments[2].features.shape)
        return lpo_update(*arguments, **static)

    policy, optimizer = random_adapter(3, "hidden", scale=0.3), optax.sgd(1.0)
    learner = (policy, optimizer.init(policy.params))
    _, _, metrics = parallel.Replicas(parallel.local_mesh()).update(update, learner, pairs, beta=0.3, optimizer=optimizer)
    return {"shapes": seen, "loss": float(metrics["loss"])}


if __name__ == "__main__":
    if os.environ["JAX_NUM_PROCESSES"] != "1" and sys.argv[1] != "math_token":  # which connects by itself, at --distributed
        parallel.connect()
    if sys.argv[1] == "train":
        train_and_evaluate(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "wait":
        wait_for(int(sys.argv[2]))
    else:
        from experiments import math_token
        from experiments.launching import launch

        sys.argv[1:] = sys.argv[2:]
        launch(math_token.main, math_token.MathToken, math_token.__doc__)

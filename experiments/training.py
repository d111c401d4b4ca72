"""The training of a token adapter as a stage of a run, with checkpoints."""

from collections.abc import Iterator

import numpy as np

from adaptive_jax.environment import Environment
from adaptive_jax.learning.train import TrainSettings, TrainState, first_state, next_batch_digest, train
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.fingerprint import FingerprintMismatch
from experiments.config import TrainingConfig
from experiments.progress import Progress


def train_stage(
    run: RunDirectory,
    name: str,
    environment: Environment,
    adapter: TokenAdapter,
    settings: TrainSettings,
    config: TrainingConfig,
    *,
    validation: Environment,
    labels: Metrics,
) -> tuple[TokenAdapter, list[Metrics]]:
    """The training of one adapter as a stage of a run, with checkpoints: the state that validated best, and all metrics.

    Args:
        run: the run; the stage can be stopped.
        name: of the stage, also on the progress line.
        environment, settings, validation: see `train`.
        adapter: where to start.
        config: how often to save, and what may differ from an earlier process of this run.
        labels: go with the metrics of every update.

    Raises:
        FingerprintMismatch: the checkpoint foresaw other questions, budgets or keys than now follow from the settings.
        Stopped, NotWritten, FingerprintMismatch: see `RunDirectory.loop`.
        TrainingDiverged: see `train`.
    """

    def pause(done: int) -> None:
        run.stop.check()

    def steps(state: TrainState) -> Iterator[tuple[TrainState, Metrics]]:
        foreseen = next_batch_digest(len(environment), settings, state.update)
        if not config.allow_changed and not np.array_equal(state.next_batch_digest, foreseen):
            raise FingerprintMismatch(
                f"{name}: update {state.update + 1} would draw other questions, budgets or keys than before"
            )
        with Progress(name, settings.updates, run.stop) as progress:
            progress.at_least(state.update)
            for reached, metrics in train(environment, state, settings, validation=validation, on_progress=pause):
                yield reached, labels | metrics
                progress.at_least(reached.update, f"reward {metrics['reward']:.2f}")

    start = first_state(adapter, settings, len(environment))
    state, curve = run.loop(name, start, steps, every=config.checkpoint_every)
    return state.best, curve

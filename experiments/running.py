"""An experiment's run: its directory, what decides its numbers, and how it ends."""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from adaptive_jax import parallel
from adaptive_jax.learning.train import GradedRewards, TrainingDiverged
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.report.page import report
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.fingerprint import (
    Fingerprint,
    FingerprintMismatch,
    code_fingerprint,
    model_fingerprint,
    problems_fingerprint,
)
from adaptive_jax.runs.records import NotWritten
from adaptive_jax.runs.stopping import Stopped
from adaptive_jax.runs.trackers import Trackers
from adaptive_jax.tasks.rewards import RewardFailed
from experiments.asking import AskingConfig
from experiments.config import Config
from experiments.launching import INTERRUPTED, exit_on_usage_error
from experiments.splits import Splits

log = logging.getLogger(__name__)

DIVERGED = "diverged.npz"
REPORT, TIMES = "report.html", "times.md"
REPORT_EVERY = 180.0  # seconds between two reports of a training; one follows each method, too
UNDECISIVE = ("run-dir", "resume", "allow-changed", "checkpoint-every", "distributed", "log-to")  # flags that change no number


@contextmanager
def open_run(experiment: str, config: Config, lm: LM, splits: Splits) -> Iterator[RunDirectory]:
    """The run directory of an experiment, readable at every moment; one with checkpoints goes on.

    SIGTERM and Ctrl-C end the run with what it has saved, a line that says where it is, and status 143 or 130; a disk that is
    full, a model whose logits are not finite and a training that diverges end it with status 1, a checkpoint that is not of
    this run with status 2.
    """
    told = time.monotonic()

    def follow(line: Metrics) -> None:
        """In process 0, with every line of metrics: long trainings are to be seen before they end."""
        nonlocal told
        trackers.follow(line)
        if time.monotonic() - told > REPORT_EVERY:
            run.write_text(REPORT, report([path]))
            told = time.monotonic()

    with exit_on_usage_error():
        path = config.run_dir or Path("runs") / parallel.on_main_process(
            lambda: f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        fingerprint = fingerprint_of(experiment, config, lm, splits)
        if not path.exists() and (unknown := set(config.allow_changed) - set(fingerprint)):
            raise ValueError(f"--allow-changed {' '.join(sorted(unknown))}: no such field; there are {', '.join(fingerprint)}")
        trackers = Trackers(config.log_to, path, fingerprint, dataclasses.asdict(config))
        run = RunDirectory(path, config, fingerprint, resume=config.resume, allowed=config.allow_changed, on_line=follow)
    log.info("%s: results go to %s", experiment, path)
    try:
        with run.stop:
            yield run
            times = times_table(run)
            run.write_text(TIMES, times)
            log.info("\nWhere the time went:\n\n%s", times)
            parallel.on_main_process(lambda: trackers.figures(sorted(path.glob("*.png"))))
            parallel.on_main_process(
                lambda: None
            )  # all leave together: JAX ends a job whose first process waits long for the last
    except KeyboardInterrupt as error:
        print(f"interrupted: what was measured so far is in {path}; --run-dir {path} --resume goes on", file=sys.stderr)
        sys.exit(error.status if isinstance(error, Stopped) else INTERRUPTED)
    except NotWritten as error:
        print(f"error: {error}. Mend that, and --run-dir {path} --resume goes on from what was saved before", file=sys.stderr)
        sys.exit(1)
    except (FingerprintMismatch, RewardFailed, GradedRewards) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"error: {error}. What was measured so far is in {path}", file=sys.stderr)
        sys.exit(1)
    except TrainingDiverged as error:
        print(f"error: {error}. {_kept_batch(run, error.batch)}", file=sys.stderr)
        sys.exit(1)
    finally:
        trackers.close()
        run.close(folders=config.log_to)


def times_table(run: RunDirectory) -> str:
    """Where the time of a run went, as a Markdown table.

    A stage's minutes are those of all processes that worked on it; those between stages are of this process alone.
    """
    rows = {**run.seconds, "between them": run.seconds_between}
    whole = sum(rows.values())
    lines = [f"| {name} | {own / 60:.1f} | {own / whole:.0%} |" for name, own in (*rows.items(), ("all", whole))]
    return "\n".join(["| stage | minutes | share |", "| :-- | --: | --: |", *lines, ""])


def _kept_batch(run: RunDirectory, batch: dict[str, np.ndarray]) -> str:
    """Where the rollouts that a training ended with are."""
    try:
        run.write_file(DIVERGED, lambda file: np.savez(file, allow_pickle=False, **batch))
    except NotWritten as error:
        return str(error)
    return f"The batch is in {run.path / DIVERGED}"


def load_model(config: AskingConfig) -> LM:
    """The model of an experiment, on all devices of this process; raises what `load_lm` and `local_mesh` raise."""
    lm = load_lm(config.model, mesh=parallel.local_mesh(config.model_parallel), max_model_len=config.max_model_len)
    if not config.apply_chat_template:
        lm.tokenizer.chat_template = None
    return lm


def write_report(run: RunDirectory) -> None:
    """Write report.html from what the run has written so far."""
    run.write_text(REPORT, parallel.on_main_process(lambda: report([run.path])))


def fingerprint_of(experiment: str, config: Config, lm: LM, splits: Splits) -> Fingerprint:
    """What decides the numbers of an experiment: its flags, model, problems and code."""
    flags = {field.name.replace("_", "-"): getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        "experiment": experiment,
        **{name: value for name, value in flags.items() if name not in UNDECISIVE},
        **model_fingerprint(lm),
        "test-problems": problems_fingerprint(splits.test),
        "validation-problems": problems_fingerprint(splits.validation),
        "training-problems": problems_fingerprint(splits.train),
        "example-problems": problems_fingerprint(splits.examples),
        **config.sources,
        **code_fingerprint(Path(__file__).parent),
    }

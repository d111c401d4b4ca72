"""What every experiment shares: its flags, its run directory, its problems and its progress lines."""

import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from adaptive_jax import parallel
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.learning.environment import Cot, Environment
from adaptive_jax.learning.train import GradedRewards, TrainingDiverged, TrainSettings, TrainState, first_state, train, upcoming
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.policies.schedule import TokenSchedule
from adaptive_jax.policies.token import TokenAdapter
from adaptive_jax.runs.directory import Metrics, RunDirectory
from adaptive_jax.runs.fingerprint import (
    Fingerprint,
    FingerprintMismatch,
    code_fingerprint,
    model_fingerprint,
    problems_fingerprint,
)
from adaptive_jax.runs.records import NotWritten
from adaptive_jax.runs.stopping import Stop, Stopped
from adaptive_jax.tasks.problem import Problem
from adaptive_jax.tasks.rewards import RewardFailed
from adaptive_jax.tasks.sandbox import SandboxUnavailable

log = logging.getLogger(__name__)


class _TqdmHandler(logging.Handler):
    """Writes log lines above a progress line instead of into it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


_CONSOLE = _TqdmHandler()
ConfigT = TypeVar("ConfigT")

SEEDS = 2**32  # JAX takes larger ones for these: it keeps 32 bits
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
DIVERGED = "diverged.npz"
UNDECISIVE = ("run-dir", "resume", "allow-changed", "checkpoint-every", "distributed")  # flags that change no number


@dataclass(frozen=True)
class Config:
    """Flags of every experiment.

    Attributes:
        model: "tiny", "smollm2", a hub id such as Qwen/Qwen3-4B, a directory, or a .gguf file.
        dataset: "arithmetic", another known name, or a .jsonl, .json or .parquet file. A file without splits is divided: the
            first --limit problems are evaluated, the others trained on.
        train_dataset: a name or file to train on instead.
        limit: how many held-out problems are evaluated.
        skip: how many are passed over before them, so that a last run meets problems that no earlier one looked at.
        train_limit: how many problems are trained on, at most (512; 64 for a real model on a CPU).
        seeds: training seeds.
        seed: the first seed, below 2^32; fixes every draw.
        budget: token budgets, in tokens (48 64 96 for tiny, 256 512 1024 otherwise).
        cot: ask step by step (all), for the answer alone (none), or half and half (mix).
        run_dir: where results go (runs/<experiment>-<time> if not given); a run with checkpoints there goes on.
        resume: go on with the run in --run-dir, and start anew where it has no checkpoint yet.
        allow_changed: what may differ from the run that goes on, such as `code` or `updates`; an error names it.
        rows: completions decoded side by side, on all devices together.
        skip_bad: leave out malformed rows of a data set, and count them, instead of stopping at the first.
        distributed: join the other processes of this job on a TPU slice, under Slurm or on Kubernetes (the launch scripts give
            it); elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.
        model_parallel: devices that share one copy of the model, for those that do not fit one.
    """

    tiny_budgets: ClassVar[tuple[int, ...]] = (48, 64, 96)
    default_budgets: ClassVar[tuple[int, ...]] = (256, 512, 1024)

    model: str = "tiny"
    dataset: str = "arithmetic"
    train_dataset: str | None = None
    limit: int = 1000
    skip: int = 0
    train_limit: int | None = None
    seeds: int = 1
    seed: int = 0
    budget: tuple[int, ...] = ()
    cot: Cot = "all"
    run_dir: Path | None = None
    resume: bool = False
    allow_changed: tuple[str, ...] = ()
    rows: int = 128
    skip_bad: bool = False
    distributed: bool = False
    model_parallel: int = 1

    def __post_init__(self) -> None:
        self.at_least(1, "limit", "train_limit", "seeds", "rows", "model_parallel")
        self.at_least(0, "seed", "skip")
        if self.seed + self.seeds > SEEDS:
            raise ValueError(f"--seed {self.seed}: seeds are less than 2^32; give a smaller one")
        if any(budget < 1 for budget in self.budget):
            raise ValueError(f"--budget {' '.join(map(str, self.budget))}: every token budget must be at least 1")
        if self.resume and self.run_dir is None:
            raise ValueError("--resume goes with --run-dir: name the run that is to go on")

    def at_least(self, least: int, *flags: str) -> None:
        """Raises ValueError, naming the flag, where one of `flags` is below `least`."""
        for flag in flags:
            value = getattr(self, flag)
            if value is not None and not least <= value < math.inf:  # NaN is neither
                raise ValueError(f"--{flag.replace('_', '-')} {value}: give at least {least}, and a finite number")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The token budgets, ascending."""
        default = self.tiny_budgets if self.model == "tiny" else self.default_budgets
        return tuple(sorted(set(self.budget))) or default

    @property
    def training_seeds(self) -> range:
        """The seeds of the training runs."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def sources(self) -> Fingerprint:
        """Digests of the files that flags name and that decide the numbers of a run."""
        return {}

    @property
    def slow(self) -> bool:
        """Whether defaults are cut so that a run ends on the day it started: a real model on a CPU."""
        return self.model != "tiny" and jax.default_backend() == "cpu"


@dataclass(frozen=True)
class Splits:
    """Problems to evaluate, to watch during training, to train on, and to show as examples; no two share a problem."""

    test: list[Problem]
    validation: list[Problem]
    train: list[Problem]
    examples: list[Problem]


@dataclass(frozen=True)
class TrainingConfig(Config):
    """Flags of every experiment that trains.

    Attributes:
        updates: policy-gradient updates per adapter and seed (60; 6 for a real model on a CPU).
        checkpoint_every: updates between two checkpoints.
    """

    updates: int | None = None
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "updates", "checkpoint_every")


def launch(main: Callable[[ConfigT], object], config: type[ConfigT], description: str | None) -> None:
    """Run an experiment from the command line.

    Log lines go to standard output. Ctrl-C ends it with status 130.
    """
    for name in ("adaptive_jax", "experiments"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_CONSOLE)
        logger.propagate = False
    try:
        with asked_for():
            chosen = tyro.cli(config, description=description)
            if getattr(chosen, "distributed", False):
                parallel.connect()
                if not parallel.chief():
                    _CONSOLE.setLevel(logging.WARNING)
        main(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


@contextmanager
def asked_for() -> Iterator[None]:
    """Around whatever depends on what the user asked for: an error there is a line that says what to mend, and status 2."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError, SandboxUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def open_run(experiment: str, config: Config, lm: LM, splits: Splits) -> Iterator[RunDirectory]:
    """The run directory of an experiment, readable at every moment; one with checkpoints goes on.

    SIGTERM and Ctrl-C end the run with what it has saved, a line that says where it is, and status 143 or 130; a disk that is
    full, a model whose logits are not finite and a training that diverges end it with status 1, a checkpoint that is not of
    this run with status 2.
    """
    with asked_for():
        path = config.run_dir or Path("runs") / parallel.by_chief(lambda: f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}")
        fingerprint = fingerprint_of(experiment, config, lm, splits)
        if not path.exists() and (unknown := set(config.allow_changed) - set(fingerprint)):
            raise ValueError(f"--allow-changed {' '.join(sorted(unknown))}: no such field; there are {', '.join(fingerprint)}")
        run = RunDirectory(path, config, fingerprint, resume=config.resume, allowed=config.allow_changed)
    log.info("%s: results go to %s", experiment, path)
    try:
        with run.stop:
            yield run
            parallel.by_chief(lambda: None)  # all leave together: JAX ends a job whose first process waits long for the last
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
        run.close()


def _kept_batch(run: RunDirectory, batch: dict[str, np.ndarray]) -> str:
    """Where the rollouts that a training ended with are."""
    try:
        run.write_file(DIVERGED, lambda file: np.savez(file, allow_pickle=False, **batch))
    except NotWritten as error:
        return str(error)
    return f"The batch is in {run.path / DIVERGED}"


def load_model(config: Config) -> LM:
    """The model of an experiment, on all devices of this process; raises what `load_lm` and `local_mesh` raise."""
    return load_lm(config.model, mesh=parallel.local_mesh(config.model_parallel))


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
        foreseen = upcoming(len(environment), settings, state.update)
        if not config.allow_changed and not np.array_equal(state.upcoming, foreseen):
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


def fork_schedule(lm: LM) -> TokenSchedule:
    """For the embedded model: hot (1.25) where a line of working has ended and the text forks, greedy everywhere else."""
    (line_end,) = lm.tokenizer.encode("\n", add_special_tokens=False)
    actions = SamplingParams.stack([SamplingParams(0.0), SamplingParams(1.25)])
    return TokenSchedule(actions, jnp.asarray([line_end], jnp.int32))


class Progress:
    """One progress line with the time left, or on a console that is none a log line every ten seconds; a context manager.

    Args:
        label: what is being done.
        total: how much of it there is.
        stop: looked at with every report: where the run has been asked to stop, `Stopped` is raised.
    """

    def __init__(self, label: str, total: int, stop: Stop):
        self._label, self._total, self._stop = label, total, stop
        self._first: tuple[float, int] | None = None  # time and count of the first report; what is before it is compilation
        self._told = time.monotonic()
        self._bar = tqdm(
            total=total,
            desc=label,
            leave=False,
            disable=not (sys.stderr.isatty() and parallel.chief()),
            bar_format="{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left {postfix}",
            dynamic_ncols=True,
        )

    def at_least(self, done: int, note: str = "") -> None:
        """So much is done."""
        self._stop.check()
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._first is None:
            self._first = now, done
        elif now - self._told >= 10.0 and done > self._first[1]:
            self._told = now
            left = (now - self._first[0]) / (done - self._first[1]) * (self._total - done)
            log.info("%s: %d of %d, %s left %s", self._label, done, self._total, tqdm.format_interval(left), note)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

"""The flags that every experiment has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax

from adaptive_jax.environment import Cot
from adaptive_jax.lm.model import EMBEDDED
from adaptive_jax.runs.fingerprint import Fingerprint
from adaptive_jax.runs.trackers import TrackerName

OWN_PROBLEMS = {"fork": "forks"}
SEEDS = 2**32  # JAX takes larger ones for these: it keeps 32 bits


@dataclass(frozen=True)
class Config:
    """Flags of every experiment.

    Attributes:
        model: "fork", "tiny", "smollm2", a hub id such as Qwen/Qwen3-4B, a directory, or a .gguf file.
        dataset: a known name, or a .jsonl, .json or .parquet file ("forks" for fork, "arithmetic" otherwise). A file without
            splits is divided: the first --limit problems are evaluated, the others trained on. "A + B" mixes data sets in equal
            parts.
        train_dataset: a name or file to train on instead.
        limit: how many held-out problems are evaluated.
        skip: how many are passed over before them, so that a last run meets problems that no earlier one looked at.
        train_limit: how many problems are trained on, at most (512; 64 for a real model on a CPU).
        seeds: training seeds.
        seed: the first seed, below 2^32; fixes every draw.
        budget: token budgets, in tokens (48 64 96 for tiny, 8 20 40 for fork, 256 512 1024 otherwise).
        cot: ask step by step (all), for the answer alone (none), or half and half (mix).
        run_dir: where results go (runs/<experiment>-<time> if not given); a run with checkpoints there goes on.
        resume: go on with the run in --run-dir, and start anew where it has no checkpoint yet.
        allow_changed: what may differ from the run that goes on, such as `code` or `updates`; an error names it.
        rows: completions decoded side by side, on all devices together.
        skip_bad: leave out malformed rows of a data set, and count them, instead of stopping at the first.
        distributed: join the other processes of this job on a TPU slice, under Slurm or on Kubernetes (the launch scripts give
            it); elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.
        log_to: trackers that metrics and figures are sent to, too: tensorboard (files in the run directory), wandb, trackio;
            each is an extra of this package, and its own environment variables hold, such as WANDB_MODE=offline.
        model_parallel: devices that share one copy of the model, for those that do not fit one.
        max_model_len: most tokens of a prompt and its completion together, where that is not the model's context; with more
            than 4096, Phi-3 and Phi-4-mini with 128k use their rotary factors for long texts, for all texts.
    """

    # by model
    own_budgets: ClassVar[Mapping[str, tuple[int, ...]]] = {"tiny": (48, 64, 96), "fork": (8, 20, 40)}
    default_budgets: ClassVar[tuple[int, ...]] = (256, 512, 1024)

    model: str = "fork"
    dataset: str = ""  # by model
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
    log_to: tuple[TrackerName, ...] = ()
    model_parallel: int = 1
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", self.dataset or OWN_PROBLEMS.get(self.model, "arithmetic"))
        self.at_least(1, "limit", "train_limit", "seeds", "rows", "model_parallel", "max_model_len")
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
        return tuple(sorted(set(self.budget))) or self.own_budgets.get(self.model, self.default_budgets)

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
        return self.model not in EMBEDDED and jax.default_backend() == "cpu"


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

"""The flags of the verb `rollout`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive_jax.rollouts.columns import GRADED, TYPES
from adaptive_jax.rollouts.requests import FIELDS

# Rows idle while the last completions of a shard are decoded: about 1% of the time, where each row is filled so many times.
FILLS = 128
TOKENS = 1 << 24  # of budget in a shard: at 25 bytes a token it takes 400 MiB of memory
FEWEST = 4096  # completions of a shard, whatever their budgets


def default_shard_size(rows: int, budget: int) -> int:
    """Completions of a shard, where `rows` are decoded side by side and `budget` is the longest token budget."""
    return max(min(FILLS * rows, TOKENS // budget), FEWEST)


@dataclass(frozen=True)
class RolloutConfig:
    r"""Completions of many prompts as Parquet files; safe to kill.

    Attributes:
        model: "tiny", "smollm2", a hub id, a directory, or a .gguf file.
        prompts: a .jsonl, .json, .parquet or .txt file (rows: see adaptive_jax/rollouts/requests.py); - is standard input.
        dataset: the name of a data set, or a file of problems, instead of --prompts.
        split: of a named data set.
        limit: problems of the data set at most.
        cot: which problems are asked step by step.
        policy: a run, one adapter of it, or a hub id; otherwise one setting for all completions, by the next four flags.
        temperature: 0 is greedy (1 if not given).
        top_k: 0 keeps all (0 if not given).
        top_p: 1 keeps all (1 if not given).
        min_p: 0 keeps all (0 if not given).
        completions: of each prompt.
        budget: token budget.
        stop: a completion ends at the first of these texts; \n and \t as usual.
        seed: fixes every draw.
        out: a directory; with shards of this rollout in it, goes on with it.
        grade: have the completions graded.
        reward: FILE.py:FUNCTION, grades instead of the data set's grader.
        columns: those that are wanted (adaptive_jax/rollouts/columns.py); all if not given.
        shard_size: rows of a file at most, but whole prompts. A kill costs what was drawn of a shard; each shard costs rows
            that idle at its end. 128 times --rows if not given; fewer where budgets are long, but at least 4096.
        rows: completions decoded side by side.
        shards: I/N: be job I of N, from 0, which share the directory.
        distributed: the processes of this TPU slice, Slurm or Kubernetes job are its jobs, as for the experiments.
        model_parallel: devices that share one copy of the model.
        max_model_len: most tokens of a prompt and its completion together, where that is not the model's context (as for the
            experiments).
        only: ID:COMPLETION: draw one completion again and print it.
    """

    model: str = "tiny"
    prompts: str | None = None
    dataset: str | None = None
    split: str = "test"
    limit: int | None = None
    cot: Literal["none", "all", "mix"] = "all"
    policy: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    completions: int = 8
    budget: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    out: Path | None = None
    grade: bool = False
    reward: str | None = None
    columns: tuple[str, ...] = ()
    shard_size: int | None = None
    rows: int = 128
    shards: str | None = None
    distributed: bool = False
    model_parallel: int = 1
    max_model_len: int | None = None
    only: str | None = None

    def check(self) -> None:
        """Raises ValueError where flags contradict each other or are out of range."""
        if (self.dataset is None) == (self.prompts is None):
            raise ValueError("give one of --dataset and --prompts")
        for name in ("completions", "budget", "shard_size", "rows", "model_parallel", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: give at least 1")
        if self.policy is not None and self.settings:
            flag = next(iter(self.settings)).replace("_", "-")
            raise ValueError(f"--{flag} is of no use with --policy, which chooses the settings: leave one of them out")
        if self.grade and self.prompts is not None and self.reward is None:
            raise ValueError("--grade needs the answers of a --dataset; for --prompts give --reward FILE.py:FUNCTION")
        if self.out is None and self.only is None:
            raise ValueError("give --out DIRECTORY, or --only ID:COMPLETION")
        if unknown := [name for name in self.columns if name not in TYPES]:
            raise ValueError(f"--columns {unknown[0]}: no such column; there are {', '.join(TYPES)}")
        if not self.graded and (asked := [name for name in self.columns if name in GRADED]):
            raise ValueError(f"--columns {asked[0]}: give --grade or --reward, too")
        if self.distributed and (self.shards is not None or self.only is not None):
            raise ValueError("--distributed makes each process a job of its own: leave out --shards and --only")
        _ = self.job

    @property
    def settings(self) -> dict[str, float]:
        """The sampling settings that flags name."""
        return {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not None}

    @property
    def graded(self) -> bool:
        """Whether completions are graded."""
        return self.grade or self.reward is not None

    @property
    def job(self) -> tuple[int, int]:
        """Which of how many jobs this is; raises ValueError where --shards is none."""
        number, _, jobs = (self.shards or "0/1").partition("/")
        if not (number.isdecimal() and jobs.isdecimal() and int(number) < int(jobs)):
            raise ValueError(f"--shards {self.shards} is no job: give I/N with I from 0 to N - 1, such as 0/8")
        return int(number), int(jobs)

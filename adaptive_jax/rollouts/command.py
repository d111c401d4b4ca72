"""The verb `rollout`: prompts in, Parquet shards out, in parts that are drawn, graded and written one after the other.

A shard is one `rollout` of its prompts, whatever came before it, so it has the same bits whenever it is drawn. While a shard is
decoded, the one before is graded and written.
"""

import argparse
import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from adaptive_jax.decoding.generate import complete
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.digest import tree_digest
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.policies.fixed import static
from adaptive_jax.rollouts.columns import GRADED, LOGPROBS, TYPES, table
from adaptive_jax.rollouts.requests import FIELDS, Request, from_file, from_problems
from adaptive_jax.rollouts.shards import Shards
from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.runs.fingerprint import DIGITS, Fingerprint, code_fingerprint, model_fingerprint
from adaptive_jax.tasks.grading import rewarded
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Grade
from adaptive_jax.tasks.rewards import RewardFailed, RewardFunction, load_reward
from adaptive_jax.tasks.sandbox import SandboxUnavailable

Part = tuple[list[Request], Policy, Trajectory, list[str]]  # requests under one policy, with their completions and texts


def rollout(flags: argparse.Namespace) -> str:
    """Do what the flags of `python -m adaptive_jax rollout` ask; returns what is to be printed.

    Raises:
        ValueError, OSError: a flag that can't be followed; the message names it.
        FloatingPointError: the model's logits are not finite.
    """
    _check(flags)
    lm = load_lm(flags.model)
    job = _Job(lm, flags)
    try:
        return job.one(flags.only) if flags.only is not None else job.run(Path(flags.out), flags.shards or (0, 1))
    except (RewardFailed, SandboxUnavailable) as error:
        raise ValueError(str(error)) from error


def _check(flags: argparse.Namespace) -> None:
    """Raises ValueError where flags contradict each other or are out of range."""
    if (flags.dataset is None) == (flags.prompts is None):
        raise ValueError("give one of --dataset and --prompts")
    for name in ("completions", "budget", "shard_size", "rows"):
        if getattr(flags, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(flags, name)}: give at least 1")
    static_flags = [f"--{name.replace('_', '-')}" for name in FIELDS if getattr(flags, name) is not None]
    if flags.policy is not None and static_flags:
        raise ValueError(f"{static_flags[0]} is of no use with --policy, which chooses the settings: leave one of them out")
    if flags.grade and flags.prompts is not None and flags.reward is None:
        raise ValueError("--grade needs the answers of a --dataset; for --prompts give --reward FILE.py:FUNCTION")
    if flags.out is None and flags.only is None:
        raise ValueError("give --out DIRECTORY, or --only ID:COMPLETION")
    if unknown := [name for name in flags.columns or () if name not in TYPES]:
        raise ValueError(f"--columns {unknown[0]}: no such column; there are {', '.join(TYPES)}")
    graded = flags.grade or flags.reward is not None
    if not graded and (asked := [name for name in flags.columns or () if name in GRADED]):
        raise ValueError(f"--columns {asked[0]}: give --grade or --reward, too")


class _Job:
    """One rollout, or a part of it; see `rollout`."""

    def __init__(self, lm: LM, flags: argparse.Namespace):
        self._lm, self._flags = lm, flags
        given = {name: getattr(flags, name) for name in FIELDS if getattr(flags, name) is not None}
        settings = SamplingParams(**given)
        self._policy: Policy = static(**given) if flags.policy is None else load_adapter(flags.policy, lm=lm)
        self._reward: tuple[RewardFunction, str] | None = None if flags.reward is None else load_reward(flags.reward)
        self._graded = flags.grade or self._reward is not None
        self._columns = flags.columns or [name for name in TYPES if self._graded or name not in GRADED]
        self._ends = StopTexts(lm, [text.replace("\\n", "\n").replace("\\t", "\t") for text in flags.stop])
        if flags.dataset is None:
            self._requests = from_file(lm, flags.prompts, flags.budget, settings)
        else:
            answered = flags.grade and self._reward is None
            problems = load_problems(flags.dataset, split=flags.split, limit=flags.limit, answered=answered)
            self._requests = from_problems(lm, problems, flags.cot, flags.budget)
        self._places = {request.id: place for place, request in enumerate(self._requests)}
        self._width = max(len(request.tokens) for request in self._requests)

    def run(self, directory: Path, job: tuple[int, int]) -> str:
        """Draw this job's shards that are not finished."""
        size = max(self._flags.shard_size // self._flags.completions, 1)  # prompts of a shard
        parts = [self._requests[start : start + size] for start in range(0, len(self._requests), size)]
        asked = {name: value for name, value in vars(self._flags).items() if name not in ("command", "out", "shards", "only")}
        with Shards(directory, len(parts), job, asked, self._fingerprint()) as shards, ThreadPoolExecutor(1) as others:
            before = len(range(job[0], len(parts), job[1])) - len(shards.todo)
            total = sum(len(parts[shard]) for shard in shards.todo) * self._flags.completions
            pending: Future[None] | None = None
            with tqdm(total=total, desc="completions", disable=None) as bar:
                for shard in shards.todo:
                    drawn = self._draw(parts[shard], bar.update)
                    if pending is not None:
                        pending.result()
                    pending = others.submit(lambda shard, drawn: shards.finish(shard, self._table(drawn)), shard, drawn)
            if pending is not None:
                pending.result()
        return f"{directory}: {len(shards.todo)} shards written, {before} were there; {len(parts)} make the rollout\n"

    def one(self, only: str) -> str:
        """One completion as a line of JSON, drawn with the others of its prompt alone."""
        identity, _, number = only.rpartition(":")
        found = [request for request in self._requests if request.id == identity]
        if not found or not number.isdecimal() or int(number) >= self._flags.completions:
            raise ValueError(
                f"--only {only}: give ID:COMPLETION, an id of the prompts and a number from 0 to {self._flags.completions - 1}"
            )
        row = self._table(self._draw(found, lambda ended: None)).slice(int(number), 1).to_pylist()[0]
        return json.dumps(row) + "\n"

    def _draw(self, requests: Sequence[Request], on_ended: Callable[[int], Any]) -> list[Part]:
        """The completions of some requests, those with the same settings together."""
        groups: dict[Any, list[Request]] = defaultdict(list)
        for request in requests:
            groups[request.setting].append(request)
        parts = []
        for setting, members in groups.items():
            policy = self._policy if setting is None else static(*setting)
            told = 0

            def tell(ended: int) -> None:
                nonlocal told
                on_ended(ended - told)
                told = ended

            trajectory, texts = complete(
                self._lm,
                [request.prompt for request in members],
                policy,
                self._ends,
                n=self._flags.completions,
                seed=self._flags.seed,
                rows=self._flags.rows,
                prompt_width=self._width,
                logprobs=any(name in LOGPROBS for name in self._columns),
                on_progress=tell,
            )
            parts.append((members, policy, trajectory, texts))
        return parts

    def _table(self, parts: Sequence[Part]) -> pa.Table:
        """Their rows, graded where that was asked for, in the order of the requests."""
        tables, places = [], []
        n = self._flags.completions
        for requests, policy, trajectory, texts in parts:
            grades = self._grades(requests, texts) if self._graded else None
            tables.append(table(self._columns, requests, trajectory, texts, policy.actions, self._flags.seed, grades))
            places += [(self._places[request.id], number) for request in requests for number in range(n)]
        return pa.concat_tables(tables).take(sorted(range(len(places)), key=places.__getitem__)).combine_chunks()

    def _grades(self, requests: Sequence[Request], texts: Sequence[str]) -> list[Grade]:
        problems = [request.problem for request in requests for _ in range(self._flags.completions)]
        return rewarded(problems, texts) if self._reward is None else self._reward[0].grades(problems, texts)

    def _fingerprint(self) -> Fingerprint:
        """What decides the rows and their bits."""
        prompts = hashlib.sha256()
        for request in self._requests:
            problem = dataclasses.astuple(request.problem) if self._graded else None
            prompts.update(
                json.dumps([request.id, request.text, request.budget, request.setting, problem], default=str).encode()
            )
        known = {
            field.name: value
            for field in dataclasses.fields(self._policy)  # type: ignore[arg-type]  # every policy is a struct
            if isinstance(value := getattr(self._policy, field.name), str | int | bool)
        }
        own = ("seed", "completions", "budget", "stop", "cot", "shard_size", "rows", "grade")
        return {
            **model_fingerprint(self._lm),
            "prompts": f"{len(self._requests)} prompts {prompts.hexdigest()[:DIGITS]}",
            "policy": f"{type(self._policy).__name__} {json.dumps(known)} {tree_digest(self._policy)[:DIGITS]}",
            **{name.replace("_", "-"): getattr(self._flags, name) for name in own},
            "columns": list(self._columns),
            "reward-source": self._reward and self._reward[1],
            **code_fingerprint(),
        }

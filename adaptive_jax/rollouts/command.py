"""The verb `rollout`: prompts in, Parquet shards out, in parts that are drawn, graded and written one after the other.

A shard is one `rollout` of its prompts, whatever came before it, so it has the same bits whenever it is drawn. Completions
are graded as they end, and a shard is written while the next one is decoded.
"""

import dataclasses
import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa
from tqdm import tqdm

from adaptive_jax import parallel
from adaptive_jax.decoding.generate import draw
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.stop import StopTexts
from adaptive_jax.decoding.trajectory import Trajectory
from adaptive_jax.digest import tree_digest
from adaptive_jax.lm.model import LM, load_lm
from adaptive_jax.lm.prompts import decode
from adaptive_jax.policies.fixed import static
from adaptive_jax.rollouts.columns import GRADED, LOGPROBS, TYPES, table
from adaptive_jax.rollouts.config import RolloutConfig, default_shard_size
from adaptive_jax.rollouts.judging import Judging, Lengths, Numbers, Tokens
from adaptive_jax.rollouts.requests import Request, from_file, from_problems
from adaptive_jax.rollouts.shards import Shards
from adaptive_jax.runs.adapters import load_adapter
from adaptive_jax.runs.fingerprint import DIGITS, Fingerprint, code_fingerprint, model_fingerprint
from adaptive_jax.tasks.grading import rewarded
from adaptive_jax.tasks.loading import load_problems
from adaptive_jax.tasks.problem import Grade
from adaptive_jax.tasks.rewards import RewardFailed, RewardFunction, load_reward
from adaptive_jax.tasks.sandbox import SandboxUnavailable

NO_QUESTION = ("out", "shards", "only", "distributed")  # flags that change no row
Part = tuple[list[Request], Policy, Trajectory, Judging]  # requests under one policy, with their completions


def rollout(config: RolloutConfig) -> str:
    """Do what the flags of `python -m adaptive_jax rollout` ask; returns what is to be printed.

    Raises:
        ValueError, OSError: a flag that can't be followed; the message names it.
        FloatingPointError: the model's logits are not finite.
    """
    config.check()
    if config.distributed:
        parallel.connect()
    lm = load_lm(config.model, mesh=parallel.local_mesh(config.model_parallel), max_model_len=config.max_model_len)
    job = _Job(lm, config)
    try:
        if config.only is not None:
            return job.one(config.only)
        assert config.out is not None  # `check` saw to that
        done = job.run(config.out, (jax.process_index(), jax.process_count()) if config.distributed else config.job)
        parallel.on_main_process(lambda: None)  # all leave together: process 0 has what the others find each other by
        return done
    except (RewardFailed, SandboxUnavailable) as error:
        raise ValueError(str(error)) from error


class _Job:
    """One rollout, or a part of it; see `rollout`."""

    def __init__(self, lm: LM, config: RolloutConfig):
        self._lm, self._config = lm, config
        self._policy: Policy = static(**config.settings) if config.policy is None else load_adapter(config.policy, lm=lm)
        self._reward: tuple[RewardFunction, str] | None = None if config.reward is None else load_reward(config.reward)
        self._graded = config.graded
        self._columns = config.columns or [name for name in TYPES if self._graded or name not in GRADED]
        self._ends = StopTexts(lm, [text.replace("\\n", "\n").replace("\\t", "\t") for text in config.stop])
        if config.dataset is None:
            assert config.prompts is not None  # `check` saw to that
            self._requests = from_file(lm, config.prompts, config.budget, SamplingParams(**config.settings))
        else:
            answered = config.grade and self._reward is None
            problems = load_problems(config.dataset, split=config.split, limit=config.limit, answered=answered)
            self._requests = from_problems(lm, problems, config.cot, config.budget)
        self._places = {request.id: place for place, request in enumerate(self._requests)}
        self._width = max(len(request.tokens) for request in self._requests)
        if config.shard_size is None:
            size = default_shard_size(config.rows, max(request.budget for request in self._requests))
            self._config = dataclasses.replace(config, shard_size=size)
        # of all prompts, whichever shards this job draws: so bits do not depend on where an earlier one stopped
        self._prefixes = SharedPrefixes(lm.decoder, [request.prompt.tokens for request in self._requests])

    def run(self, directory: Path, job: tuple[int, int]) -> str:
        """Draw this job's shards that are not finished."""
        assert self._config.shard_size is not None  # `__init__` saw to that
        size = max(self._config.shard_size // self._config.completions, 1)  # prompts of a shard
        parts = [self._requests[start : start + size] for start in range(0, len(self._requests), size)]
        asked = {name: value for name, value in dataclasses.asdict(self._config).items() if name not in NO_QUESTION}
        with Shards(directory, len(parts), job, asked, self._fingerprint()) as shards, _one_thread() as others:
            before = len(range(job[0], len(parts), job[1])) - len(shards.todo)
            total = sum(len(parts[shard]) for shard in shards.todo) * self._config.completions
            pending: Future[None] | None = None
            with tqdm(total=total, desc="completions", disable=None) as bar:
                for shard in shards.todo:
                    drawn = self._draw(parts[shard], others, bar.update)
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
        if not found or not number.isdecimal() or int(number) >= self._config.completions:
            raise ValueError(
                f"--only {only}: give ID:COMPLETION, an id of the prompts and a number from 0 to {self._config.completions - 1}"
            )
        with _one_thread() as others:
            row = self._table(self._draw(found, others, lambda ended: None)).slice(int(number), 1).to_pylist()[0]
        return json.dumps(row) + "\n"

    def _draw(self, requests: Sequence[Request], others: Executor, on_ended: Callable[[int], Any]) -> list[Part]:
        """The completions of some requests, those with the same settings together; what is left of judging them is in line."""
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

            judging = Judging(functools.partial(self._judge, members), len(members) * self._config.completions, others)
            trajectory = draw(
                self._lm,
                [request.prompt for request in members],
                policy,
                self._ends,
                n=self._config.completions,
                seed=self._config.seed,
                rows=self._config.rows,
                prompt_width=self._width,
                prefixes=self._prefixes,
                logprobs=any(name in LOGPROBS for name in self._columns),
                on_progress=tell,
                on_ended=judging.add,
            )
            judging.submit()
            parts.append((members, policy, trajectory, judging))
        return parts

    def _judge(
        self, requests: Sequence[Request], numbers: Numbers, tokens: Tokens, lengths: Lengths
    ) -> tuple[list[str], list[Grade]]:
        """Texts and grades, none where nobody asked for them, of the requests' completions `numbers`; see `Judging`."""
        texts = [self._ends.cut(text) for text in decode(self._lm.tokenizer, tokens, lengths)]
        if not self._graded:
            return texts, []
        problems = [requests[number // self._config.completions].problem for number in numbers]
        return texts, rewarded(problems, texts) if self._reward is None else self._reward[0].grades(problems, texts)

    def _table(self, parts: Sequence[Part]) -> pa.Table:
        """Their rows, in the order of the requests."""
        tables, places = [], []
        n = self._config.completions
        for requests, policy, trajectory, judging in parts:
            texts, grades = judging.result()
            tables.append(table(self._columns, requests, trajectory, texts, policy.actions, self._config.seed, grades))
            places += [(self._places[request.id], number) for request in requests for number in range(n)]
        return pa.concat_tables(tables).take(sorted(range(len(places)), key=places.__getitem__)).combine_chunks()

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
            **{name.replace("_", "-"): getattr(self._config, name) for name in own},
            "columns": list(self._columns),
            "reward-source": self._reward and self._reward[1],
            **code_fingerprint(),
        }


@contextmanager
def _one_thread() -> Iterator[Executor]:
    """A thread for what is done beside decoding, in order; after an error what it has not begun is dropped."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)

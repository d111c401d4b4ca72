"""What `experiments.device_check` looks at: parts that run in processes of their own, and tell what they find as they go."""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import sampling
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.lm.gguf import smollm2_file
from adaptive_jax.lm.model import load_lm
from adaptive_jax.policies.fixed import static
from experiments.bench.against import generate
from experiments.bench.bandwidth import bandwidth
from experiments.bench.opponent import ROOT, TRANSFORMERS, available
from experiments.bench.step import mixes
from experiments.bench.subject import QWEN3_4B, Subject, load_decoder

GOLDEN = ROOT / "tests" / "lm" / "golden" / "smollm2.json"  # made by transformers in float32 (tests/lm/make_golden.py)
ROUNDING = 1e-5  # of a probability: how far from a token's part of [0, 1) a number that draws it may lie
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Sizes:
    """How much of each is done.

    Attributes:
        continuations: of the committed ones.
        vocabulary: of the kernel's logits.
        models: whose speed is measured.
        rows: with each of these numbers of rows.
        repeats: rounds of a measurement.
        repeated: model, rows and token budget of the run that is made twice.
        math_token, instructions_token: flags.
    """

    continuations: int = 10
    vocabulary: int = 49152
    models: tuple[str, ...] = ("smollm2", QWEN3_4B)
    rows: tuple[int, ...] = (128, 256)
    repeats: int = 5
    repeated: tuple[str, int, int] = ("smollm2", 128, 64)
    math_token: str = "--limit 200 --train-limit 256 --updates 20 --cot all"
    instructions_token: str = "--model smollm2 --limit 32 --train-limit 64 --updates 6"


SMALL = Sizes(
    continuations=2,
    vocabulary=1000,
    models=("tiny",),
    rows=(4, 8),
    repeats=1,
    repeated=("tiny", 4, 8),
    math_token="--limit 8 --train-limit 8 --updates 1 --prompts 2 --completions 2 --rows 4 --cot none --budget 6",
    instructions_token="--model tiny --limit 4 --train-limit 4 --updates 1 --prompts 2 --completions 2 --rows 4 --budget 6",
)


def greedy(sizes: Sizes, folder: Path, tell: Tell) -> None:
    """SmolLM2's greedy continuations, beside those of transformers that are committed.

    In float32, with whole float32 products, they must be the same. In the type that is used on this device, and with its own
    products, they may part where two tokens are nearly as probable; told is how many tokens are the same before that.
    """
    _smollm2_or_error()
    cases = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"][: sizes.continuations]
    ways: list[tuple[str, Any, str | None]] = [("float32", jnp.float32, "highest"), ("as used", None, None)]
    for name, dtype, precision in ways[:1] if jax.default_backend() == "cpu" else ways:  # there both are one
        lm = load_lm("smollm2", dtype=dtype)
        prompts = [Prompt(case["text"], case["prompt"], len(case["continuation"])) for case in cases]
        with jax.default_matmul_precision(precision):
            done = rollout(lm.decoder, static(0.0), prompts, key=jax.random.key(0), stop_ids=lm.stop_ids, rows=len(cases))
        same = [_alike(done.new_tokens(n), np.array(case["continuation"])) for n, case in enumerate(cases)]
        lengths = [len(case["continuation"]) for case in cases]
        found: dict[str, Any] = {"dtype": str(lm.decoder.model.embedding[...].dtype), "same": same, "of": lengths}
        tell(name, found | ({"sound": same == lengths} if name == "float32" else {}))


def kernel(sizes: Sizes, folder: Path, tell: Tell) -> None:
    """Draws from equal logits with equal chance, here and on the CPU.

    Sums of another order differ by rounding, so a number that lies at the border of two tokens may draw the other one: each
    draw must lie within `ROUNDING` of its token's part of [0, 1), by sums in float64 over the CPU's probabilities.
    """
    rows = max(sizes.rows)
    random = np.random.default_rng(0)
    logits = (3.0 * random.normal(size=(rows, sizes.vocabulary))).astype(np.float32)
    uniform = random.random(rows, np.float32)
    cpu = jax.local_devices(backend="cpu")[0]
    for name, settings in mixes(rows).items():
        here = np.asarray(sampling.draw(jnp.asarray(uniform), jnp.asarray(logits), settings))
        with jax.default_device(cpu):
            on_cpu = jax.device_put((uniform, logits, jax.tree.map(np.asarray, settings)), cpu)
            there = np.asarray(sampling.draw(*on_cpu))
            probabilities = np.asarray(sampling.probabilities(*on_cpu[1:]), np.float64)
        above = np.cumsum(probabilities, axis=1)
        row = np.arange(rows)
        high = above[row, here]
        low = high - probabilities[row, here]
        outside = np.maximum(np.maximum(low - uniform, uniform - high), 0.0)
        found = {"draws": rows, "differ": int(np.sum(here != there)), "furthest_outside": float(outside.max())}
        tell(name, found | {"sound": bool(outside.max() <= ROUNDING and (probabilities[row, here] > 0).all())})


def speed(sizes: Sizes, folder: Path, tell: Tell) -> None:
    """A step over the card's bandwidth, and tokens per second over those of transformers' `generate` beside it."""
    torch = {TRANSFORMERS.name: sys.executable} if available(TRANSFORMERS, sys.executable) else {}
    for name in sizes.models:
        if name == "smollm2" and (why := _no_smollm2()):
            tell(name, {"not_done": why})
            continue
        config, decoder, lm = load_decoder(name)
        subject = Subject(name, config, decoder, lm, 1, 32, 64, sizes.repeats, torch)
        for rows in sizes.rows:
            own = dataclasses.replace(subject, rows=rows)
            found = bandwidth(own)
            tell(f"{name}, {rows} rows", found.bars | found.details)
            if torch:
                beside = generate(own, ("bfloat16",))
                tell(f"{name}, {rows} rows, generate", beside.bars | beside.details)
            else:
                tell(f"{name}, {rows} rows, generate", {"not_done": f"no torch here: {TRANSFORMERS.install}"})


def repeated(sizes: Sizes, folder: Path, tell: Tell) -> None:
    """The same run in two processes, which compile it anew: are the bits the same?"""
    model, rows, budget = sizes.repeated
    if model == "smollm2" and (why := _no_smollm2()):
        tell("smollm2", {"not_done": f"{why}; tiny takes its place"})
        model = "tiny"
    ways = [("as it is", ""), (DETERMINISTIC, DETERMINISTIC)]
    for name, flags in ways if jax.default_backend() == "gpu" else ways[:1]:
        environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-m", "experiments.bench.same_run", model, str(rows), str(budget)]
        runs = [json.loads(_run(command, environment).splitlines()[-1]) for _ in range(2)]
        same = {f"same_{part}": runs[0][part] == runs[1][part] for part in runs[0]}
        tell(name, {"model": model, "rows": rows, "budget": budget, **same})


def digests(model: str, rows: int, budget: int) -> dict[str, str]:
    """SHA-256 of what a run at temperature 1 draws; of its tokens alone, and of their log-probabilities and entropies."""
    lm = load_lm(model)
    prompts = Subject(model, lm.config, lm.decoder, lm, rows, 16, budget, 1).prompts(rows, budget)
    options: dict[str, Any] = {"key": jax.random.key(0), "stop_ids": lm.stop_ids, "completions": 2, "rows": rows}
    done = rollout(lm.decoder, static(1.0), prompts, logprobs=True, **options)
    assert done.logprobs is not None
    parts = {"tokens": (done.tokens,), "bits": (done.tokens, done.logprobs, done.entropy)}
    return {name: hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest() for name, arrays in parts.items()}


def experiment(name: str, sizes: Sizes, folder: Path, tell: Tell) -> None:
    """An experiment from its start to its table."""
    flags = getattr(sizes, name)
    if "smollm2" in flags:
        _smollm2_or_error()
    run = folder / name
    shutil.rmtree(run, ignore_errors=True)  # of an earlier check
    start = time.perf_counter()
    _run([sys.executable, "-m", f"experiments.{name}", *flags.split(), "--run-dir", str(run)], dict(os.environ))
    seconds = time.perf_counter() - start
    tell(name, {"flags": flags, "seconds": seconds, "table": json.loads((run / "results.json").read_text())["rows"]})


class NotDone(Exception):
    """A part cannot be done here; the message says why."""


PARTS: dict[str, Callable[[Sizes, Path, Tell], None]] = {
    "greedy": greedy,
    "kernel": kernel,
    "speed": speed,
    "repeated": repeated,
    "math_token": functools.partial(experiment, "math_token"),
    "instructions_token": functools.partial(experiment, "instructions_token"),
}


def _no_smollm2() -> str:
    """Why there is no SmolLM2 here, and how to get it; empty where there is."""
    try:
        smollm2_file()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        return str(error)
    return ""


def _smollm2_or_error() -> None:
    if why := _no_smollm2():
        raise NotDone(why)


def _alike(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two texts begin with in common; all, only if they end alike, too."""
    count = min(len(a), len(b))
    return int(next(iter(np.flatnonzero(a[:count] != b[:count])), count if len(a) == len(b) else count - 1))


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    """A command's standard output. Raises RuntimeError with the end of its standard error where it fails."""
    ended = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with status {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout

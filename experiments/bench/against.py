"""Against other ways of decoding the same model on the same machine: `generate` of transformers, and Tunix's sampler."""

import functools
import time
from typing import Any

import jax
import numpy as np

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.learning.selection import candidates
from adaptive_jax.policies.fixed import InTurn, static
from experiments.bench.measure import Findings, alternate, compilations, quotient
from experiments.bench.opponent import TRANSFORMERS, TUNIX
from experiments.bench.subject import Subject

SEED = 0
CONFIG_PROMPTS, CONFIG_TOKENS = 16, 16


def generate(subject: Subject) -> Findings:
    """Bars `vs_generate_float32` and `vs_generate_bfloat16`: tokens per second over those of transformers' `generate`.

    Full vocabulary at temperature 1, prefill included on both sides. Ours computes in float32 on a CPU in both.
    """
    prompts = subject.prompts(subject.rows, subject.new_tokens)
    bars: dict[str, float | None] = {"vs_generate_float32": None, "vs_generate_bfloat16": None}
    details: dict[str, Any] = {"rows": subject.rows, "new_tokens": subject.new_tokens}

    def ours() -> object:
        return rollout(
            subject.decoder, static(1.0), prompts, key=jax.random.key(SEED), stop_ids=(), rows=subject.rows
        ).row_steps

    with subject.opponent(TRANSFORMERS) as other:
        if other is None:
            return Findings(bars, details)
        details["transformers"] = other.about
        tokens = [list(prompt.tokens) for prompt in prompts]
        ours()
        for dtype in ("float32", "bfloat16"):
            other.generate(tokens, 2, dtype=dtype)  # loads and warms up
            theirs = functools.partial(other.generate, tokens, subject.new_tokens, dtype=dtype)
            times = alternate({"ours": ours, dtype: theirs}, 1 if dtype == "bfloat16" else 2, warm_up=False)
            bars[f"vs_generate_{dtype}"] = quotient(times, dtype, "ours")
            details[dtype] = {
                name: subject.rows * subject.new_tokens / float(np.median(taken)) for name, taken in times.items()
            }
    return Findings(bars, details)


def configs(subject: Subject) -> Findings:
    """Bars `configs_compiles` and `configs_vs_tunix`: all 180 configurations on 16 prompts, compilations included.

    On Tunix one configuration of each kind of filter is timed, and the sum scaled to the kinds' numbers among the 180; it
    has no min-p, so those are left out on its side.
    """
    settings = candidates()
    prompts = subject.prompts(CONFIG_PROMPTS, CONFIG_TOKENS)
    jax.clear_caches()
    start = time.perf_counter()
    with compilations("decode_chunk") as compiled:
        rollout(
            subject.decoder,
            InTurn(SamplingParams.stack(settings)),
            prompts,
            key=jax.random.key(SEED),
            stop_ids=(),
            completions=len(settings),
            rows=subject.rows,
        )
    seconds = time.perf_counter() - start
    bars: dict[str, float | None] = {
        "configs_compiles": len(compiled),
        "configs_vs_tunix": None,
    }
    details: dict[str, Any] = {"seconds": seconds, "prompts": CONFIG_PROMPTS, "new_tokens": CONFIG_TOKENS}
    with subject.opponent(TUNIX) as tunix:
        if tunix is not None:
            tokens = [list(prompt.tokens) for prompt in prompts]
            no_filter = [s for s in settings if s.top_p == 1 and s.top_k == 0 and s.min_p == 0]
            top_p, top_k = [s for s in settings if s.top_p < 1], [s for s in settings if s.top_k > 0]
            one = functools.partial(tunix.generate, tokens, CONFIG_TOKENS)
            one(temperature=0.9)  # what is compiled once for all configurations
            parts = {
                "no filter": (len(no_filter), one(temperature=0.7).seconds[0]),
                "top-p": (len(top_p), one(temperature=0.7, top_p=0.9).seconds[0]),
                "top-k": (len(top_k), one(temperature=0.7, top_k=32).seconds[0]),
            }
            details["tunix"] = {"configurations_and_seconds_of_one": parts, **tunix.about}
            bars["configs_vs_tunix"] = sum(count * each for count, each in parts.values()) / seconds
    return Findings(bars, details)

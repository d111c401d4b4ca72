"""Against other ways of decoding the same model on the same machine: `generate` of transformers, and Tunix's sampler."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.rollout import rollout
from adaptive_jax.learning.selection import candidates
from adaptive_jax.policies.fixed import InTurn, static
from experiments.bench.measure import Findings, alternate, compilations, quotient
from experiments.bench.opponent import TRANSFORMERS, TUNIX
from experiments.bench.subject import Subject

SEED = 0
CONFIG_PROMPTS, CONFIG_TOKENS = 16, 16


def generate(subject: Subject, dtypes: Sequence[str] = ("float32", "bfloat16")) -> Findings:
    """Bars `vs_generate_float32` and `vs_generate_bfloat16`: tokens per second over those of transformers' `generate`.

    Full vocabulary at temperature 1, prefill included on both sides. Ours computes in float32 on a CPU in both.
    """
    bars: dict[str, float | None] = {f"vs_generate_{dtype}": None for dtype in dtypes}
    details: dict[str, Any] = {"rows": subject.rows}
    with subject.opponent(TRANSFORMERS) as other:
        if other is None:
            return Findings(bars, details)
        details["transformers"] = other.about
        # without bfloat16 units a CPU takes minutes for what takes one in float32: few tokens, one round
        slow = jax.default_backend() == "cpu" and not other.about["bfloat16_units"]
        for dtype in dtypes:
            few = slow and dtype == "bfloat16"
            new_tokens, rounds = min(subject.new_tokens, 8) if few else subject.new_tokens, 1 if few else 2
            prompts = subject.prompts(subject.rows, new_tokens)
            ours = functools.partial(_row_steps, subject, prompts)
            theirs = functools.partial(other.generate, [list(prompt.tokens) for prompt in prompts], new_tokens, dtype=dtype)
            other.generate([[1, 2, 3]], 2, dtype=dtype)  # loads and warms up
            ours()
            times = alternate({"ours": ours, dtype: theirs}, rounds, warm_up=False)
            bars[f"vs_generate_{dtype}"] = quotient(times, dtype, "ours")
            rates = {name: subject.rows * new_tokens / float(np.median(taken)) for name, taken in times.items()}
            details[dtype] = {"new_tokens": new_tokens, "tokens_per_second": rates}
    return Findings(bars, details)


def _row_steps(subject: Subject, prompts: Sequence[Prompt]) -> int:
    """Complete the prompts at temperature 1."""
    done = rollout(subject.decoder, static(1.0), prompts, key=jax.random.key(SEED), stop_ids=(), rows=subject.rows)
    return done.row_steps


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
            one = functools.partial(tunix.generate, tokens, CONFIG_TOKENS, dtype=subject.dtype)
            one(temperature=0.9)  # what is compiled once for all configurations
            kinds = {
                "no filter": (len(no_filter), one(temperature=0.7)),
                "top-p": (len(top_p), one(temperature=0.7, top_p=0.9)),
                "top-k": (len(top_k), one(temperature=0.7, top_k=32)),
            }
            details["tunix"] = {
                name: {"configurations": count, "seconds_of_one": done.seconds[0], "compilations_of_one": done.compilations[0]}
                for name, (count, done) in kinds.items()
            } | tunix.about
            bars["configs_vs_tunix"] = sum(count * done.seconds[0] for count, done in kinds.values()) / seconds
    return Findings(bars, details)

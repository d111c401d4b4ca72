"""One decoding step: how far from the bare matmuls, what sampling costs in it, and what the adapter adds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adaptive_jax.decoding import loop
from adaptive_jax.decoding.params import SamplingParams
from adaptive_jax.decoding.policy import Policy
from adaptive_jax.decoding.prefixes import SharedPrefixes
from adaptive_jax.decoding.prompt import Prompt
from adaptive_jax.decoding.queue import admit
from adaptive_jax.decoding.rings import round_up
from adaptive_jax.decoding.rows import Shape, empty_state
from adaptive_jax.decoding.sampling import draw
from adaptive_jax.decoding.waiting import Line
from adaptive_jax.learning.selection import candidates
from adaptive_jax.lm.decoder import TransformerDecoder
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.parallel import Replicas
from adaptive_jax.policies.fixed import static
from adaptive_jax.policies.token import token_adapter
from experiments.bench.measure import Findings, alternate, quotient
from experiments.bench.subject import Subject

STEPS = 8  # timed in one go


class Decoding:
    """Rows that decode under a policy, a chunk at each call; `budget` new tokens in all."""

    def __init__(self, subject: Subject, policy: Policy, budget: int):
        decoder, rows, length = subject.decoder, subject.rows, subject.prompt_tokens
        self._decoder, self._policy = decoder, policy
        self.size = round_up(length + budget)
        prompt, key = Prompt("prompt", (1,) * length, budget), jax.random.key(0)
        ring, nothing_shared = Shape(rows, self.size), SharedPrefixes(decoder, [])
        line = Line(decoder, policy, Replicas(), [prompt], rows, key, ring, length, nothing_shared)
        line.fill()
        empty = empty_state(decoder, key, line.hidden, rows=rows, size=self.size)
        self.state = admit(decoder, empty, line.queue, line.waiting())
        self._nobody = line.nobody()

    def __call__(self) -> object:
        stops = jnp.zeros((0,), jnp.int32)
        (self.state,), _, outputs = loop.decode_chunk(
            self._decoder, self._policy, stops, (self.state,), None, self._nobody, sizes=(self.size,), chunk=STEPS
        )
        return outputs


@functools.partial(jax.jit, static_argnames="steps")
def bare_matmuls(decoder: TransformerDecoder, x: jax.Array, cache: KVCache, *, steps: int = STEPS) -> jax.Array:
    """The matmuls of decoding steps and nothing else: projections, attention's two contractions, MLP, LM head.

    Args:
        x: [R, D]; what comes out of a matmul is fed to the next, so that none can be left out.
        cache: keys and values that the contractions run over.
    """
    model = decoder.model
    config = model.config
    rows, kv, d = len(x), config.num_kv_heads, config.head_dim

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        for index, block in enumerate(model.blocks):
            part = block.attention
            own = (x @ part.k.kernel[...] + x @ part.v.kernel[...]).reshape(rows, kv, 1, d)
            q = (x @ part.q.kernel[...]).reshape(rows, kv, -1, d) + own
            scores = jnp.einsum("bkgd,bkds->bkgs", q, cache.keys[index])
            mixed = jnp.einsum("bkgs,bksd->bkgd", scores, cache.values[index])
            x = mixed.reshape(rows, -1) @ part.o.kernel[...]
            x = (x @ block.mlp.gate.kernel[...] + x @ block.mlp.up.kernel[...]) @ block.mlp.down.kernel[...]
        logits = model.logits(x)
        return (x + logits[:, :1]).astype(x.dtype) * jnp.asarray(1e-3, x.dtype), None

    return jax.lax.scan(step, x, None, length=steps)[0]


@jax.jit
def stream(decoder: TransformerDecoder, cache: KVCache) -> list[jax.Array]:
    """Reads every parameter and the whole cache once: the memory bandwidth's share of a step."""
    return [jnp.max(leaf) for leaf in jax.tree.leaves((decoder, cache))]


def mixes(rows: int) -> dict[str, SamplingParams]:
    """Settings of a batch: all 180 candidates at random, none with a filter, and the slowest one in every row."""
    space = SamplingParams.stack(candidates())
    chosen = np.random.default_rng(0).integers(0, len(space), rows)
    return {
        "all 180 mixed": space[chosen],
        "temperature 1": SamplingParams(1.0).broadcast(rows),
        "top-p 0.98 at 2.5": SamplingParams(2.5, top_p=0.98).broadcast(rows),
    }


def step(subject: Subject) -> Findings:
    """Bars `step_over_matmuls`, `sampler_share` and `adapter_overhead`."""
    decoder, rows = subject.decoder, subject.rows
    hidden_size = subject.config.hidden_size
    adapter = Decoding(subject, token_adapter(hidden_size, budget_scale=subject.new_tokens), subject.new_tokens)
    plain = Decoding(subject, static(1.0), subject.new_tokens)
    cache = decoder.empty_cache(rows, round_up(subject.prompt_tokens + subject.new_tokens))
    x = jnp.ones((rows, hidden_size), decoder.model.embedding[...].dtype)
    logits = decoder.logits(adapter.state.hidden)
    uniform = jax.random.uniform(jax.random.key(1), (rows,))
    sides: dict[str, Any] = {
        "step, adapter": adapter,
        "step, static": plain,
        "matmuls": lambda: bare_matmuls(decoder, x, cache),
        "stream": lambda: [stream(decoder, cache) for _ in range(STEPS)],
    }
    for name, settings in mixes(rows).items():
        sides[f"sampling, {name}"] = lambda settings=settings: [draw(uniform, logits, settings) for _ in range(STEPS)]
    times = alternate(sides, subject.repeats)
    shares = {name: quotient(times, name, "step, static") for name in sides if name.startswith("sampling")}
    return Findings(
        {
            "step_over_matmuls": quotient(times, "step, adapter", "matmuls"),
            "sampler_share": max(shares.values()),
            "adapter_overhead": quotient(times, "step, adapter", "step, static") - 1.0,
        },
        {
            "seconds_per_step": {name: float(np.median(taken)) / STEPS for name, taken in times.items()},
            "sampler_shares": shares,
            "step_over_stream": quotient(times, "step, adapter", "stream"),
        },
    )

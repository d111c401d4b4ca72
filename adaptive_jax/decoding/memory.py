"""How much memory a rollout needs, from the model's shape alone: nothing is loaded or compiled."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from adaptive_jax.decoding.rings import TOGETHER, ring_shapes
from adaptive_jax.decoding.waiting import DEPTH, queue_shape
from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.transformer import KVCache
from adaptive_jax.lm.weights import shapes


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: the parameters.
        cache: keys and values in all rings; a ring that no completion comes to is not made.
        queue: those of prompts that wait for a row, and of a batch that comes next; where each prompt has many completions, the
            batch has fewer.
        step: what a decoding step computes and lets go again.
    """

    weights: int
    cache: int
    queue: int
    step: int

    @property
    def most(self) -> int:
        """At any moment."""
        return self.weights + self.cache + self.queue + self.step


def memory(config: LMConfig, *, rows: int, prompt: int, budget: int, dtype: jnp.dtype, chunk: int = 16) -> Memory:
    """What a rollout with one policy needs on one device.

    Args:
        config: the model's shape.
        rows: completions side by side.
        prompt: tokens of the longest prompt.
        budget: the largest token budget.
        dtype: of parameters and cache.
        chunk: as `rollout` takes it.

    Raises:
        ValueError: rows, prompt or budget is below 1, or prompt and budget exceed the model's context.
    """
    for name, value in (("rows", rows), ("prompt", prompt), ("budget", budget)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give at least 1")
    if prompt + budget > config.max_positions:
        raise ValueError(
            f"a prompt of {prompt} tokens and a budget of {budget} exceed the model's context of {config.max_positions}: "
            "lower one of them (a longrope model is for longer texts with --max-model-len)"
        )
    rings = ring_shapes(prompt, budget, min(chunk, budget), rows, config.reach)
    shapes_held = (*rings, queue_shape(rings[0], prompt))
    *caches, queue = (_bytes(jax.eval_shape(partial(KVCache.zeros, config, *shape, dtype=dtype))) for shape in shapes_held)
    # what XLA keeps at one time of a step, as its own reports show: logits with the sampling kernel's parts of them, or the
    # MLP's three activations, or the scores before and behind softmax
    rows = max(rows, sum(ring.rows for ring in rings[:2] if ring.size <= TOGETHER))
    logits = 4 * rows * config.vocab_size * 4 // 3
    mlp = 3 * rows * config.intermediate_size * dtype.itemsize
    scores = 2 * 4 * config.num_heads * max(ring.rows * ring.size for ring in rings)
    return Memory(_bytes(nnx.state(shapes(config, dtype))), sum(caches), queue + queue // DEPTH, max(logits, mlp, scores))


def described(need: Memory, name: str) -> str:
    """A few lines for people."""
    parts = {
        "weights": need.weights,
        "keys and values": need.cache,
        "prompts that wait": need.queue,
        "a decoding step": need.step,
        "at most": need.most,
    }
    return f"{name}\n" + "".join(f"  {part:<26}{size / 2**30:9.3f} GiB\n" for part, size in parts.items())


def _bytes(tree: object) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

"""What a rollout is said to need against what XLA reports of the compiled loop."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from adaptive_jax.__main__ import Memory
from adaptive_jax.decoding import loop
from adaptive_jax.decoding.memory import memory
from adaptive_jax.decoding.queue import Waiting, empty_queue
from adaptive_jax.decoding.rings import ring_shapes
from adaptive_jax.decoding.rows import empty_state
from adaptive_jax.lm.config import LMConfig
from adaptive_jax.lm.decoder import TransformerDecoder
from adaptive_jax.lm.model import load_config
from adaptive_jax.lm.transformer import Transformer
from adaptive_jax.policies.fixed import static

TINY = load_config("tiny")
WIDE_HEAD = dataclasses.replace(TINY, vocab_size=16384, num_layers=2)  # where logits are more than a third of all


@pytest.mark.parametrize(("config", "rows", "budget"), [(TINY, 128, 96), (WIDE_HEAD, 64, 200)])
def test_the_need_is_within_a_tenth_of_what_xla_reports(config: LMConfig, rows: int, budget: int) -> None:
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    decoder = TransformerDecoder(params, graphdef)
    hidden = jax.ShapeDtypeStruct((1, config.hidden_size), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rings = ring_shapes(40, budget, 16, rows)
    held = rings[0].rows * rings[0].size // (8 * 64)  # an eighth of the shortest ring, in prompts of 64 columns
    asked = functools.partial(empty_queue, prompts=2 * held, columns=64, entries=2 * rows)
    queue = jax.eval_shape(asked, decoder, key, hidden)
    states = [
        jax.eval_shape(functools.partial(empty_state, rows=ring.rows, size=ring.size), decoder, key, hidden) for ring in rings
    ]
    zero = jnp.int32(0)
    temporary = []
    for places in [[0], [0, 1]][: len(rings)]:
        sizes = tuple(rings[place].size for place in places)
        chunk = jax.jit(functools.partial(loop.decode_chunk, sizes=sizes, chunk=16), donate_argnums=3)
        own = tuple(states[place] for place in places)
        arguments = decoder, static(temperature=0.7), np.array([1], np.int32), own, queue, Waiting(zero, zero, zero)
        temporary.append(chunk.lower(*arguments).compile().memory_analysis().temp_size_in_bytes)
    need = memory(config, rows=rows, prompt=40, budget=budget, dtype=jnp.dtype(jnp.float32))
    assert need.weights == sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    kept, waiting = (sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in (states, queue))
    assert need.most == pytest.approx(need.weights + kept + 1.5 * waiting + max(temporary), rel=0.1)
    assert len(rings) == (1 if budget < 128 else 3)


def test_a_text_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt of 60 tokens and a budget of 1000 exceed the model's context of 1024"):
        memory(TINY, rows=8, prompt=60, budget=1000, dtype=jnp.dtype(jnp.bfloat16))


def test_rings_grow_by_half_and_have_fewer_rows() -> None:
    """By hand: 8,224 columns and two thirds of them, and so on, in 32s; a third of what 128 rows of 8,224 would be."""
    sizes = [288, 448, 704, 1056, 1600, 2432, 3648, 5472, 8224]
    rows = [128, 128, 128, 128, 128, 128, 96, 64, 40]
    assert ring_shapes(30, 8192, 16, 128) == list(zip(rows, sizes, strict=True))
    assert sum(r * s for r, s in zip(rows, sizes, strict=True)) < 1.8 * 128 * 8224
    assert ring_shapes(30, 8192, 16, 20)[-1] == (16, 8224)
    assert ring_shapes(30, 8192, 16, 4)[-1] == (4, 8224)
    assert ring_shapes(30, 96, 16, 128) == [(128, 128)]
    within = ring_shapes(30, 8192, 16, 128, 1000)
    assert [shape.size for shape in within] == [288, 448, 672, 1024]  # a window of 1000 in all layers
    assert ring_shapes(600, 8192, 16, 128, 500) == [(128, 512)]  # which a prompt may fill


def test_the_verb_says_what_the_function_counts() -> None:
    text, sound = Memory("tiny", rows=256, budget=512, prompt=64, dtype="float32")()
    need = memory(TINY, rows=256, prompt=64, budget=512, dtype=jnp.dtype(jnp.float32))
    assert sound
    assert "tiny: 256 rows of 64 + 512 tokens, float32" in text
    assert f"{need.most / 2**30:.3f} GiB" in text.splitlines()[-1]

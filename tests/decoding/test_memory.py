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
from adaptive_jax.decoding.rings import ring_shapes
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
    reports = []
    for shape in ring_shapes(40, budget, 16, rows):
        empty = functools.partial(loop.empty_state, rows=shape.rows, size=shape.size)
        state = jax.eval_shape(empty, decoder, jax.eval_shape(lambda: jax.random.key(0)), hidden)
        chunk = jax.jit(functools.partial(loop.decode_chunk, size=shape.size, chunk=16), donate_argnums=3)
        program = chunk.lower(decoder, static(temperature=0.7), np.array([1], np.int32), state, jnp.int32(0)).compile()
        reports.append(program.memory_analysis())
    need = memory(config, rows=rows, prompt=40, budget=budget, dtype=jnp.dtype(jnp.float32))
    assert need.weights == sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    states = sum(report.argument_size_in_bytes - need.weights for report in reports)
    reported = need.weights + states + max(report.temp_size_in_bytes for report in reports)
    assert need.most == pytest.approx(reported, rel=0.1)
    assert len(reports) == (1 if budget < 128 else 2)


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
